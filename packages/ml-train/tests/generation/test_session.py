"""A checkpoint of two processes opened by one: evaluate, generate, the cache."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from token_files import write_tokens

from ml_train.bring_up import start_platform
from ml_train.errors import CheckpointError

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
TOKENIZER = ROOT / "examples" / "data" / "grok1_tokenizer"


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def command(name: str, *arguments: object) -> str:
    code = (
        "import sys\n"
        f"from ml_train.commands import {name} as command\n"
        "from ml_train.config.flags import FlagParser\n"
        f"parser = FlagParser('ml-train {name}', '')\n"
        "command.add_arguments(parser)\n"
        "sys.exit(command.run(parser.parse_args(sys.argv[1:])))\n"
    )
    return python("-c", code, *arguments).stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkpoint written by TP 2, and the token files of its loss.json."""
    folder = tmp_path_factory.mktemp("run")
    prefix = write_tokens(folder / "tokens", lengths=[30, 50], first=100)
    python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        HERE / "worker.py", folder, prefix,
    )  # fmt: skip
    return folder, prefix


def test_evaluate_gives_the_loss_of_the_parallel_model(trained: tuple[Path, str]) -> None:
    folder, prefix = trained
    shown = command(
        "evaluate", "--load", folder, "--data-path", prefix, "--max-tokens", 64, "--device", "cpu"
    )
    wanted = json.loads((folder / "loss.json").read_text())
    loss_line = re.search(r"loss ([\d.]+)  perplexity [\d.]+  tokens (\d+)", shown)
    assert loss_line and int(loss_line[2]) == wanted["tokens"] == 64
    assert float(loss_line[1]) == pytest.approx(wanted["loss"], rel=1e-5)


SAMPLES = """
import json, sys
from ml_train.bring_up import start_platform

platform = start_platform("cpu")
from ml_train.generation.evaluate import evaluate_files
from ml_train.generation.next_token import generate
from ml_train.generation.sampling import Sampling
from ml_train.generation.session import open_model

prompt, greedy = list(range(100, 109)), Sampling(temperature=0)
settings = {"max_new_tokens": 12, "max_length": 16, "sampling": greedy, "seed": 1, "eod_id": None}
found = {}
with open_model(sys.argv[1], platform) as model:
    for name in ("whole", "cached"):
        logits_of, lengths, last = model.logits, [], []
        if name == "cached":
            logits_of = model.remembering()

        def observed(tokens):
            logits = logits_of(tokens)
            lengths.append(logits.shape[1])
            last.append(logits[0, -1])
            return logits

        tokens = list(generate(observed, prompt, **settings))
        found[name] = {"tokens": tokens, "lengths": lengths, "last": last}
    pairs = zip(found["whole"].pop("last"), found["cached"].pop("last"))
    found["difference"] = max(float((a - b).abs().max()) for a, b in pairs)
found["losses"] = []
for bf16 in (False, True):
    with open_model(sys.argv[1], platform, bf16=bf16) as model:
        files = evaluate_files(
            model.losses, [sys.argv[2]],
            vocab_size=131072, sequence_length=16, batch_size=2, max_tokens=64,
        )
        found["losses"].append(files[sys.argv[2]].loss)
        if bf16:
            tokens = len(list(generate(model.remembering(), prompt, **settings)))
            dtype = str(next(model.module.parameters()).dtype)
            found["bf16"] = {"tokens": tokens, "dtype": dtype}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def sampled(trained: tuple[Path, str]) -> dict:
    return json.loads(python("-c", SAMPLES, *trained).stdout.splitlines()[-1])


def test_a_cache_of_keys_and_values_changes_nothing(sampled: dict) -> None:
    loss_line = sampled
    assert loss_line["cached"]["tokens"] == loss_line["whole"]["tokens"]
    assert loss_line["whole"]["lengths"] == [*range(9, 17), *[16] * 4]
    # One pass per new token; once the window slides, all positions shift.
    assert loss_line["cached"]["lengths"] == [9, *[1] * 7, *[16] * 4]
    assert loss_line["difference"] < 1e-5


def test_bf16_is_near_fp32(sampled: dict) -> None:
    whole, half = sampled["losses"]
    assert whole != half == pytest.approx(whole, rel=5e-3)
    assert sampled["bf16"] == {"tokens": 12, "dtype": "torch.bfloat16"}


def test_generate_continues_a_prompt(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    given = ["--load", folder / "iter_0000003", "--tokenizer-name-or-path", TOKENIZER]
    given += ["--prompt", "Hello world", "Tips:", "--max-new-tokens", 4, "--device", "cpu"]
    shown = command("generate", *given)
    assert "[" + str(folder / "iter_0000003") + "]\nHello world" in shown and "\nTips:" in shown
    assert len(shown) > len(f"[{folder}/iter_0000003]\nHello world\nTips:\n")


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    platform = start_platform("cpu")
    from ml_train.generation.session import open_model

    with pytest.raises(CheckpointError, match="does not exist"):
        with open_model(str(tmp_path / "absent"), platform):
            pass
    assert not torch.distributed.is_initialized()
