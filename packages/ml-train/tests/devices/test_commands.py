"""Evaluate, generate and a profile on the simulated npu."""

import json
from pathlib import Path

import pytest
from device_runs import MODEL, run, train
from tiny_runs import done, tokens

TOKENIZER = Path(__file__).parents[4] / "examples" / "data" / "grok1_tokenizer"
PROFILE = ("--profile", "--profile-step-start", 2, "--profile-step-end", 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with the tokenizer's vocabulary, and its tokens."""
    folder = tmp_path_factory.mktemp("commands")
    prefix = tokens(folder)
    model = tuple(word.replace("vocab_size=1024", "vocab_size=131072") for word in MODEL)
    done(train(folder / "run", prefix, *PROFILE, model=model, device="npu"))
    return folder / "run", prefix


def test_a_profile_has_the_operators_of_its_step(trained: tuple[Path, str]) -> None:
    (trace,) = (trained[0] / "profile").glob("*.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::mm", "_GateFunction"} <= names


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--max-tokens", 64),
        ("generate", "--prompt", "Once upon", "--max-new-tokens", 4, "--temperature", 0),
    ],
    ids=lambda words: words[0],
)
def test_a_command_says_what_it_says_on_the_cpu(
    tmp_path: Path, trained: tuple[Path, str], words: tuple[object, ...]
) -> None:
    folder, prefix = trained
    data = ("--data-path", prefix) if words[0] == "evaluate" else ()
    tokenizer = ("--tokenizer-name-or-path", TOKENIZER) if words[0] == "generate" else ()
    said = [
        done(run(tmp_path / device, *words, "--load", folder, *data, *tokenizer, device=device))
        for device in ("cpu", "npu")
    ]
    assert said[0].strip()
    assert said[1] == said[0]
