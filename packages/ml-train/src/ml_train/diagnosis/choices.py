"""Expert choices of two runs, token by token, from what --router-logits-dir wrote.

A token's experts are those with its k largest logits. Two layouts may choose differently only where
the logits in question are closer than the rounding of the arithmetic before them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_train.errors import MlTrainError

CLOSE = 1e-5
"""A choice may differ where the competing logits differ by less: float32 keeps seven digits, and
the sums before a router lose about two of them."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How the choices of two runs compare."""

    compared: int
    """Tokens x layers x steps."""
    differing: int
    largest_margin: float
    """Between the competing logits of the first run, over the tokens that differ."""


def read_logits(folder: Path, step: int) -> Logits:
    """[layers, sequences of the global batch, positions, experts], from the files of all ranks."""
    ranks = [np.load(path) for path in sorted(folder.glob(f"step{step:07}_rank*.npz"))]
    if not ranks:
        raise MlTrainError(f"{folder} has no router logits of step {step}.")
    first = ranks[0]["logits"]
    micro = int(ranks[0]["micro_batch_size"])
    data, tensor = int(ranks[0]["data"][1]), int(ranks[0]["tensor"][1])
    layers = 1 + max(int(rank["layers"].max()) for rank in ranks)
    _, batches, tokens, experts = first.shape
    positions = tokens // micro
    # A global batch holds its sequences by micro batch, data rank and row of the micro batch
    # (ml_train.data.loaders); a tensor rank has a part of the positions of each (sequence
    # parallelism), ordered by position and then by sequence.
    shape = (layers, batches, data, micro, tensor, positions, experts)
    logits = np.full(shape, np.nan, dtype=np.float32)
    for rank in ranks:
        part = rank["logits"].reshape(-1, batches, positions, micro, experts)
        data_rank, tensor_rank = rank["data"][0], rank["tensor"][0]
        logits[rank["layers"], :, data_rank, :, tensor_rank] = part.transpose(0, 1, 3, 2, 4)
    if np.isnan(logits).any():
        raise MlTrainError(f"{folder}: the ranks' files of step {step} do not make up the batch.")
    return logits.reshape(layers, batches * data * micro, tensor * positions, experts)


def compare_choices(first: Path, second: Path, *, steps: int, topk: int) -> Choices:
    """Over steps 1 to `steps`. Raises MlTrainError where a run left no whole record."""
    compared = differing = 0
    margin = 0.0
    for step in range(1, steps + 1):
        logits, others = read_logits(first, step), read_logits(second, step)
        if logits.shape != others.shape:
            raise MlTrainError(f"{first} and {second}: {logits.shape} and {others.shape} logits.")
        chosen, others_chosen = _chosen(logits, topk), _chosen(others, topk)
        compared += chosen[..., 0].size
        left, joined = chosen & ~others_chosen, others_chosen & ~chosen
        moved = left.any(axis=-1)
        differing += int(moved.sum())
        if moved.any():
            # By the first run's logits: how much better the expert was that a token left.
            highest = np.where(left, logits, -np.inf).max(axis=-1)[moved]
            lowest = np.where(joined, logits, np.inf).min(axis=-1)[moved]
            margin = max(margin, float((highest - lowest).max()))
    return Choices(compared=compared, differing=differing, largest_margin=margin)


def _chosen(logits: Logits, topk: int) -> npt.NDArray[np.bool_]:
    """Mask of the topk largest logits of each token; of equal ones the first."""
    mask = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-logits, axis=-1, kind="stable")[..., :topk], True, axis=-1)
    return mask
