"""The JSON document of a plan and the page that describes it name the same keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_train.cli import main

PAGE = Path(__file__).parents[4] / "docs" / "planning.md"
RUN = (
    *("plan", "--model", "grok1-tiny", "--seq-length", "64", "--global-batch-size", "8"),
    *("--device", "h100", "--nproc-per-node", "4", "--micro-batch-size", "2"),
    *("--model-override", "vocab_size=512", "hidden_size=32"),
    *("--tensor-model-parallel-size", "2", "--pipeline-model-parallel-size", "2"),
)


def keys(value: object, name: str = "") -> Iterator[str]:
    """The keys of a document as the page writes them: a.b, and a[].b for the entries of a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{name}[]")
    else:
        yield name


@pytest.mark.skipif(not PAGE.exists(), reason="the page is in the repository, not in a package")
def test_the_page_names_every_key_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    chapter = PAGE.read_text(encoding="utf-8").partition("## The JSON document")[2]
    named = set(re.findall(r"^\| `([^`]+)` \|", chapter.partition("\n## ")[0], re.MULTILINE))
    # How long a step takes has a chapter of its own.
    document_keys = {key for key in keys(document) if not key.startswith("time.")}
    assert document_keys == named
