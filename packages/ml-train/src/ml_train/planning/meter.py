"""Counts what a rank holds and sends while it runs: live bytes, their peak, and its collectives.

A storage counts from the operator that made it until Python and autograd let go of it, as an
allocator without rounding and fragmentation would see it.
"""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        self._device_type = device_type
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
        name = func._schema.name.partition("::")[2]
        if func.namespace == "c10d":
            if name in OPERATORS:
                self.collectives.append(_collective(name, args, self.phase))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device_type:
                self._count(leaf.untyped_storage())
        return result

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
    message = tree_leaves(args[argument])
    boxed = next(item for item in args if isinstance(item, torch.ScriptObject))
    group = dist.ProcessGroup.unbox(boxed)
    return Collective(
        kind=kind,
        num_bytes=sum(bytes_of(tensor) for tensor in message if isinstance(tensor, Tensor)),
        group=group.group_name,
        ranks=tuple(dist.get_process_group_ranks(group)),
        phase=phase,
    )


def bytes_of(tensor: Tensor) -> int:
    """Bytes of the tensor's elements."""
    return tensor.numel() * tensor.element_size()
