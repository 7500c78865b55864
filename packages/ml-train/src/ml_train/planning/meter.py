"""Counts what a rank holds and sends while it runs: live bytes, their peak, and its collectives.

A storage counts from the operator that made it until Python and autograd let go of it, as an
allocator without rounding and fragmentation would see it.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ml_models.costs.operations import Shape
from ml_train.planning.leaves import tensors_in
from ml_train.planning.time.rings import sent_bytes

OPERATORS = {
    "allreduce_": ("all-reduce", 0),
    "allreduce_coalesced_": ("all-reduce", 0),
    "broadcast_": ("broadcast", 0),
    "reduce_": ("reduce", 0),
    "allgather_": ("all-gather", 0),
    "_allgather_base_": ("all-gather", 0),
    "allgather_into_tensor_coalesced_": ("all-gather", 0),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "reduce_scatter_": ("reduce-scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1),
    "alltoall_base_": ("all-to-all", 1),
    "alltoall_": ("all-to-all", 1),
    "send": ("send", 0),
    "recv_": ("receive", 0),
}
"""torch's operator -> the field's name of the collective, and which argument is the whole message.

The other side of a gather or a scatter is this rank's part of it.
"""


@dataclass(frozen=True)
class Collective:
    """A call of torch.distributed by this rank."""

    kind: str
    """A name of OPERATORS, such as all-reduce."""
    num_bytes: int
    """Of the whole message, over all ranks of the group: the gathered, reduced or dealt tensor."""
    group: str
    """torch's name of the process group. Two groups may have the same ranks."""
    ranks: tuple[int, ...]
    """Global ranks of the group."""
    phase: str
    """What the rank did meanwhile, as Meter.phase said."""

    @property
    def sent_bytes(self) -> float:
        """What this rank sends in a ring algorithm, as NCCL counts bus bandwidth."""
        return sent_bytes(self.kind, self.num_bytes, len(self.ranks))


@dataclass(frozen=True)
class Launch:
    """A kernel that an operation without values stands for, see ml_models/costs/target_forms.py."""

    name: str
    kind: str
    """attention, product or other."""
    moved_bytes: int
    flops: int
    shape: Shape | None
    """Of a matrix product."""
    phase: str
    """As of a Collective."""


class Meter(TorchDispatchMode):
    """Enter it around the building and the running of a rank, inside the platform's context."""

    def __init__(self, device_type: str = "meta") -> None:
        super().__init__()
        self.live_bytes = 0
        self.peaks: dict[str, int] = {}
        """Phase -> most live bytes in it."""
        self.phase = ""
        """Whoever runs the rank says here what it does, see rank_plan.py."""
        self.collectives: list[Collective] = []
        self.launches: list[Launch] = []
        self._device_type = device_type
        self.inside_kernel = False
        """A function runs that stands for a kernel: its operators are not launched."""
        self._results_of: dict[tuple[object, ...], object] = {}
        """Function and signatures of its arguments -> signature of its result."""
        self._seen: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = (
            weakref.WeakKeyDictionary()
        )

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        if self.inside_kernel:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if func.namespace == "c10d":
            if name in OPERATORS:
                self.collectives.append(_collective(name, args, self.phase))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._count_all(result)
        return result

    def record(
        self,
        name: str,
        kind: str,
        _: torch.dtype,
        moved_bytes: int,
        *,
        flops: int = 0,
        shape: Shape | None = None,
    ) -> None:
        """A kernel was launched that no operator stands for."""
        self.launches.append(Launch(name, kind, moved_bytes, flops, shape, self.phase))

    def as_kernel(self, function: Callable[..., object]) -> Callable[..., object]:
        """`function` as torch.compile makes a kernel of it: only its results take memory."""

        def kernel(*args: object) -> object:
            result = self._results(function, args)
            self._count_all(result)
            moved = sum(map(bytes_of, tensors_in((args, result))))
            self.launches.append(Launch(function.__name__, "other", moved, 0, None, self.phase))
            return result

        return kernel

    def _results(self, function: Callable[..., object], args: tuple[object, ...]) -> object:
        """What `function` gives. It runs once for arguments of the same sizes."""
        key = (function, *map(_signature, args))
        if key in self._results_of:
            return _made_anew(self._results_of[key])
        self.inside_kernel = True
        try:
            result = function(*args)
        finally:
            self.inside_kernel = False
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in(args)}
        # A result in an argument's memory is no new tensor.
        if all(tensor.untyped_storage()._cdata not in given for tensor in tensors_in(result)):
            self._results_of[key] = _signature(result)
        return result

    def _count_all(self, result: object) -> None:
        for tensor in tensors_in(result):
            if tensor.device.type == self._device_type:
                self._count(tensor.untyped_storage())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would wrap every dispatch in a guard against torch.compile, which no plan calls.
        # The guard takes longer than the counting.
        return False

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        num_bytes = storage.nbytes()
        self._seen[storage] = num_bytes
        self.live_bytes += num_bytes
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.live_bytes)
        weakref.finalize(storage, self._release, num_bytes)

    def _release(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


def _collective(name: str, args: tuple[Any, ...], phase: str) -> Collective:
    kind, argument = OPERATORS[name]
    boxed = next(item for item in args if isinstance(item, torch.ScriptObject))
    group = dist.ProcessGroup.unbox(boxed)
    return Collective(
        kind=kind,
        num_bytes=sum(map(bytes_of, tensors_in(args[argument]))),
        group=group.group_name,
        ranks=tuple(dist.get_process_group_ranks(group)),
        phase=phase,
    )


@dataclass(frozen=True)
class _Shape:
    """What is known of a tensor without values."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _signature(item: object) -> object:
    """`item` with shapes in place of tensors, which can be a key."""
    if isinstance(item, Tensor):
        return _Shape(tuple(item.shape), item.stride(), item.dtype, item.device)
    if isinstance(item, list | tuple):
        return tuple(map(_signature, item))
    return item


def _made_anew(signature: object) -> object:
    """New tensors for the shapes of a signature."""
    if isinstance(signature, _Shape):
        return torch.empty_strided(
            signature.sizes, signature.strides, dtype=signature.dtype, device=signature.device
        )
    if isinstance(signature, tuple):
        return tuple(map(_made_anew, signature))
    return signature


def bytes_of(tensor: Tensor) -> int:
    """Bytes of the tensor's elements."""
    return tensor.numel() * tensor.element_size()
