"""Every setting refuses what makes no sense, by flag and by file, before torch is imported."""

from __future__ import annotations

import dataclasses
import functools
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest
from jobs import refused_before_torch

from ml_train.config import flags
from ml_train.config.fields import Setting, settings
from ml_train.config.load import load_config, read_toml, replace_settings
from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import Range, Section, field_types
from ml_train.errors import ConfigError

SETTINGS = list(settings().values())
NUMBERS = [setting for setting in SETTINGS if setting.kind in (int, float)]
TEXTS = [setting for setting in SETTINGS if setting.kind is str]


@functools.cache
def parser() -> flags.FlagParser:
    made = flags.FlagParser("ml-train", "")
    flags.add_config_flags(made)
    return made


def message(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(flags.given_flags(parser().parse_args(arguments)))
    return str(caught.value)


def name_of(setting: Setting) -> str:
    return setting.key


@pytest.mark.parametrize("setting", NUMBERS, ids=name_of)
def test_every_number_has_a_range(setting: Setting) -> None:
    assert setting.declared.range is not None


@pytest.mark.parametrize("setting", NUMBERS, ids=name_of)
def test_numbers_that_no_device_computes_with(setting: Setting) -> None:
    if setting.kind is float:
        values = ["nan", "inf", "-inf", "1e39", "-1e39", "-1", "-.5E-3"]
    else:
        values = [str(2**63), str(-(2**63)), "-1"]
    for value in values:
        assert message(setting.flag, value).startswith(f"{setting.flag} is ")


@pytest.mark.parametrize("setting", NUMBERS, ids=name_of)
def test_numbers_in_a_file_and_in_a_recipe(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    value = "-inf" if setting.kind is float else "-9223372036854775808"
    text = f"[{value}]" if setting.is_tuple else value
    file.write_text(f"[{setting.section}]\n{setting.name} = {text}\n")
    assert message("--config", str(file)).startswith(f"{setting.flag} is ")
    given = float(value) if setting.kind is float else int(value)
    with pytest.raises(ConfigError, match=setting.flag):
        replace_settings(RunConfig(), {setting.name: (given,) if setting.is_tuple else given})


@pytest.mark.parametrize("setting", SETTINGS, ids=name_of)
def test_a_value_of_another_type_in_a_recipe(setting: Setting) -> None:
    wrong: object = "two" if setting.kind is not str else 2
    with pytest.raises(ConfigError, match=f"{setting.flag} is .* it must be"):
        replace_settings(RunConfig(), {setting.name: (wrong,) if setting.is_tuple else wrong})


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.kind is not bool], ids=name_of)
@pytest.mark.parametrize("value", ["", "  "])
def test_a_shell_variable_that_is_not_set(setting: Setting, value: str) -> None:
    for words in ([setting.flag, value], [f"{setting.flag}={value}"]):
        assert message(*words).startswith(f"{setting.flag} is empty; give a value")


@pytest.mark.parametrize("setting", TEXTS, ids=name_of)
def test_an_empty_text_in_a_file(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"[{setting.section}]\n{setting.name} = ''\n")
    assert message("--config", str(file)).startswith(f"{setting.flag} is empty; give a value")


@pytest.mark.parametrize("setting", [s for s in TEXTS if s.choices], ids=name_of)
def test_a_text_that_is_no_choice_names_the_choices(setting: Setting) -> None:
    assert f"it must be one of {', '.join(setting.choices)}" in message(setting.flag, "other")


