"""Records each kernel that code dispatches: its name, its part of the layer, bytes and FLOPs.

A `Recorder` is a TorchDispatchMode: it works on fake tensors and on real ones, and changes nothing
that the code computes. What a compiled function or a fused attention would launch is reported to it
with `record`, while `paused` hides the operations that stand in for the fused kernel.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from ml_models.costs.operations import Shape, bytes_moved, is_kernel, name_of, product_shape

Kind = Literal["product", "attention", "other", "communication"]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel of a step, or a collective."""

    name: str
    """The operation's name; of a compiled function its name and "compiled"."""
    kind: Kind
    """What decides how long it takes."""
    part: str
    """The innermost module, such as self_attention.linear_qkv; "layer" outside of any."""
    backward: bool
    dtype: torch.dtype
    """Of the result."""
    moved_bytes: int
    """Bytes read and written; of a collective those that leave the device."""
    flops: int = 0
    shape: Shape | None = None
    """Of a matrix product."""


class Recorder(TorchDispatchMode):
    """Entered around a step; `kernels` holds what it launched, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self.host_waits: list[str] = []
        """What waited for the device, such as masked_select, each time."""
        self._tracker = ModuleTracker()
        self._pauses = 0

    def __enter__(self) -> "Recorder":
        self._tracker.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._tracker.__exit__(*error)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, operations are not recorded."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    def record(
        self,
        name: str,
        kind: Kind,
        dtype: torch.dtype,
        moved_bytes: int,
        *,
        flops: int = 0,
        shape: Shape | None = None,
    ) -> None:
        """Add a kernel."""
        if not self._pauses:
            self.kernels.append(
                Kernel(
                    name=name,
                    kind=kind,
                    part=self._part(),
                    backward=self._tracker.is_bw,
                    dtype=dtype,
                    moved_bytes=moved_bytes,
                    flops=flops,
                    shape=shape,
                )
            )

    def wait(self, what: str) -> None:
        """Count a wait of the host for the device."""
        if not self._pauses:
            self.host_waits.append(what)

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = self.compute(func, args, kwargs)
        name = name_of(func)
        if name in {"masked_select", "nonzero", "_local_scalar_dense"}:
            self.wait(name)
        if func.namespace in {"c10d", "_c10d_functional"}:
            self._record_collective(name, args)
        elif is_kernel(func):
            self._record_operation(func, args, kwargs, result)
        return result

    def compute(
        self,
        func: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> object:
        """The operation's result; layer_step.py overrides it where fake tensors have none."""
        return func(*args, **kwargs)

    def _record_operation(
        self,
        func: torch._ops.OpOverload,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        result: object,
    ) -> None:
        tensors = [t for t in tree_leaves((result, args)) if isinstance(t, Tensor)]
        if not tensors:
            return
        shape = product_shape(func, args)
        self.record(
            name_of(func),
            "product" if shape else "other",
            tensors[0].dtype,
            bytes_moved(func, args, kwargs, result),
            flops=shape.flops if shape else 0,
            shape=shape,
        )

    def _record_collective(self, name: str, args: tuple[object, ...]) -> None:
        tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        if not tensors:
            return
        sizes = [t.numel() * t.element_size() for t in tensors]
        # A collective leaves out a rank's own part. An all-reduce is a reduce-scatter and an
        # all-gather, so that its tensor leaves the device twice.
        # Pieces of a gather come as a tensor or as one for each rank: their sum is the same.
        sent = 2 * max(sizes) if "allreduce" in name else sum(sizes) - 2 * min(sizes)
        if "alltoall" in name:
            sent = max(sizes) // 2
        self.record(name.strip("_"), "communication", tensors[0].dtype, sent)

    def _part(self) -> str:
        names = [name for name in self._tracker.parents if "." in name]
        # The longest name belongs to the innermost module.
        innermost = max(names, key=lambda name: (name.count("."), name), default="layer")
        return innermost.partition(".")[2] or "layer"
