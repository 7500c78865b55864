"""What megatron-core calls on CUDA, answered for the CPU while a run lasts.

Two parts, both gone when the run's context is left. A TorchFunctionMode turns device="cuda" into
"cpu" and makes Tensor.cuda a no-op; the rows of TORCH_CUDA replace the names of torch.cuda that
would raise without a device. Work on a CPU is done when the call returns, so streams and events
have nothing to do.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch.overrides import TorchFunctionMode

from ml_models.platforms.patch import Patch

CPU = torch.device("cpu")
Result = TypeVar("Result")


def names_cuda(value: object) -> bool:
    """Whether an argument names a CUDA device."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


class DeviceArguments(TorchFunctionMode):
    """Reads every CUDA device in arguments as the CPU, or as another device."""

    def __init__(self, device: torch.device = CPU) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        if func is torch.Tensor.cuda:
            return args[0]
        if names_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": self.device}
        if func is torch.Tensor.to:
            args = tuple(self.device if names_cuda(item) else item for item in args)
        return func(*args, **kwargs)


class TypeNames(TorchFunctionMode):
    """Tensor.type() answers torch.cuda.FloatTensor on every device.

    It is torch.FloatTensor on a CPU and torch.npu.FloatTensor on an NPU. The mode is entered around
    the few functions of megatron-core's optimizer that compare the name.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return f"torch.cuda.{str(result).rpartition('.')[2]}"
        return result


class Stream:
    """A queue that is always empty. All streams are equal, because all work is done in order."""

    cuda_stream = 0
    device = CPU

    def __init__(self, *args: object, **options: object) -> None:
        """Takes what torch.cuda.Stream takes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    def __hash__(self) -> int:
        return 0

    def wait_stream(self, other: "Stream") -> None:
        """Nothing to wait for."""

    def wait_event(self, event: "Event") -> None:
        """Nothing to wait for."""

    def record_event(self, event: "Event | None" = None) -> "Event":
        """An event that has happened."""
        return event if event is not None else Event()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """All work is done."""
        return True


class Event:
    """A mark in a queue that is always empty."""

    def __init__(self, *args: object, **options: object) -> None:
        """Takes what torch.cuda.Event takes."""

    def record(self, stream: Stream | None = None) -> None:
        """Happens at once."""

    def wait(self, stream: Stream | None = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """It has happened."""
        return True

    def elapsed_time(self, _end_event: "Event") -> float:
        """Not measured."""
        return 0.0


def _get_rng_state(*_: object, **__: object) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, *_: object, **__: object) -> None:
    torch.set_rng_state(new_state)


def _stream(*_: object, **__: object) -> Stream:
    return Stream()


def _manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def _nothing() -> Callable[..., None]:
    """A function that does nothing, a new object per call.

    torch.compile has rules per name of torch.cuda, and refuses an object that has two names with
    different rules.
    """

    def nothing(*_: object, **__: object) -> None:
        return None

    return nothing


def _row(name: str, replacement: object, reason: str) -> Patch:
    module = "torch.cuda.random" if name.startswith("random.") else "torch.cuda"
    return Patch(
        target=f"{module}:{name.removeprefix('random.')}",
        make=lambda _: replacement,
        reason=reason,
    )


_RAISES = "raises without a CUDA device"
_RNG = "megatron-core keeps its random states in the device's generator"


def current_device(device: torch.device) -> Patch:
    """The row by which torch.cuda.current_device() names `device`."""
    return _row("current_device", lambda: device, f"device argument of most buffers; {_RAISES}")


TORCH_CUDA: tuple[Patch, ...] = (
    current_device(CPU),
    _row("set_device", _nothing(), _RAISES),
    _row("synchronize", _nothing(), f"timers, pipeline and checkpoints wait; {_RAISES}"),
    _row("Stream", Stream, f"the token dispatcher and the gradient buffers make one; {_RAISES}"),
    _row("Event", Event, f"hand-over between streams; {_RAISES}"),
    _row("current_stream", _stream, _RAISES),
    _row("default_stream", _stream, _RAISES),
    _row("set_stream", _nothing(), _RAISES),
    _row("stream", lambda _: contextlib.nullcontext(), _RAISES),
    _row("get_rng_state", _get_rng_state, _RNG),
    _row("set_rng_state", _set_rng_state, _RNG),
    _row("manual_seed", _manual_seed, _RNG),
    _row("random.get_rng_state", _get_rng_state, _RNG),
    _row("random.set_rng_state", _set_rng_state, _RNG),
)


def with_type_names(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function`, called with TypeNames entered."""

    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> Result:
        with TypeNames():
            return function(*args, **kwargs)

    return wrapped
