"""megatron-core's order of a blend: which part each sequence is from.

Imports megatron-core, so it is imported after the platform was applied.
"""

from collections.abc import Sequence

import numpy as np
from megatron.core.datasets import helpers
from megatron.core.datasets.utils import normalize
from numpy.typing import NDArray


def blend_index(
    weights: Sequence[float], samples: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """(part, sequence of that part) of each sequence of a blend; int16, int64 [samples]."""
    parts, numbers = np.zeros(samples, dtype=np.int16), np.zeros(samples, dtype=np.int64)
    # Normalized twice, as megatron-core's builder and its BlendedDataset do: the last bit of a
    # share decides between parts that lack equally much.
    shares = np.array(normalize(normalize(list(weights))))
    helpers.build_blending_indices(parts, numbers, shares, len(weights), samples, False)
    return parts, numbers
