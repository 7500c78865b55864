"""Seconds of the kernels of a step on a measured device."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ml_train.planning.calibration.measured import REFERENCE_DTYPE, Measured
from ml_train.planning.calibration.operations import kind_of

if TYPE_CHECKING:
    from ml_models.costs.recorder import Kernel

T = TypeVar("T")


def kernel_seconds(kernel: "Kernel", measured: Measured) -> float:
    """Of a kernel measured alone, without the host's part. Messages are not kernels."""
    if kernel.shape is None:
        dtype = str(kernel.dtype).removeprefix("torch.")
        curves = _of_dtype(measured.operations, dtype)
        return curves[kind_of(kernel.name)].seconds(kernel.moved_bytes)
    shape = kernel.shape
    grids = measured.products if shape.batch == 1 else measured.batched_products
    grid = _of_dtype(grids, str(shape.dtype).removeprefix("torch."))
    return grid.of_product(shape.batch, shape.rows, shape.columns, shape.inner)


def computing_seconds(kernels: Iterable["Kernel"], measured: Measured) -> float:
    """Of the kernels of a step, with the host's part."""
    computing = [kernel for kernel in kernels if kernel.kind != "communication"]
    alone = sum(kernel_seconds(kernel, measured) for kernel in computing)
    device = measured.in_step_factor * alone
    host = len(computing) * measured.host_seconds_per_kernel
    return max(device, host) if measured.asynchronous else device + host


def _of_dtype(tables: Mapping[str, T], dtype: str) -> T:
    return tables.get(dtype, tables[REFERENCE_DTYPE])
