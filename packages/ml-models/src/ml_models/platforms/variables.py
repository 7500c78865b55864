"""The environment variables that the processes of a run need: a table per platform.

The libraries below torch read them before any code of this project runs, so whoever starts the
processes sets them: ml-train-launch. `for_run` decides; it changes nothing. A variable that the
user has set is kept, whatever the table says. docs/cuda.md and docs/ascend.md show the tables.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the rows depend on."""

    tensor_model_parallel_size: int = 1
    timeout_seconds: float = 600.0
    """How long a collective waits before the job fails: --distributed-timeout-minutes."""
    compiled: bool = False
    """--execution compiled."""
    torch: tuple[int, int] = (2, 6)
    """Major and minor version of torch."""


Value = Callable[[Run, Mapping[str, str]], str | None]
"""A row's value from the run and the environment so far; None where the run does not need it."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A row of a table."""

    name: str
    value: Value
    shown: str
    """The value as the documentation shows it."""
    reason: str
    """What happens without it."""
    link: str
    also: tuple[str, ...] = ()
    """Other variables that set the same. With one of them this row has nothing to say."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What `for_run` decides for a process that is to be started."""

    values: Mapping[str, str]
    """Variables to set."""
    kept: Mapping[str, str]
    """Variables of the table that the user has set."""


def for_run(table: Sequence[Variable], run: Run, environment: Mapping[str, str]) -> Decided:
    """The variables of `table` that `run` needs and `environment` lacks."""
    values: dict[str, str] = {}
    kept: dict[str, str] = {}
    for row in table:
        own = [name for name in (row.name, *row.also) if name in environment]
        if own:
            kept.update({name: environment[name] for name in own})
            continue
        value = row.value(run, {**environment, **values})
        if value is not None:
            values[row.name] = value
    return Decided(values=values, kept=kept)


def _always(text: str) -> Value:
    return lambda _run, _environment: text


def _with_tensor_parallelism(run: Run, _environment: Mapping[str, str]) -> str | None:
    return "1" if run.tensor_model_parallel_size > 1 else None


def _task_queue(run: Run, _environment: Mapping[str, str]) -> str | None:
    return None if run.compiled else "2"


# What the HCCL variables accept on Atlas A2 and A3, from CANN's documentation. A run's timeout
# outside is moved to the bound; torch's own timeout still ends the run.
_CONNECT_SECONDS = (120, 7200)
_EXEC_SECONDS = (1, 2147483647)
_BEYOND_EXEC_SECONDS = 32
"""HCCL's defaults, 1836 and 1868 s, have this distance."""


def _connect_timeout(run: Run, _environment: Mapping[str, str]) -> str:
    return str(_within(run.timeout_seconds, _CONNECT_SECONDS))


def _exec_timeout(run: Run, _environment: Mapping[str, str]) -> str:
    return str(_within(run.timeout_seconds, _EXEC_SECONDS))


def _event_timeout(_run: Run, environment: Mapping[str, str]) -> str | None:
    seconds = environment.get("HCCL_EXEC_TIMEOUT", "")
    if not seconds.isdecimal() or int(seconds) == 0:  # 0 waits for ever
        return None
    return str(min(int(seconds) + _BEYOND_EXEC_SECONDS, _EXEC_SECONDS[1]))


def _within(seconds: float, bounds: tuple[int, int]) -> int:
    return min(max(math.ceil(seconds), bounds[0]), bounds[1])


_TORCH_CUDA = "https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage"
_CORE = "https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/"
_TORCH_NPU = "https://gitcode.com/Ascend/pytorch/blob/master/docs/zh/api/environment_variable/"
_CANN = "https://www.hiascend.com/document/detail/zh/canncommercial/900/maintenref/envvar/"

_ONE_QUEUE = Variable(
    name="CUDA_DEVICE_MAX_CONNECTIONS",
    value=_with_tensor_parallelism,
    shown="1, with tensor parallelism",
    reason=(
        "megatron-core starts a collective and then a product that is to run beside it; with more "
        "than one hardware queue the product may start first, and nothing overlaps"
    ),
    link=_CORE + "tensor_parallel/layers.py",
)
_EXPANDABLE = "expandable_segments:True"
_FRAGMENTS = (
    "the sizes of the experts' batches change with every step, so that without expandable segments "
    "the allocator's free memory falls into pieces that are too small"
)

CPU: tuple[Variable, ...] = ()
"""torchrun gives several processes of a machine a thread each by itself (OMP_NUM_THREADS=1)."""

CUDA: tuple[Variable, ...] = (
    _ONE_QUEUE,
    Variable(
        name="PYTORCH_ALLOC_CONF",
        value=lambda run, _: _EXPANDABLE if run.torch >= (2, 9) else None,
        shown=f"{_EXPANDABLE}, from torch 2.9 on",
        reason=_FRAGMENTS,
        link=_TORCH_CUDA,
        also=("PYTORCH_CUDA_ALLOC_CONF",),
    ),
    Variable(
        name="PYTORCH_CUDA_ALLOC_CONF",
        value=lambda run, _: _EXPANDABLE if run.torch < (2, 9) else None,
        shown=f"{_EXPANDABLE}, before torch 2.9",
        reason=_FRAGMENTS,
        link=_TORCH_CUDA,
        also=("PYTORCH_ALLOC_CONF",),
    ),
)

NPU: tuple[Variable, ...] = (
    _ONE_QUEUE,
    Variable(
        name="PYTORCH_NPU_ALLOC_CONF",
        value=_always(_EXPANDABLE),
        shown=_EXPANDABLE,
        reason=_FRAGMENTS,
        link=_TORCH_NPU + "memory_management/PYTORCH_NPU_ALLOC_CONF.md",
        # torch_npu ends the process where both are set.
        also=("PYTORCH_ALLOC_CONF",),
    ),
    Variable(
        name="HCCL_CONNECT_TIMEOUT",
        value=_connect_timeout,
        shown="the run's timeout in seconds, from 120 to 7200",
        reason=(
            "HCCL gives up after 120 s while a slow node still starts or reads its data, although "
            "the run allows more"
        ),
        link=_CANN + "envref_07_0077.html",
    ),
    Variable(
        name="HCCL_EXEC_TIMEOUT",
        value=_exec_timeout,
        shown="the run's timeout in seconds",
        reason=(
            "HCCL waits 1836 s for a rank that does not come, which is longer than the run's own "
            "timeout by default and shorter than one that was raised"
        ),
        link=_CANN + "envref_07_0078.html",
    ),
    Variable(
        name="HCCL_EVENT_TIMEOUT",
        value=_event_timeout,
        shown="HCCL_EXEC_TIMEOUT and 32",
        reason="torch_npu requires it to be longer than HCCL_EXEC_TIMEOUT; the default is 1868 s",
        link=_TORCH_NPU + "collective_communication/HCCL_EVENT_TIMEOUT.md",
    ),
    Variable(
        name="TASK_QUEUE_ENABLE",
        value=_task_queue,
        shown="2, without --execution compiled",
        reason=(
            "the host hands over kernels in two stages that run at the same time; level 2 also "
            "moves the work spaces to the second stage, for a little more memory. Graphs that "
            "torch.compile captures need level 1, the default"
        ),
        link=_TORCH_NPU + "op_execution/TASK_QUEUE_ENABLE.md",
    ),
)