def test_the_defaults_and_the_recipes_keep_the_rules() -> None:
    for setting in SETTINGS:
        assert setting.declared.fault(setting.default) is None, setting.key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--adam-beta1 1.0", "--adam-beta1 is 1.0; it must be from 0 to less than 1."),
        ("--adam-beta2 95", "--adam-beta2 is 95.0"),
        ("--adam-eps 0", "--adam-eps is 0.0; it must be above 0."),
        ("--init-method-std 0", "--init-method-std is 0.0; it must be above 0."),
        ("--seed 4294967296", "it must be from 0 to 4294967295."),
        ("--train-iters 2147483648", "--train-iters is 2147483648; it must be at most 2147483647."),
        ("--lr-warmup-fraction 1.1", "it must be from 0 to 1."),
        ("--exit-duration-in-mins 0", "it must be above 0."),
        ("--profile-ranks 0 -1", "--profile-ranks is 0 -1; it must be 0 or more."),
        ("--device tpu", "--device tpu: No platform is called 'tpu'; known: auto, cpu"),
        ("--data-path nan a 0.5 b", "weight nan is not a finite number"),
        ("--data-path 0.5 a inf b", "weight inf is not a finite number"),
        ("--recompute-granularity full --recompute-method uniform", "--recompute-num-layers"),
        ("--recompute-num-layers 2", "only with --recompute-granularity full"),
        ("--recipe= --lr 1", "--recipe is empty"),
        ("--seq-length 64 --model-override seq_length=128", "Give one of them"),
        ("--init-method-std 0.1 --model-override init_method_std=0.2", "init_method_std=0.2"),
        ("--recipe grok1-40b --model-override seq_length=64", "(recipe grok1-40b)"),
        ("--model-override moe_router_topk=1 renormalize_topk=true", "moe_router_topk is 1"),
        ("--model mixtral-tiny --model-override moe_router_topk=1", "would learn nothing"),
        ("--model-override rotary_base=Infinity", "rotary_base is inf"),
        ("--model-override attention_logit_cap=NaN", "attention_logit_cap is nan"),
        ("--model-override attention_logit_cap=true", "attention_logit_cap is True"),
        ("--model-override embedding_multiplier_scale=0", "greater than 0"),
    ],
)
def test_single_rules(arguments: str, words: str) -> None:
    assert words in message(*arguments.split())


def test_what_agrees_is_no_contradiction() -> None:
    same = ["--seq-length", "64", "--model-override", "seq_length=64", "moe_router_topk=1"]
    assert load_config(flags.parse(same)).model.seq_length == 64
    single = ["--model-override", "num_experts=1", "moe_router_topk=1"]
    assert load_config(flags.parse(single)).model.num_experts == 1


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbf[training]\nseed = 3\n")
    assert read_toml(file) == {"seed": 3}
    model = tmp_path / "model.json"
    model.write_bytes(b"\xef\xbb\xbf" + b'{"architecture": "grok1", "num_layers": 2}')
    given = flags.parse(["--model-config", str(model)])
    assert load_config(given).model.num_layers == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[model]\n# d\u00e9j\u00e0 vu\n".encode("latin-1"), "line 2 holds the byte 0xe9"),
        ("[model]\n".encode("utf-16"), "it is UTF-16"),
    ],
)
@pytest.mark.parametrize("flag", ["--config", "--model-config"])
def test_a_file_in_another_encoding(data: bytes, words: str, flag: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    assert message(flag, str(file)) == (f"{flag} {file} is not UTF-8: {words}. Save it as UTF-8.")


def test_a_key_that_is_twice_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[training]\ntrain_iters = 3\ntrain-iters = 4\n")
    assert "training.train_iters is given twice" in message("--config", str(file))


def test_a_section_of_ones_own() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(Section):
        size: Annotated[int | None, Range(above=2, at_most=4)] = None
        kind: Literal["a", "b"] | None = None
        parts: tuple[float, ...] = ()

    typing.get_type_hints(Mine, globals(), {"Range": Range})
    assert field_types(Mine)["kind"].choices == ("a", "b")
    Mine(size=3, kind="b", parts=(1.0, 2))
    for wrong in ({"size": 2}, {"size": 5}, {"kind": "c"}, {"parts": (1.0, "x")}, {"parts": 1.0}):
        with pytest.raises(ConfigError):
            Mine(**wrong)


@pytest.mark.parametrize(
    "arguments",
    [["--lr", "nan"], ["--save", ""], ["--lr", "1", "--lr", "2"], ["--device", "tpu"]],
    ids=" ".join,
)
def test_it_is_said_before_torch_is_imported(arguments: list[str]) -> None:
    told = refused_before_torch(*arguments)
    assert told.startswith("ml-train: error: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ("--lr-warmup-iters 2000 --train-iters 3", "--lr-warmup-iters 2000 with --train-iters 3"),
        ("--lr-warmup-iters 3 --train-iters 3", "never reaches --lr 0.001"),
        ("--lr-warmup-fraction 1.0 --train-iters 3", "--lr-warmup-fraction 1.0"),
        ("--lr-decay-style constant --lr-warmup-iters 9 --train-iters 3", "within the warm-up"),
        ("--lr-warmup-iters 2 --train-iters 3", None),
        ("--lr-warmup-iters 5 --lr-decay-iters 9 --train-iters 0", None),
    ],
)
def test_a_warm_up_that_the_run_does_not_finish_is_told(arguments: str, warned: str | None) -> None:
    warnings = load_config(flags.parse(arguments.split())).warnings
    assert [warned in text for text in warnings] == ([True] if warned else [])
