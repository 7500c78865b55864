"""Bytes that an operation moves and FLOPs that it computes, from its arguments and results.

Bytes are those of the tensors that it reads and writes, each counted once: a kernel that reads an
argument twice finds it in the cache or costs more than stated here. Operations that pick rows move
the rows that they pick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "_grouped_mm"})
"""Matrix products, by the name without the underscore of the form that works in place."""

_OVERWRITES = frozenset({"copy_", "zero_", "fill_", "masked_fill_", "normal_", "uniform_"})
"""In-place operations that do not read what they overwrite."""

_FILLS = frozenset(
    {"zeros", "zeros_like", "new_zeros", "ones_like", "new_ones", "full_like", "new_full"}
)
"""Operations that read nothing of the tensor whose size and dtype they take."""

_PICKS_ROWS = frozenset({"index_select", "gather", "index", "embedding"})
"""Operations that read as many elements of their first argument as they give."""

_PUTS_ROWS = frozenset({"index_add_", "scatter_add_", "scatter_", "index_copy_", "index_put_"})
"""Operations that change as many elements of their first argument as they are given."""

_ALLOCATES = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a matrix product: `batch` times [rows, inner] @ [inner, columns]."""

    batch: int
    rows: int
    columns: int
    inner: int
    dtype: torch.dtype
    """Of the factors; the result may be wider."""

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each term."""
        return 2 * self.batch * self.rows * self.columns * self.inner


def name_of(operation: torch._ops.OpOverload) -> str:
    """The operation's name without namespace and overload, such as `add_`."""
    return str(operation._schema.name).split("::")[1]


def is_kernel(operation: torch._ops.OpOverload) -> bool:
    """Whether a device starts a kernel: not for views, allocations and questions about a tensor."""
    name = name_of(operation)
    if operation.namespace == "prim" or name in _ALLOCATES or name.startswith("sym_"):
        return False
    views = any(
        result.alias_info is not None and not result.alias_info.is_write
        for result in operation._schema.returns
    )
    # _unsafe_view and detach are views whose schemas do not say it, or not in every version.
    return not views and name not in {"_unsafe_view", "detach", "alias", "_reshape_alias"}


def size_bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded dimension (stride 0) is stored once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride) * tensor.element_size()


def bytes_moved(
    operation: torch._ops.OpOverload,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    result: object,
) -> int:
    """Bytes read and written."""
    name = name_of(operation)
    written = {id(t): t for t in tree_leaves(result) if isinstance(t, Tensor)}
    read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    if name in _FILLS:
        return sum(map(size_bytes, written.values()))
    if name in _PICKS_ROWS and written:
        source = args[0]
        read = {key: t for key, t in read.items() if t is not source}
        return 2 * sum(map(size_bytes, written.values())) + sum(map(size_bytes, read.values()))
    if name in _PUTS_ROWS:
        target = args[0]
        read = {key: t for key, t in read.items() if t is not target}
        # The changed elements are read and written, and the given ones read.
        return 3 * sum(map(size_bytes, read.values()))
    if name in _OVERWRITES:
        read = {key: t for key, t in read.items() if key not in written}
    elif "out" in kwargs:
        # A tensor that is only given to be filled is not read.
        read = {id(t): t for t in tree_leaves(args) if isinstance(t, Tensor)}
    return sum(map(size_bytes, read.values())) + sum(map(size_bytes, written.values()))


def product_shape(operation: torch._ops.OpOverload, args: Sequence[object]) -> Shape | None:
    """The sizes of a matrix product; None for any other operation."""
    name = name_of(operation).rstrip("_")
    if name not in PRODUCTS:
        return None
    tensors = [item for item in args if isinstance(item, Tensor)]
    # addmm and baddbmm have the matrix that is added to first.
    first, second = tensors[1:3] if name in {"addmm", "baddbmm"} else tensors[:2]
    if name == "_grouped_mm":
        return _grouped_shape(first, second)
    batch = first.shape[0] if first.dim() == 3 else 1
    return Shape(batch, first.shape[-2], second.shape[-1], first.shape[-1], first.dtype)


def _grouped_shape(first: Tensor, second: Tensor) -> Shape:
    """grouped_mm divides the rows of `first`, or the terms of each sum where both are matrices.

    The groups' sizes are on the device. They count as equal here, which leaves FLOPs as they are.
    """
    if second.dim() == 3:
        groups, inner, columns = second.shape
        return Shape(groups, first.shape[0] // groups, columns, inner, first.dtype)
    return Shape(1, first.shape[0], second.shape[1], first.shape[1], first.dtype)
