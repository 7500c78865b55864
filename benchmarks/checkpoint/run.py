"""Seconds and stall of a save against the disk's own rate, on one process.

    python benchmarks/checkpoint/run.py [--megabytes 400] [--folder DIR] [--repeat 3]

Writes a model-like set of tensors through ml-train's checkpoint writer and, in the same run and
alternating with it, the same number of bytes in one plain file with fsync: the disk's own rate.
Prints the ratio, and how long training would stand still with and without --async-save.
The peer line is torch.save of the same tensors, which is what a plain training script does.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ml_models.platforms import make_core_importable

make_core_importable()
from ml_models.process_groups import destroy_process_groups  # noqa: E402
from ml_train.checkpoint.directory.identity import RunIdentity  # noqa: E402
from ml_train.checkpoint.run_state import FORMAT_VERSION  # noqa: E402
from ml_train.checkpoint.save import Documents, SaveJob  # noqa: E402
from ml_train.checkpoint.tensors import torch_dist  # noqa: E402


def plan_of(tensors: dict[str, torch.Tensor]) -> torch_dist.Plan:
    """As CheckpointManager makes it, for tensors that one rank holds whole."""
    from megatron.core.dist_checkpointing import ShardedTensor

    sharded = {key: ShardedTensor.from_rank_offsets(key, tensor) for key, tensor in tensors.items()}
    by_key = torch_dist.tensors_by_key(sharded, check=False)
    return torch_dist.make_plan(by_key, note=None, group=None)


def job_of(tensors: dict[str, torch.Tensor], folder: Path) -> SaveJob:
    """A save that is ready to run."""
    partial = folder / "iter_0000001.tmp"
    partial.mkdir(parents=True)
    return SaveJob(
        iteration=1,
        partial=partial,
        plan=plan_of(tensors),
        documents=Documents(
            model_config={},
            run_state={
                "format": FORMAT_VERSION,
                "run": {"iteration": 1, "consumed_samples": 0},
                "layout": {},
                "optimizer": None,
                "schedule": None,
                "versions": {},
            },
            random_states=[],
        ),
        identity=RunIdentity.new(),
        policy={"keep_last": None, "keep_every": None},
        group=None,
    )


def plain_file(tensors: dict[str, torch.Tensor], folder: Path) -> float:
    """The disk's own rate: the same bytes, one file, fsync."""
    folder.mkdir(parents=True)
    started = time.perf_counter()
    with (folder / "plain").open("wb", buffering=0) as stream:
        for tensor in tensors.values():
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            while view:
                view = view[stream.write(view) :]
        os.fsync(stream.fileno())
    return time.perf_counter() - started


def torch_save(tensors: dict[str, torch.Tensor], folder: Path) -> float:
    """What a plain training script does, with fsync."""
    folder.mkdir(parents=True)
    started = time.perf_counter()
    with (folder / "state.pt").open("wb") as stream:
        torch.save(tensors, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return time.perf_counter() - started


def foreground(tensors: dict[str, torch.Tensor], folder: Path) -> float:
    """Checksums, metadata, marker and rename included; all of it is stall."""
    started = time.perf_counter()
    job = job_of(tensors, folder)
    job.run()
    assert job.wait().path is not None
    return time.perf_counter() - started


def background(tensors: dict[str, torch.Tensor], folder: Path) -> tuple[float, float]:
    """(stall, time until whole)."""
    started = time.perf_counter()
    job = job_of(tensors, folder)
    job.stage(gathered_prefix=None)
    stall = time.perf_counter() - started
    job.start()
    assert job.wait().path is not None
    return stall, time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    tensors = {
        f"layer.{number}.weight": torch.randn(1024, 1024)
        for number in range(max(options.megabytes // 4, 1))
    }
    megabytes = sum(tensor.numel() * 4 for tensor in tensors.values()) / 1e6
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-benchmark-", dir=options.folder))
    ways: dict[str, Callable[..., Any]] = {
        "plain file": plain_file,
        "torch.save": torch_save,
        "foreground": foreground,
        "background": background,
    }
    seconds: dict[str, list[Any]] = {name: [] for name in ways}
    plan_of(dict(list(tensors.items())[:1]))  # imports megatron-core, which takes seconds
    try:
        for _ in range(options.repeat):
            for name, way in ways.items():
                seconds[name].append(way(tensors, folder / "run"))
                shutil.rmtree(folder / "run")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    stalls, wholes = zip(*seconds.pop("background"), strict=True)
    seconds |= {"background, whole": list(wholes), "background, stall": list(stalls)}
    disk = statistics.median(seconds["plain file"])
    print(f"{megabytes:.0f} MB, median of {options.repeat}, alternating")
    for name, values in seconds.items():
        value = statistics.median(values)
        print(f"{name:<20}{value:8.3f} s {megabytes / value:9.0f} MB/s {value / disk:7.2f} x disk")
    destroy_process_groups()


if __name__ == "__main__":
    main()
