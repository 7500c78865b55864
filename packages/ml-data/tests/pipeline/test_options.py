"""The options of tokenize are declared once: flags, keywords and workers follow from the fields."""

import argparse
import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest

import ml_data
from ml_data.commands.tokenize import add_arguments
from ml_data.errors import UsageError
from ml_data.pipeline.encode import EncodingJob
from ml_data.pipeline.options import TokenizeOptions, flag_of, flags

NAMES = [option.name for option in fields(TokenizeOptions)]
REQUIRED = {"input": "a", "tokenizer_name_or_path": "t", "output_prefix": "p"}


def test_every_option_has_a_flag_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    required = ["--input", "a", "--tokenizer-name-or-path", "t", "--output-prefix", "p"]
    parsed = vars(parser.parse_args(required))
    assert set(parsed) == {*NAMES, "dry_run", "json"}
    made = TokenizeOptions(**{name: parsed[name] for name in NAMES})
    assert made == TokenizeOptions(**REQUIRED)  # type: ignore[arg-type]
    assert all(flags()[name]["help"] for name in NAMES)


def test_every_option_is_a_keyword_of_the_api() -> None:
    parameters = inspect.signature(ml_data.tokenize).parameters
    keywords = set(parameters) - {"tokenizer", "on_progress", "on_notice"}
    assert keywords == set(NAMES) - {"tokenizer_name_or_path"}
    assert parameters["on_error"].default == "quarantine"


def test_an_unknown_keyword_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'apend_eod': did you mean app"
    ):
        ml_data.tokenize("a", "t", tmp_path / "p", apend_eod=True)


def test_a_single_name_is_as_good_as_a_sequence() -> None:
    made = TokenizeOptions(**{**REQUIRED, "input": Path("a"), "json_keys": "body"})  # type: ignore[arg-type]
    assert (made.input, made.json_keys) == (("a",), ("body",))


def test_a_job_crosses_to_another_process_as_json() -> None:
    options = TokenizeOptions(**REQUIRED, json_keys=("a", "b"), eod_id=2, append_eod=True)  # type: ignore[arg-type]
    job = EncodingJob(
        options=options, tokenizer_path="t", fingerprint="f", dtype="<i4", eod_id=2, bos_id=None
    )
    assert EncodingJob.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize("name", ["on_error", "executor", "input_checksums"])
def test_a_choice_that_does_not_exist_names_those_that_do(name: str) -> None:
    choices = flags()[name]["choices"]
    with pytest.raises(UsageError, match=f"{flag_of(name)} odd: choose from {', '.join(choices)}"):
        TokenizeOptions(**REQUIRED, **{name: "odd"})  # type: ignore[arg-type]
