"""A device with the same rate for every size. Seconds have the six digits that a file keeps."""

from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.measured import MESSAGES, Measured
from ml_train.planning.calibration.operations import KINDS
from ml_train.planning.calibration.products import ProductGrid, corners, product_flops

FLOPS_PER_SECOND = 1e10
BYTES_PER_SECOND = 1e9
SIZES = (1, 4096)


def grid(rate: float = FLOPS_PER_SECOND, batch: int = 1) -> ProductGrid:
    seconds = tuple(
        float(f"{product_flops(batch, *corner) / rate:.6g}") for corner in corners(SIZES)
    )
    return ProductGrid(batch=batch, sizes=SIZES, seconds=seconds)


def curve(rate: float = BYTES_PER_SECOND) -> Curve:
    return Curve(((1.0, 1 / rate), (1e9, 1e9 / rate)))


def measured(processes: int = 1, **changes: object) -> Measured:
    groups = [size for size in range(2, processes + 1) if processes % size == 0]
    figures: dict[str, object] = {
        "processes": processes,
        "host_seconds_per_kernel": 0.0,
        "in_step_factor": 1.0,
        "asynchronous": False,
        "products": {"float32": grid(), "bfloat16": grid(FLOPS_PER_SECOND / 2)},
        "batched_products": {"float32": grid(batch=8)},
        "operations": {"float32": {kind: curve() for kind in KINDS}},
        "messages": {size: {kind: curve() for kind in MESSAGES} for size in groups},
    }
    return Measured(**{**figures, **changes})  # type: ignore[arg-type]
