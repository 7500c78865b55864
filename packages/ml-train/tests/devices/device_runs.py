"""Starts of ml-train on a simulated npu or cuda, and the same on the CPU."""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Run

HERE = Path(__file__).parent
MODEL = (
    *("--model", "grok1-tiny", "--seq-length", "8", "--model-override", "vocab_size=1024"),
    *("num_layers=4", "hidden_size=16", "ffn_hidden_size=32", "num_experts=4", "kv_channels=8"),
    *("num_attention_heads=2", "num_query_groups=2"),
)
STEPS = (
    *("--train-iters", "4", "--global-batch-size", "8", "--lr", "1e-2", "--lr-warmup-iters", "2"),
    *("--split", "1,0,0"),
)


@functools.cache
def _simulated(device: str) -> dict[str, str]:
    """The variables of a process that has the device; skips the test where it cannot be built."""
    from build_library import CannotBuildError, library_folder

    try:
        folder = library_folder(device)
    except CannotBuildError as error:
        pytest.skip(f"the simulated device cannot be compiled: {error}")
    paths = [str(HERE / "stand_ins"), str(folder), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SIMULATED_KIND": device}
    if device == "cuda":
        # torch looks for CUDA's hooks once, when it is loaded.
        (library,) = folder.glob("simulated_cuda.*.so")
        libraries = str(Path(torch.__file__).parent / "lib")
        variables |= {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": libraries}
    return variables


def environment(device: str) -> dict[str, str]:
    """Of a process on `device`: cpu, npu or cuda."""
    simulated = {} if device == "cpu" else _simulated(device)
    return {**os.environ, "OMP_NUM_THREADS": "1", **simulated}


@functools.cache
def _server(device: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), device],
        env=environment(device),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def run(log: Path, *words: object, device: str, processes: int = 1, **observed: Any) -> Run:
    """`ml-train WORDS --device DEVICE`; its output is in `log`. `observed`: see server.py."""
    arguments = [*map(str, words), "--device", device]
    order = {"words": arguments, "ranks": processes, "log": str(log), **observed}
    server = _server(device)
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(order), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    said = log.read_text(encoding="utf-8") if log.is_file() else ""
    assert answer, f"the server for {device} ended; see its stderr"
    return Run(int(answer), said)


def train(
    folder: Path,
    prefix: str,
    *more: object,
    device: str,
    processes: int = 1,
    model: tuple[str, ...] = MODEL,
    **observed: Any,
) -> Run:
    """A run over STEPS that saves into `folder`."""
    words = ("pretrain", *model, *STEPS, "--data-path", prefix, "--save", folder, *more)
    log = folder.with_name(f"{folder.name}.log")
    return run(log, *words, device=device, processes=processes, **observed)
