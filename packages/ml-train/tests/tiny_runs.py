"""Starts of poisoned_run.py on a model of 40 thousand parameters."""

import atexit
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from token_files import write_tokens

HERE = Path(__file__).parent

LENGTH, BATCH = 8, 4
MODEL = (
    *("--model", "grok1-tiny", "--seq-length", str(LENGTH), "--model-override", "vocab_size=1024"),
    *("num_layers=2", "hidden_size=16", "ffn_hidden_size=32", "num_experts=2", "kv_channels=8"),
    *("num_attention_heads=2", "num_query_groups=2"),
)
STEPS = (
    *("--train-iters", "8", "--global-batch-size", str(BATCH), "--lr", "1e-2"),
    *("--lr-warmup-iters", "3", "--split", "1,0,0"),
)


def tokens(folder: Path) -> str:
    """40 documents of different lengths; ids count up, so each appears once in an epoch."""
    return write_tokens(folder / "tokens", lengths=[13 + number % 7 for number in range(40)])


@dataclass(frozen=True)
class Run:
    """How one ended."""

    code: int
    said: str
    """By all ranks."""


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(HERE / "poisoned_run.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def train(
    folder: Path,
    prefix: str | None,
    *words: str,
    processes: int = 1,
    model: tuple[str, ...] = MODEL,
    steps: tuple[str, ...] = STEPS,
    **faults: Any,
) -> Run:
    """One run with --save FOLDER."""
    arguments = [*model, *steps, "--save", str(folder), *words]
    arguments += ["--data-path", prefix] if prefix is not None else []
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    order = {"words": arguments, "ranks": processes, "log": str(log), "faults": faults}
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(order), file=server.stdin, flush=True)
    code = int(server.stdout.readline())
    return Run(code, log.read_text(encoding="utf-8"))


def done(run: Run) -> str:
    """The output of a run that ended well."""
    if run.code:
        pytest.fail(run.said[-5000:])
    return run.said


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Of the run's metrics file."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
