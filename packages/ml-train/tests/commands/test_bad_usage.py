"""A mistake in a command's own flags ends it before torch is imported."""

from __future__ import annotations

import pytest
from jobs import refused_before_torch

RECIPE = "--recipe grok1-tiny --data-path nowhere --global-batch-size 8"
GENERATE = "--load nowhere --prompt x"


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("evaluate", "--load nowhere --data-path nowhere --max-tokens 0", "--max-tokens is 0"),
        (
            "generate",
            f"{GENERATE} --tokenizer-name-or-path nowhere --top-p 2",
            "above 0 and at most 1",
        ),
        (
            "generate",
            f"{GENERATE} --tokenizer-name-or-path nowhere",
            "--tokenizer-name-or-path: ",
        ),
        (
            "pretrain",
            "--model grok1-tiny --mock-data --device cpu --use-flash-attn",
            "not flash: flash-attn runs on cuda, not on cpu",
        ),
        ("index", "--recipe grok1-tiny --mock-data", "there are no sample indexes to build"),
        ("verify-layouts", f"{RECIPE} --lr 1", "verify-layouts chooses --lr itself"),
        ("verify-resume", f"{RECIPE} --verify-steps 0", "--verify-steps is 0"),
        (
            "verify-upgrade",
            f"{RECIPE} --from nowhere --to nowhere --tolerance 2",
            "--tolerance is 2",
        ),
    ],
)
def test_it_ends_before_torch_is_imported(command: str, flags: str, words: str) -> None:
    assert words in refused_before_torch(*flags.split(), command=command)
