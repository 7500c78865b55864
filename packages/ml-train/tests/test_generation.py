"""Sampling, and a checkpoint of two processes opened by one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from token_files import write_tokens

from ml_train.bring_up import start_platform
from ml_train.errors import CheckpointError, ConfigError, DataError
from ml_train.generation.evaluate import Evaluation, evaluate_files, windows
from ml_train.generation.next_token import generate, next_token
from ml_train.generation.sampling import Sampling

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TOKENIZER = ROOT / "examples" / "data" / "grok1_tokenizer"


def draws(sampling: Sampling, logits: list[float], count: int = 400) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    return [next_token(torch.tensor(logits), sampling, generator) for _ in range(count)]


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    counts = np.bincount(draws(Sampling(), logits, 2000), minlength=4) / 2000
    assert counts == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert set(draws(Sampling(temperature=0), logits)) == {0}
    assert set(draws(Sampling(top_k=2), logits)) == {0, 1}
    assert set(draws(Sampling(top_p=0.5), logits)) == {0}
    assert set(draws(Sampling(top_p=0.51), logits)) == {0, 1}
    assert set(draws(Sampling(top_p=1.0, top_k=4), logits)) == {0, 1, 2, 3}
    sharp = np.bincount(draws(Sampling(temperature=0.5), logits, 2000), minlength=4) / 2000
    assert sharp[0] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"top_k": 0}, "--top-k is 0"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"temperature": 0.0, "top_k": 3}, "no effect with --temperature 0"),
    ],
)
def test_settings_of_sampling_are_checked(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sampling(**settings)


def test_generation_stops_and_slides() -> None:
    seen: list[list[int]] = []

    def successor(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens[0].tolist())
        return torch.nn.functional.one_hot((tokens + 1) % 10, 10).float() * 50

    def run(prompt: list[int], **changes) -> list[int]:
        settings = {"max_new_tokens": 5, "max_length": 3, "seed": 1, "eod_id": 9}
        sampling = Sampling(temperature=0)
        return list(generate(successor, prompt, sampling=sampling, **{**settings, **changes}))

    assert run([1, 2]) == [3, 4, 5, 6, 7]
    assert seen[-1] == [4, 5, 6]
    assert run([6]) == [7, 8, 9]
    assert run([6], eod_id=None) == [7, 8, 9, 0, 1]


def test_windows_predict_each_token_once() -> None:
    tokens = np.arange(11)
    for length in (1, 3, 10, 50):
        pieces = list(windows(tokens, length, None))
        assert np.concatenate([piece[1:] for piece in pieces]).tolist() == list(range(1, 11))
    assert [len(piece) for piece in windows(tokens, 4, 6)] == [5, 3]
    assert list(windows(tokens[:1], 4, None)) == []


def test_evaluation_sums_over_files(tmp_path: Path) -> None:
    prefix = write_tokens(tmp_path / "tokens", lengths=[5, 8, 4])

    def losses(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert (labels - tokens == 1).all() and len(tokens) <= 2
        return labels.float()

    settings = {"vocab_size": 17, "sequence_length": 3, "batch_size": 2, "max_tokens": None}
    found = evaluate_files(losses, [prefix], **settings)
    assert found == {prefix: Evaluation(loss_sum=136.0, num_tokens=16)}
    assert found[prefix].loss == 8.5 and found[prefix].perplexity == pytest.approx(4914.77, 1e-5)
    with pytest.raises(DataError, match="document 2 holds the token id 16 at offset 3, .* 0 to 15"):
        evaluate_files(losses, [prefix], **{**settings, "vocab_size": 16})
    one = write_tokens(tmp_path / "one", lengths=[1])
    with pytest.raises(DataError, match="no token to predict"):
        evaluate_files(losses, [one], **settings)


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
        HERE / "generation_worker.py", folder, prefix,
    )  # fmt: skip
    return folder, prefix


def test_evaluate_gives_the_loss_of_the_parallel_model(trained: tuple[Path, str]) -> None:
    folder, prefix = trained
    shown = command(
        "evaluate", "--load", folder, "--data-path", prefix, "--max-tokens", 64, "--device", "cpu"
    )
    wanted = json.loads((folder / "loss.json").read_text())
    found = re.search(r"loss ([\d.]+)  perplexity [\d.]+  tokens (\d+)", shown)
    assert found and int(found[2]) == wanted["tokens"] == 64
    assert float(found[1]) == pytest.approx(wanted["loss"], rel=1e-5)


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
    found = sampled
    assert found["cached"]["tokens"] == found["whole"]["tokens"]
    assert found["whole"]["lengths"] == [*range(9, 17), *[16] * 4]
    # One pass per new token; once the window slides, all positions shift.
    assert found["cached"]["lengths"] == [9, *[1] * 7, *[16] * 4]
    assert found["difference"] < 1e-5


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
