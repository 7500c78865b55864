"""Every flag of real scripts of the field has its documented effect or its documented refusal."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ml_train.config import flags
from ml_train.config.fields import settings
from ml_train.config.load import load_config
from ml_train.config.megatron_flags import REFUSED, STATEMENTS
from ml_train.errors import ConfigError

SCRIPTS_FOLDER = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[4]
SCRIPTS = ("grok1_40b_guide", "grok1_40b_2024_09", "mixtral_8x7b_mindspeed")
FILLED = {
    "TOKENIZER_MODEL": "tokenizer.model", "DATA_PATH": "data", "LOAD_PATH": "load",
    "SAVE_PATH": "save", "CKPT_LOAD_DIR": "load", "CKPT_SAVE_DIR": "save", "EP": "2",
    "TRANS_TYPE": "local", "TP": "4", "PP": "2", "CP": "1", "NUM_LAYERS": "32",
    "CP_TYPE": "megatron_cp_algo",
}  # fmt: skip


def script(name: str) -> list[tuple[str, ...]]:
    """(flag, value...) of each line of a script."""
    lines = (SCRIPTS_FOLDER / f"{name}.txt").read_text().splitlines()
    words = [tuple(line.split()) for line in lines if line.startswith("--")]
    return [tuple(FILLED.get(w.strip("<>"), w) for w in parts) for parts in words]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_flag_has_exactly_one_meaning(name: str) -> None:
    setting_flags = {s.flag for s in settings().values()} | {
        "--no-" + s.flag[2:] for s in settings().values() if s.kind is bool
    }
    for flag, *_ in script(name):
        meanings = [flag in setting_flags, flag in STATEMENTS, flag in REFUSED]
        assert sum(meanings) == 1, f"{flag} of {name}: setting, statement, refused = {meanings}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_refused_flags_come_in_one_message(name: str) -> None:
    arguments = [word for parts in script(name) for word in parts]
    with pytest.raises(ConfigError) as caught:
        flags.parse(arguments)
    lines = str(caught.value).splitlines()
    refused = [parts[0] for parts in script(name) if parts[0] in REFUSED]
    assert [line.partition(":")[0] for line in lines[1:]] == refused
    assert all(line.endswith(".") for line in lines[1:])


@pytest.mark.parametrize(
    ("name", "model"),
    [("grok1_40b_guide", "grok1-40b-guide"), ("mixtral_8x7b_mindspeed", "mixtral-8x7b")],
)
def test_what_is_left_of_a_script_loads(name: str, model: str) -> None:
    kept = [word for parts in script(name) if parts[0] not in REFUSED for word in parts]
    loaded = load_config(flags.parse(["--model", model, *kept]))
    assert loaded.config.training.global_batch_size == 128
    assert loaded.config.data.split == "99990,8,2"
    assert loaded.config.optimizer.lr_decay_iters == 1280
    assert loaded.config.checkpoint.no_load_optim and loaded.config.training.bf16
    # The guide's list of training flags lacks --save, which its script passes elsewhere.
    unsaved = ["checkpoint.save_interval (flag --save-interval) has no effect: without --save"]
    expected = [] if "--save" in kept else unsaved
    if "--overlap-param-gather" in kept:
        expected = ["parallel.overlap_param_gather (flag --overlap-param-gather) has no effect"]
    assert len(loaded.warnings) == len(expected)
    assert all(text in warning for text, warning in zip(expected, loaded.warnings, strict=True))


def test_a_flag_that_contradicts_the_model_names_both_and_the_way_out() -> None:
    kept = [w for p in script("grok1_40b_guide") if p[0] not in REFUSED for w in p]
    with pytest.raises(ConfigError) as caught:
        load_config(flags.parse(["--model", "grok1-40b", *kept]))
    text = str(caught.value)
    assert "--swiglu contradicts the model grok1-40b" in text
    assert "--untie-embeddings-and-output-weights contradicts the model grok1-40b" in text
    assert "--num-layers" not in text
    assert text.endswith("All these flags agree with --model grok1-40b-guide.")


def test_the_september_script_has_another_number_of_layers() -> None:
    kept = [w for p in script("grok1_40b_2024_09") if p[0] not in REFUSED for w in p]
    with pytest.raises(ConfigError, match="--num-layers 12 contradicts .* which has 8"):
        load_config(flags.parse(["--model", "grok1-40b-guide", *kept]))
    override = ["--model-override", "num_layers=12"]
    load_config(flags.parse(["--model", "grok1-40b-guide", *override, *kept]))


def agrees(flag: str, value: object, **facts: object) -> bool:
    model = SimpleNamespace(**facts)
    return STATEMENTS[flag].agrees(value, STATEMENTS[flag].fact(model))  # type: ignore[arg-type]


def test_statements_compare_values() -> None:
    assert agrees("--num-layers", "8", num_layers=8)
    assert not agrees("--num-layers", "12", num_layers=8)
    assert not agrees("--embedding-multiplier-scale", "78.4")  # a model without one
    assert agrees("--embedding-multiplier-scale", "78.38367", embedding_multiplier_scale=78.38367)
    assert agrees("--rotary-base", "1e6", rotary_base=1_000_000.0)
    assert agrees("--attention-dropout", "0.0") and agrees("--attention-dropout", "0")
    assert not agrees("--attention-dropout", "0.1")
    assert agrees("--normalization", "RMSNorm") and not agrees("--normalization", "LayerNorm")
    assert agrees("--max-position-embeddings", "8192", seq_length=4096)
    assert not agrees("--max-position-embeddings", "2048", seq_length=4096)
    assert agrees("--group-query-attention", True, num_query_groups=8, num_attention_heads=48)
    assert not agrees("--group-query-attention", True, num_query_groups=8, num_attention_heads=8)


@pytest.mark.parametrize("flag", REFUSED)
def test_refused_flags_take_no_value_from_their_neighbours(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: "):
        flags.parse(["--seed", "3", flag, "value", "--lr", "1"])
    with pytest.raises(ConfigError, match=f"{flag}: "):
        flags.parse([f"{flag}=value"])


@pytest.mark.parametrize(
    "launcher", sorted(path.name for path in (ROOT / "examples").glob("*/pretrain_*.sh"))
)
def test_launchers_parse(launcher: str, tmp_path: Path) -> None:
    stub = tmp_path / "ml-train-launch"
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    path = next((ROOT / "examples").glob(f"*/{launcher}"))
    done = subprocess.run(
        ["bash", str(path)],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "NNODES": "2"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    words = done.stdout.splitlines()
    loaded = load_config(flags.parse(words[words.index("pretrain") + 1 :]))
    assert loaded.warnings == []
