"""All figures of a number of processes that compute at once, and how a device file holds them.

A file has a table [[measured]] per number of processes:

    processes = 2
    host_seconds_per_kernel = 6.1e-6
    in_step_factor = 1.2
    asynchronous = false
    [measured.products.float32]            # and batched_products: grids of products.py
    batch = 1
    sizes = [16, 64, 256, 1024]
    seconds = [...]                        # 64 of them
    [measured.operations.float32]          # by the kinds of operations.py
    in_place = [[12288, 1.1e-6], ...]      # bytes, seconds
    [measured.messages.2]                  # by the processes of a group
    all-reduce = [[1024, 8e-5], ...]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from ml_train.planning.calibration import checked
from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.operations import KINDS
from ml_train.planning.calibration.products import ProductGrid

T = TypeVar("T")

MESSAGES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send")
"""Kinds of messages that are measured, by the names of planning/meter.py."""
REFERENCE_DTYPE = "float32"
"""Every device computes in it. It stands for dtypes that were not measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured while a number of processes did the same at once."""

    processes: int
    host_seconds_per_kernel: float
    """Python's and torch's time for a kernel of a training step. On a device that computes while
    the host goes on (asynchronous) all of it, else what comes on top of the kernel's own time."""
    in_step_factor: float
    """Seconds of a kernel in a training step by those of the same kernel measured alone."""
    asynchronous: bool
    products: Mapping[str, ProductGrid]
    """By dtype, such as float32."""
    batched_products: Mapping[str, ProductGrid]
    operations: Mapping[str, Mapping[str, Curve]]
    """Dtype -> kind of operations.KINDS -> seconds by bytes moved."""
    messages: Mapping[int, Mapping[str, Curve]]
    """Processes of a group -> kind of MESSAGES -> seconds by bytes of the whole message. Empty for
    one process."""


def counted(processes: int) -> str:
    """Such as 1 process and 2 processes."""
    return f"{processes} process{'es' if processes > 1 else ''}"


FIELDS = tuple(item.name for item in fields(Measured))


def to_table(measured: Measured) -> dict[str, object]:
    """The table of a file: numbers, lists and tables."""
    grids = {
        name: {dtype: _grid_table(grid) for dtype, grid in getattr(measured, name).items()}
        for name in ("products", "batched_products")
    }
    return {
        "processes": measured.processes,
        "host_seconds_per_kernel": measured.host_seconds_per_kernel,
        "in_step_factor": measured.in_step_factor,
        "asynchronous": measured.asynchronous,
        **grids,
        "operations": {dtype: _lists(curves) for dtype, curves in measured.operations.items()},
        "messages": {str(size): _lists(curves) for size, curves in measured.messages.items()},
    }


def from_table(value: object, where: str) -> Measured:
    """The figures of a table. Raises checked.FaultyTableError, which calls the table `where`."""
    table = checked.table(value, where, FIELDS)

    def part(name: str) -> tuple[object, str]:
        return table[name], f"{where}.{name}"

    return Measured(
        processes=checked.count(*part("processes")),
        host_seconds_per_kernel=checked.number(*part("host_seconds_per_kernel"), least=0.0),
        in_step_factor=checked.number(*part("in_step_factor")),
        asynchronous=checked.truth(*part("asynchronous")),
        products=_by_dtype(*part("products"), _grid),
        batched_products=_by_dtype(*part("batched_products"), _grid),
        operations=_by_dtype(*part("operations"), _operations),
        messages=_messages(*part("messages")),
    )


def _grid_table(grid: ProductGrid) -> dict[str, object]:
    return {"batch": grid.batch, "sizes": list(grid.sizes), "seconds": list(grid.seconds)}


def _lists(curves: Mapping[str, Curve]) -> dict[str, object]:
    return {kind: [list(point) for point in curve.points] for kind, curve in curves.items()}


def _by_dtype(value: object, where: str, read: Callable[[object, str], T]) -> dict[str, T]:
    table = checked.table(value, where)
    if REFERENCE_DTYPE not in table:
        raise checked.FaultyTableError(f"{where} lacks {REFERENCE_DTYPE}")
    return {dtype: read(item, f"{where}.{dtype}") for dtype, item in table.items()}


def _grid(value: object, where: str) -> ProductGrid:
    table = checked.table(value, where, ("batch", "sizes", "seconds"))
    sizes = checked.items(table["sizes"], f"{where}.sizes")
    counts = [checked.count(size, f"{where}.sizes") for size in sizes]
    checked.rising([float(size) for size in counts], f"{where}.sizes")
    seconds = checked.items(table["seconds"], f"{where}.seconds", length=len(counts) ** 3)
    return ProductGrid(
        batch=checked.count(table["batch"], f"{where}.batch"),
        sizes=tuple(counts),
        seconds=tuple(checked.number(item, f"{where}.seconds") for item in seconds),
    )


def _messages(value: object, where: str) -> dict[int, dict[str, Curve]]:
    messages = {}
    for size, item in checked.table(value, where).items():
        if not size.isdecimal() or int(size) < 2:
            raise checked.FaultyTableError(
                f"{where}.{size} is unknown; rule: the processes of a group, 2 or more"
            )
        messages[int(size)] = _curves(item, f"{where}.{size}", MESSAGES)
    return messages


def _operations(value: object, where: str) -> dict[str, Curve]:
    return _curves(value, where, KINDS)


def _curves(value: object, where: str, kinds: tuple[str, ...]) -> dict[str, Curve]:
    table = checked.table(value, where, kinds)
    return {kind: _curve(item, f"{where}.{kind}") for kind, item in table.items()}


def _curve(value: object, where: str) -> Curve:
    points = []
    for point in checked.items(value, where):
        size, seconds = checked.items(point, where, length=2)
        points.append((checked.number(size, where), checked.number(seconds, where)))
    checked.rising([size for size, _ in points], where)
    return Curve(tuple(points))
