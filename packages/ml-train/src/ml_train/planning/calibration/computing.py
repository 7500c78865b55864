"""Measures matrix products and other operations of this process's device."""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.operations import KINDS
from ml_train.planning.calibration.products import ProductGrid, corners
from ml_train.planning.calibration.timing import Stopwatch, powers

Action = Callable[[], object]

DTYPES = (torch.float32, torch.bfloat16)
"""In which a model computes, and in which it keeps what is added up."""

BATCH = 8
"""Products of a measured batch. Attention calls them in batches of its heads."""

_LONGEST_SECONDS = 0.05
"""Sizes grow until an action takes so long."""
_MOST_SIZES = 5
_GROWTH = 4
_OPERATION_BYTES = powers(2**12, _GROWTH, 10)
"""4 KiB to 1 GiB: from the smallest cache to what no cache of a GPU holds."""
_COLD_BYTES = 2**27
"""Operands are taken in turn from so many bytes, more than caches hold: a step comes back to a
weight when it has read all others."""
_MOST_COPIES = 32
_KEPT_RESULTS = 4
"""A step keeps results for its backward pass. An allocator that gets a result back at once would
give the same warm memory to the next."""
_ISSUED = 0.5
"""Of the time of a product: a call that returns earlier did not wait for the product."""
_ROW = 256
"""Elements of a row that is picked or summed over, about a small model's width."""


def measure_products(
    watch: Stopwatch, device: torch.device, dtype: torch.dtype
) -> tuple[ProductGrid, ProductGrid]:
    """Single products and batches of them. Collective: all processes measure the same sizes."""

    def grid(batch: int, sizes: list[int]) -> ProductGrid:
        seconds = [
            watch.seconds(_product(batch, corner, device, dtype)) for corner in corners(sizes)
        ]
        return ProductGrid(batch=batch, sizes=tuple(sizes), seconds=tuple(seconds))

    sizes = [16]
    while len(sizes) < _MOST_SIZES:
        cube = watch.seconds(_product(1, (sizes[-1] * 4,) * 3, device, dtype))
        # A process that measured a size less than its peers would wait at another barrier.
        if len(sizes) > 1 and watch.slowest(cube) > _LONGEST_SECONDS:
            break
        sizes.append(sizes[-1] * 4)
    return grid(1, sizes), grid(BATCH, sizes[:-1])


def _product(
    batch: int, corner: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Action:
    rows, columns, inner = corner
    num_bytes = batch * (rows + columns) * inner * dtype.itemsize
    factors = [
        (
            torch.ones(batch, rows, inner, device=device, dtype=dtype),
            torch.ones(batch, inner, columns, device=device, dtype=dtype),
        )
        for _ in range(_num_copies(num_bytes))
    ]
    if batch == 1:
        return _in_turn([(first[0], second[0]) for first, second in factors], torch.mm)
    return _in_turn(factors, torch.bmm)


def _num_copies(num_bytes: int) -> int:
    return max(1, min(_MOST_COPIES, _COLD_BYTES // num_bytes))


def _in_turn(operands: Sequence[tuple[Tensor, ...]], compute: Callable[..., Tensor]) -> Action:
    """An action that computes with the next operands, and keeps its last results for a while."""
    turn = itertools.cycle(operands)
    results: deque[Tensor] = deque(maxlen=_KEPT_RESULTS)
    return lambda: results.append(compute(*next(turn)))


def is_asynchronous(watch: Stopwatch, device: torch.device) -> bool:
    """Whether the host goes on while the device computes a product."""
    side = 512
    share = watch.issuing_share(_product(1, (side, side, side), device, torch.float32))
    return share < _ISSUED


def measure_operations(
    watch: Stopwatch, device: torch.device, dtype: torch.dtype
) -> Mapping[str, Curve]:
    """Seconds by bytes moved, for each of KINDS."""
    points: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for num_bytes in _OPERATION_BYTES:
        longest = 0.0
        for kind, (moved, action) in _operations(num_bytes, device, dtype).items():
            seconds = watch.seconds(action)
            points[kind].append((moved, seconds))
            longest = max(longest, seconds)
        if watch.slowest(longest) > _LONGEST_SECONDS / 2:
            break
    return {kind: Curve(tuple(measured)) for kind, measured in points.items()}


def _operations(
    num_bytes: int, device: torch.device, dtype: torch.dtype
) -> Mapping[str, tuple[int, Action]]:
    """Kind -> (bytes that it reads and writes, the action), on a tensor of `num_bytes`."""
    rows = num_bytes // dtype.itemsize // _ROW
    # Values as an activation has them: the time of a function may depend on them.
    values = torch.linspace(-3, 3, rows * _ROW, device=device).to(dtype).view(rows, _ROW)
    copies = range(_num_copies(2 * num_bytes))
    single = [(values.clone(),) for _ in copies]
    pairs = [(first, torch.ones_like(first)) for (first,) in single]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).to(device)
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    return {
        "in_place": (3 * num_bytes, _in_turn(pairs, torch.Tensor.mul_)),
        "new_result": (3 * num_bytes, _in_turn(pairs, torch.mul)),
        "function": (2 * num_bytes, _in_turn(single, gelu)),
        "reduction": (num_bytes, _in_turn(single, lambda first: first.sum(-1))),
        "rows": (2 * num_bytes, _in_turn(single, lambda first: first.index_select(0, order))),
    }
