"""The figures of a device as makers state them, from what was measured on this machine."""

import platform as system
import time
from collections.abc import Sequence

from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.measured import REFERENCE_DTYPE, Measured


def figures_of(
    measured: Sequence[Measured], *, platform: str, memory_bytes: float
) -> dict[str, object]:
    """Fields of ml_models.platforms.devices.Device, for a device file.

    measured: by rising number of processes. memory_bytes: of a device.
    """
    alone, together = measured[0], measured[-1]
    tflops = {dtype: grid.best_rate / 1e12 for dtype, grid in alone.products.items()}
    memory = _largest_rate(alone.operations[REFERENCE_DTYPE]["in_place"])
    # Without a second process nothing was sent. Processes of a machine send through its memory.
    pair = together.messages.get(2)
    host = system.node()
    return {
        "title": f"{platform} of {host}",
        "memory_bytes": float(memory_bytes),
        "tflops": tflops,
        "memory_bytes_per_second": memory,
        "intra_node_bytes_per_second": _largest_rate(pair["send"]) if pair else memory,
        "devices_per_node": together.processes,
        "source": f"ml-train plan --calibrate on {host}, {time.strftime('%Y-%m-%d')}",
    }


def _largest_rate(curve: Curve) -> float:
    """Bytes per second of the largest measured size, which no cache holds."""
    num_bytes, seconds = curve.points[-1]
    return num_bytes / seconds
