"""Into which kernels torch.compile fuses a function, asked from its own scheduler on no device.

torch.compile turns a function into a graph, the graph into loops, and its scheduler fuses loops
into kernels. These steps run here as they run for a GPU, with three answers given in place of a
device: its properties, that triton is installed, and fake tensors. Code for the kernels is not
written, so neither a GPU nor a compiler is needed. Bytes are the scheduler's own count of what a
kernel reads and writes.

Sizes are taken as fixed. A run compiles for all sizes at once, which can divide a long sum into
different parts.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.scheduler import ExternKernelSchedulerNode
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from ml_models.errors import RequirementError

GPU = torch.device("cuda", 0)

# NVIDIA's Hopper tuning guide: 132 multiprocessors of an H100 SXM with 64 K registers each.
_H100: dict[str, Any] = {
    "type": "cuda",
    "index": 0,
    "multi_processor_count": 132,
    "cc": 90,
    "major": 9,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "warp_size": 32,
}
# torch 2.6 does not ask for the threads of a block.
_PROPERTIES = DeviceProperties(
    **{name: value for name, value in _H100.items() if name in DeviceProperties._fields}
)


@dataclass(frozen=True)
class FusedKernel:
    """A kernel that torch.compile makes."""

    moved_bytes: int
    reduces: bool
    """Whether it sums over elements."""


def check_torch() -> None:
    """RequirementError where torch has not what is used of its compiler, as torch 2.6 has not."""
    if not hasattr(GraphLowering, "_update_scheduler"):
        raise RequirementError(
            f"torch {torch.__version__} is too old to count the kernels of a step; rule: torch "
            "2.13 or newer, with which it was tried. pip install 'torch>=2.13'"
        )


def fused_kernels(function: Callable[..., Any], args: Sequence[object]) -> list[FusedKernel]:
    """The kernels of torch.compile(function)(*args), in order. Tensors in `args` may be fake.

    Raises RequirementError for a torch that is too old.
    """
    check_torch()
    shapes = tuple(_signature(item) for item in args)
    key = (function, shapes)
    if key not in _known:
        _known[key] = _schedule(function, args)
    return _known[key]


_known: dict[tuple[object, ...], list[FusedKernel]] = {}
"""A layer calls the same function with the same sizes often, and a graph takes 0.3 seconds."""


def _signature(item: object) -> object:
    if isinstance(item, Tensor):
        return (tuple(item.shape), item.stride(), item.dtype)
    return item


def _schedule(function: Callable[..., Any], args: Sequence[object]) -> list[FusedKernel]:
    # Without the modes of the caller, which would count what happens here.
    with _disable_current_modes(), FakeTensorMode() as fake:
        graph, inputs = _graph_for_gpu(function, args, fake)
        lowering = GraphLowering(graph, shape_env=fake.shape_env)
        with (
            _as_if_on_gpu(),
            V.set_graph_handler(lowering),
            V.set_fake_mode(fake),
            V.set_debug_handler(DebugContext()),
        ):
            lowering.run(*inputs)
            lowering._update_scheduler()
            nodes = lowering.scheduler.nodes
            if any(isinstance(node, ExternKernelSchedulerNode) for node in nodes):
                raise NotImplementedError(
                    f"{function.__name__} calls a kernel that torch.compile does not make, such as "
                    "a matrix product; only functions of element-wise work and sums are counted."
                )
            return [
                FusedKernel(int(node.get_read_write_buffers_sizes()), bool(node.is_reduction()))
                for node in nodes
            ]


def _graph_for_gpu(
    function: Callable[..., Any], args: Sequence[object], fake: FakeTensorMode
) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The function's graph on fake tensors of a GPU, and its inputs.

    It is traced on the CPU and then moved: a CPU build of torch cannot index a tensor of a GPU.
    """
    inputs = [
        torch.empty_strided(tuple(item.shape), item.stride(), dtype=item.dtype)
        for item in args
        if isinstance(item, Tensor)
    ]

    def results(*tensors: Tensor) -> tuple[Tensor, ...]:
        # The function may change its arguments, which a graph must not. The scheduler fuses the
        # copies away: they cost no bytes.
        copies = iter([tensor.clone() for tensor in tensors])
        given = [next(copies) if isinstance(item, Tensor) else item for item in args]
        return tuple(t for t in tree_leaves(function(*given)) if isinstance(t, Tensor))

    graph = aot_export_joint_simple(
        results, tuple(inputs), trace_joint=False, decompositions=select_decomp_table()
    )
    assert isinstance(graph, torch.fx.GraphModule)
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": GPU}
    graph.recompile()
    moved = [
        torch.empty_strided(tuple(t.shape), t.stride(), dtype=t.dtype, device=GPU) for t in inputs
    ]
    FakeTensorProp(graph, fake).propagate(*moved)
    return graph, moved


@contextlib.contextmanager
def _as_if_on_gpu() -> Iterator[None]:
    """Inside, torch.compile's scheduler finds an H100 and triton."""
    with (
        mock.patch("torch._inductor.scheduler.has_triton", lambda *_: True),
        mock.patch.object(DeviceProperties, "create", lambda _: _PROPERTIES),
    ):
        yield
