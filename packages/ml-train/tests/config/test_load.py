"""Recipe, TOML file and flags become one configuration, and mistakes become one clear message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jobs import refused_before_torch

from ml_train.config import flags, recipes
from ml_train.config.fields import settings
from ml_train.config.ineffective import RULES
from ml_train.config.load import load_config, read_toml
from ml_train.errors import ConfigError


def load(*arguments: str):
    return load_config(flags.parse(arguments))


def message(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value)


def test_later_wins_and_origins_are_told(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\ntrain_iters = 30\nseed = 5\n[optimizer]\nlr = 1\n")
    loaded = load("--recipe", "grok1-tiny", "--config", str(file), "--seed", "6", "--no-bf16")
    table = {key: (value, origin) for key, value, origin in loaded.table()}
    assert table["training.train_iters"] == (30, f"file {file}")
    assert table["training.seed"] == (6, "flag --seed")
    assert table["training.bf16"] == (False, "flag --no-bf16")
    assert table["optimizer.lr"] == (1.0, f"file {file}")
    assert table["parallel.tensor_model_parallel_size"] == (2, "recipe grok1-tiny")
    assert table["training.deterministic_mode"] == (False, "default")
    assert len(table) == len(settings())


def test_a_repeated_flag_is_refused_unless_nothing_is_lost() -> None:
    fault = message("--train-iters", "3", "--train-iters", "4")
    assert fault == "--train-iters is given twice, as 3 and as 4; give it once."
    assert "as a b and as a" in message("--data-path", "a", "b", "--data-path=a")
    fault = message("--bf16", "--lr", "1", "--no-bf16")
    assert fault == "--bf16 and --no-bf16 contradict each other; give one of them."
    assert load("--train-iters", "3", "--lr=2", "--train-iters=3").config.training.train_iters == 3
    assert "gives num_layers twice" in message("--model-override", "num_layers=2", "num_layers=4")


def test_flags_behind_two_dashes_win_over_a_scripts_own() -> None:
    given = flags.parse(
        ["--train-iters", "3", "--lr", "1e-3", "--bf16", "--", "--train-iters", "4"]
    )
    assert given.values["train_iters"] == 4
    assert given.values["lr"] == 1e-3
    assert "given twice" in message("--", "--lr", "1e-3", "--lr", "2e-3")


def test_unknown_flag_names_the_nearest() -> None:
    assert message("--tensor-model-paralel-size", "2") == (
        "Unknown flag --tensor-model-paralel-size. Did you mean --tensor-model-parallel-size?"
    )
    assert message("--lr-warmup", "2").startswith("Unknown flag --lr-warmup.")  # no abbreviations
    assert "Unknown argument stray" in message("stray")


def test_token_dropping_is_refused_with_tensor_parallelism() -> None:
    given = ("--recipe", "grok1-tiny", "--moe-expert-capacity-factor", "1.0")
    fault = message(*given)
    assert "--moe-expert-capacity-factor 1.0 with --tensor-model-parallel-size 2" in fault
    assert "rule: TP 1" in fault
    factor = load(*given, "--tensor-model-parallel-size", "1").config.model
    assert factor.moe_expert_capacity_factor == 1.0
    assert "must be above 0" in message("--moe-expert-capacity-factor", "0")


def test_malformed_flags() -> None:
    assert "invalid int value: 'many'" in message("--train-iters", "many")
    assert "expected one argument" in message("--lr")


def test_unknown_keys_of_a_file_name_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for text, wanted in (
        ("[training]\ntrain_itres = 3\n", "Did you mean train_iters?"),
        ("[trainning]\nseed = 3\n", "Did you mean training?"),
        ("[training]\nlr = 3.0\n", "key 'lr' of [training] is unknown."),
        ("[training]\nseed = '3'\n", "training.seed: '3' is not of type int"),
        ("[training]\nbf16 = 1\n", "training.bf16: 1 is not of type bool"),
        ("[training\n", "is not TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_toml(file)
        assert wanted in str(caught.value) and str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_toml(tmp_path / "absent.toml")


def test_lists_in_files_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[data]\ndata_path = ["0.3", "a", "0.7", "b"]\n[logging]\nprofile_ranks = 3\n')
    assert read_toml(file) == {"data_path": ("0.3", "a", "0.7", "b"), "profile_ranks": (3,)}
    assert load("--data-path", "0.3", "a", "0.7", "b").config.data.data_path[1] == "a"


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in recipes.RECIPES:
        assert load("--recipe", name).config == recipes.RECIPES[name]()
    (tmp_path / "my_recipes.py").write_text(
        "from ml_train.config.recipes import grok1_tiny as mine\ndef wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load("--recipe", "my_recipes:mine").config == recipes.grok1_tiny()
    assert "returned int; a recipe returns a RunConfig" in message("--recipe", "my_recipes:wrong")
    assert "cannot be loaded" in message("--recipe", "my_recipes:absent")
    assert "Did you mean grok1-tiny?" in message("--recipe", "grok1-tinny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--overlap-param-gather", "add --use-distributed-optimizer"),
        ("--lr-warmup-iters 9 --lr-decay-iters 8", "warm-up is part of the decay"),
        ("--lr-warmup-iters 9 --lr-warmup-fraction 0.1", "not both"),
        ("--min-lr 1 --lr 0.1", "--min-lr 1.0 is above --lr 0.1"),
        ("--recompute-granularity full", "needs --recompute-method"),
        ("--recompute-method block", "only with --recompute-granularity full"),
        ("--context-parallel-size 2", "only 1 is supported"),
        ("--micro-batch-size 0", "--micro-batch-size is 0; it must be 1 or more"),
        ("--tokenizer-model a --tokenizer-name-or-path b", "not both"),
        ("--tokenizer-type GPT2BPETokenizer", "must be one of PretrainedFromHF, Llama2Tokenizer"),
        ("--data-path a --valid-data-path b", "not both"),
        ("--data-path 0.5 a 0.5", "pairs of weight and prefix"),
        ("--data-path 0.5 a 0 b", "weight 0 is not above 0; leave its prefix out"),
        ("--split 1,x", "up to three shares"),
        ("--split 0,0", "positive sum"),
        ("--keep-last 0 --save x", "--keep-last is 0"),
        ("--profile-step-start 5 --profile-step-end 5", "1 <= start < end"),
        ("--nan-loss-policy ignore", "must be one of stop, skip, rollback"),
        ("--spiky-loss-factor 1.0", "above 1, as it multiplies"),
        ("--max-rollbacks -1", "--max-rollbacks is -1; it must be 0 or more"),
        ("--nan-grad-policy rollback --save x", "give --save and --save-interval"),
        ("--distributed-timeout-minutes 0.01", "from 0.05 (3 seconds)"),
        ("--wandb-project p", "below --save, which is not given"),
        ("--execution compild", "must be one of eager, compiled"),
        ("--model grok1-tiny2", "'grok1-tiny2' is not known"),
        ("--model-override num_layer=3", "num_layers"),
    ],
)
def test_contradictions(arguments: str, words: str) -> None:
    assert words in message(*arguments.split())


@pytest.mark.parametrize("key", [key for key, _, _ in RULES])
def test_every_rule_of_ineffective_settings_can_fire(key: str, tmp_path: Path) -> None:
    setting = settings()[key.partition(".")[2]]
    assert setting.key == key
    given = {
        "split": ["--split", "1,0,0"],
        "moe_aux_loss_coeff": ["--moe-router-load-balancing-type", "none"],
        "min_lr": ["--lr-decay-style", "constant"],
        "lr_decay_iters": ["--lr-decay-style", "constant"],
        "overlap_param_gather": ["--use-distributed-optimizer", "--overlap-grad-reduce"],
        "model": ["--model-config", str(tmp_path / "model_config.json")],
        "nan_loss_policy": ["--no-check-for-nan-in-loss-and-grad"],
        "nan_grad_policy": ["--no-check-for-nan-in-loss-and-grad"],
        "data_cache_path": ["--mock-data"],
        "shared_storage": ["--mock-data"],
        "no_mmap_bin_files": ["--mock-data"],
    }.get(setting.name, [])
    value = {int: "2", float: "1e-4", str: "grok1-tiny", bool: ""}[setting.kind]
    value = {"split": "1,0,0", "tokenizer_type": "Llama2Tokenizer", "profile_step_end": "20"}.get(
        setting.name, value
    )
    value = "skip" if setting.name.endswith("_policy") else value
    value = "3.0" if setting.name.endswith("_factor") else value
    if setting.name == "model":
        import json

        from ml_models import registry

        text = json.dumps(registry.get("grok1-tiny").to_dict())
        (tmp_path / "model_config.json").write_text(text)
    loaded = load(*given, setting.flag, *([value] if value else []))
    assert [w for w in loaded.warnings if w.startswith(f"{key} (flag {setting.flag}) has no")]


def test_effective_settings_bring_no_warning() -> None:
    launcher = "--eval-iters 2 --eval-interval 3 --data-path p --split 9,1 --load x --no-load-optim"
    assert load(*launcher.split()).warnings == []


def test_show_config_prints_a_file_that_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ml_train.commands import show_config

    parser = flags.FlagParser("ml-train show-config", "")
    show_config.add_arguments(parser)
    given = ["--recipe", "grok1-40b", "--data-path", "0.5", "a b", "0.5", 'c"', "--keep-every", "3"]
    assert show_config.run(parser.parse_args(given)) == 0
    shown = capsys.readouterr().out
    assert "# warning: checkpoint.keep_every (flag --keep-every) has no effect" in shown
    assert "# recipe grok1-40b" in shown and "# default" in shown
    assert "# attention         blocked  the default on cpu" in shown
    file = tmp_path / "shown.toml"
    file.write_text(shown)
    assert load("--config", str(file)).config == load(*given).config


def test_show_config_names_the_form_that_a_flag_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ml_train.commands import show_config

    parser = flags.FlagParser("ml-train show-config", "")
    show_config.add_arguments(parser)
    given = ["--device", "cpu", "--attention-backend", "unfused"]
    assert show_config.run(parser.parse_args(given)) == 0
    assert "# attention         reference  --attention-backend unfused" in capsys.readouterr().out


def test_a_form_that_cannot_serve_is_refused_by_name_after_the_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ml_train.commands import show_config

    parser = flags.FlagParser("ml-train show-config", "")
    show_config.add_arguments(parser)
    given = parser.parse_args(["--device", "cpu", "--use-flash-attn", "--model", "grok1-tiny"])
    with pytest.raises(ConfigError) as refused:
        show_config.run(given)
    for words in ("--use-flash-attn", "not flash: flash-attn runs on cuda", "not sdpa: it has no"):
        assert words in str(refused.value)
    assert "# attention         refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags_given", "asked"),
    [
        ("", "auto"),
        ("--use-flash-attn", "flash"),
        ("--attention-backend local", "local"),
        ("--use-flash-attn --attention-backend flash", "flash"),
    ],
)
def test_requests_of_attention(flags_given: str, asked: str) -> None:
    assert load(*flags_given.split()).config.kernels.settings().attention == asked


def test_two_requests_of_attention_contradict() -> None:
    with pytest.raises(ConfigError, match="--use-flash-attn and --attention-backend local"):
        load("--use-flash-attn", "--attention-backend", "local")


def test_every_field_has_a_text() -> None:
    assert [s.key for s in settings().values() if not s.text.endswith(".")] == []


def test_configuration_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from ml_train.config import flags, load\n"
        "load.load_config(flags.parse(['--train-iters', '3']))\n"
        "print([m for m in ('torch', 'megatron', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bogus"], "Unknown flag --bogus."),
        (["--use-mc2"], "Not supported here:"),
        (["--model", "grok1-tiny", "--num-layers", "5"], "contradicts the model grok1-tiny"),
        (["--train-iters", "x"], "invalid int value"),
    ],
)
def test_a_wrong_command_line_ends_before_torch_is_imported(
    arguments: list[str], words: str
) -> None:
    told = refused_before_torch(*arguments)
    assert words in told
