"""Measures what Python and torch take for a kernel of a training step, beside the kernel itself.

A model so small that its kernels compute next to nothing does training steps, with the code of a
run: its layers, megatron-core's schedule and its optimizer.
"""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator

import torch.distributed as dist
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch._C._distributed_c10d import HashStore

from ml_models.costs.recorder import Recorder
from ml_models.platforms.base import Platform
from ml_models.process_groups import backends_outlive_groups
from ml_train.config.run import RunConfig
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.parallel.groups import end_model_parallel, model_parallel_groups
from ml_train.parallel.layout import Layout
from ml_train.planning.calibration.measured import Measured
from ml_train.planning.calibration.seconds import computing_seconds
from ml_train.planning.legality import layout_of
from ml_train.planning.rank_plan import made_up_batches
from ml_train.training.train_module import Batch, TrainModule

SMALL_RUN = RunConfig(
    model=ModelSection(
        model="grok1-tiny",
        model_override=(
            *("num_layers=2", "hidden_size=32", "ffn_hidden_size=32", "vocab_size=128"),
            *("num_attention_heads=2", "num_query_groups=2", "kv_channels=16", "seq_length=16"),
        ),
    ),
    training=TrainingSection(global_batch_size=1),
)
_STEPS = 10
_UNTIMED_STEPS = 2
"""Adam makes its moments in the first step, and libraries choose their kernels."""


def with_host_seconds(measured: Measured, platform: Platform) -> Measured:
    """The same figures with the host's part. Not collective, without process groups."""
    model = SMALL_RUN.model.resolve()
    layout = layout_of(SMALL_RUN, model, 1)
    with platform.context(), alone(layout, platform):
        module = TrainModule.build(SMALL_RUN, model, layout, platform)
        batches = made_up_batches(module, 1)
        for _ in range(_UNTIMED_STEPS):
            module.train_step(batches)
        recorder = Recorder()
        with recorder:
            module.train_step(batches)
        step = statistics.median(_step_seconds(module, batches, platform) for _ in range(_STEPS))
    kernels = [kernel for kernel in recorder.kernels if kernel.kind != "communication"]
    # Where the host waits for each kernel, their own time is a part of the step's.
    known = 0.0
    if not measured.asynchronous:
        known = computing_seconds(
            kernels, dataclasses.replace(measured, host_seconds_per_kernel=0.0)
        )
    return dataclasses.replace(
        measured, host_seconds_per_kernel=max(0.0, step - known) / len(kernels)
    )


def _step_seconds(module: TrainModule, batches: list[Batch | None], platform: Platform) -> float:
    platform.synchronize()
    start = time.perf_counter()
    module.train_step(batches)
    platform.synchronize()
    return time.perf_counter() - start


@contextlib.contextmanager
def alone(layout: Layout, platform: Platform) -> Iterator[None]:
    """The process groups of a run of this process alone, whatever its peers do."""
    dist.init_process_group(platform.backend, store=HashStore(), rank=0, world_size=1)
    try:
        model_parallel_groups(layout, platform)
        model_parallel_cuda_manual_seed(0)
        yield
    finally:
        with backends_outlive_groups():
            end_model_parallel()
            dist.destroy_process_group()
