"""Expert choices of two runs, token by token, from what --router-logits-dir wrote.

A token's experts are those with its k largest logits. Two layouts may choose differently only where
the logits in question are closer than the rounding of the arithmetic before them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_train.errors import MlTrainError

CLOSE = 1e-5
"""A choice may differ where the competing logits differ by less."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How the choices of two runs compare."""

    compared: int
    """Tokens x layers x steps."""
    differing: int
    largest_margin: float
    """Between the competing logits of the first run, over the tokens that differ."""


def read_logits(folder: Path, step: int) -> np.ndarray:
    """[layers, sequences of the global batch, positions, experts], from the files of all ranks."""
    ranks = [np.load(path) for path in sorted(folder.glob(f"step{step:07}_rank*.npz"))]
    if not ranks:
        raise MlTrainError(f"{folder} has no router logits of step {step}.")
    first = ranks[0]["logits"]
    micro = int(ranks[0]["micro_batch_size"])
    data, tensor = int(ranks[0]["data"][1]), int(ranks[0]["tensor"][1])
    layers = 1 + max(int(rank["layers"].max()) for rank in ranks)
    _, batches, tokens, experts = first.shape
    here = tokens // micro
    # Sequences by micro batch, data rank and place in the micro batch: ml_train.data.loaders.
    shape = (layers, batches, data, micro, tensor, here, experts)
    found = np.full(shape, np.nan, dtype=np.float32)
    for rank in ranks:
        part = rank["logits"].reshape(-1, batches, here, micro, experts).transpose(0, 1, 3, 2, 4)
        found[rank["layers"], :, rank["data"][0], :, rank["tensor"][0]] = part
    if np.isnan(found).any():
        raise MlTrainError(f"{folder}: the ranks' files of step {step} do not make up the batch.")
    return found.reshape(layers, batches * data * micro, tensor * here, experts)


def compare_choices(first: Path, second: Path, *, steps: int, topk: int) -> Choices:
    """Over steps 1 to `steps`. Raises MlTrainError where a run left no whole record."""
    compared = differing = 0
    margin = 0.0
    for step in range(1, steps + 1):
        ours, theirs = read_logits(first, step), read_logits(second, step)
        if ours.shape != theirs.shape:
            raise MlTrainError(f"{first} and {second}: {ours.shape} and {theirs.shape} logits.")
        chosen = [_chosen(each, topk) for each in (ours, theirs)]
        compared += chosen[0][..., 0].size
        left, joined = chosen[0] & ~chosen[1], chosen[1] & ~chosen[0]
        moved = left.any(axis=-1)
        differing += int(moved.sum())
        if moved.any():
            highest = np.where(left, ours, -np.inf).max(axis=-1)[moved]
            lowest = np.where(joined, ours, np.inf).min(axis=-1)[moved]
            margin = max(margin, float((highest - lowest).max()))
    return Choices(compared=compared, differing=differing, largest_margin=margin)


def _chosen(logits: np.ndarray, topk: int) -> Any:
    """Mask of the topk largest."""
    mask = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-logits, axis=-1, kind="stable")[..., :topk], True, axis=-1)
    return mask
