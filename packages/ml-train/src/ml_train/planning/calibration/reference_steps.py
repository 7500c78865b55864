"""Measures what a kernel takes in a training step, where computing.py measures it alone.

Two models do training steps with the code of a run: its layers, megatron-core's schedule and its
optimizer. The small one has kernels that compute next to nothing, so that its step is Python's and
torch's part. In a step of the large one a kernel meets caches that other kernels have filled, and
memory that is new to the process. Both steps give both figures:

    step = kernels * host_seconds_per_kernel + in_step_factor * (seconds of the kernels alone)
"""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
from ml_train.planning.calibration.seconds import kernel_seconds
from ml_train.planning.legality import layout_of
from ml_train.planning.rank_plan import made_up_batches
from ml_train.training.train_module import Batch, TrainModule


def _reference_run(*overrides: str) -> RunConfig:
    return RunConfig(
        model=ModelSection(
            model="grok1-tiny", model_override=("num_layers=2", "num_attention_heads=2", *overrides)
        ),
        training=TrainingSection(global_batch_size=1),
    )


SMALL_RUN = _reference_run(
    *("hidden_size=32", "ffn_hidden_size=32", "vocab_size=128"),
    *("num_query_groups=2", "kv_channels=16", "seq_length=16"),
)
LARGE_RUN = _reference_run(
    *("hidden_size=320", "ffn_hidden_size=896", "vocab_size=8192"),
    *("num_query_groups=1", "kv_channels=160", "seq_length=384"),
)
"""30 million parameters: their update, and a layer's activations, exceed a processor's caches."""
_STEPS = 10
_UNTIMED_STEPS = 2
"""Adam makes its moments in the first step, and libraries choose their kernels."""


@dataclass(frozen=True)
class ReferenceStep:
    """A measured step."""

    seconds: float
    num_kernels: int
    kernel_seconds: float
    """Of its kernels, as measured alone."""


def with_step_figures(measured: Measured, platform: Platform) -> Measured:
    """The same figures with those of a step. Not collective, without process groups."""
    small, large = (_reference_step(run, measured, platform) for run in (SMALL_RUN, LARGE_RUN))
    host, factor = step_figures(small, large, asynchronous=measured.asynchronous)
    return dataclasses.replace(measured, host_seconds_per_kernel=host, in_step_factor=factor)


def step_figures(
    small: ReferenceStep, large: ReferenceStep, *, asynchronous: bool
) -> tuple[float, float]:
    """host_seconds_per_kernel and in_step_factor.

    asynchronous: whether the device computes while the host goes on. Then a step takes what is
    longer, of the small model the host's part and of the large one the kernels.
    """
    if asynchronous:
        host = small.seconds / small.num_kernels
        return host, max(1.0, large.seconds / large.kernel_seconds)
    # Cramer's rule for the two equations of the module's docstring.
    determinant = (
        small.num_kernels * large.kernel_seconds - large.num_kernels * small.kernel_seconds
    )
    factor = (small.num_kernels * large.seconds - large.num_kernels * small.seconds) / determinant
    # Measurements scatter. A kernel in a step is not faster than alone, and the host takes time.
    factor = max(1.0, factor)
    return max(0.0, small.seconds - factor * small.kernel_seconds) / small.num_kernels, factor


def _reference_step(run: RunConfig, measured: Measured, platform: Platform) -> ReferenceStep:
    model = run.model.resolve()
    layout = layout_of(run, model, 1)
    with platform.context(), alone(layout, platform):
        module = TrainModule.build(run, model, layout, platform)
        batches = made_up_batches(module, 1)
        for _ in range(_UNTIMED_STEPS):
            module.train_step(batches)
        recorder = Recorder()
        with recorder:
            module.train_step(batches)
        step = statistics.median(_step_seconds(module, batches, platform) for _ in range(_STEPS))
    kernels = [kernel for kernel in recorder.kernels if kernel.kind != "communication"]
    return ReferenceStep(
        step, len(kernels), sum(kernel_seconds(kernel, measured) for kernel in kernels)
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
