"""Router logits of all ranks become one batch again; different choices are found and weighed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_train.diagnosis.choices import compare_choices, read_logits
from ml_train.errors import MlTrainError

LAYERS, SEQUENCES, LENGTH, EXPERTS = 4, 8, 6, 5


def write(folder: Path, logits: np.ndarray, *, pp: int, dp: int, tp: int, micro: int) -> Path:
    """As the ranks of a layout write them: ml_train.training.callbacks.router_logits."""
    folder.mkdir()
    rank = 0
    for stage in range(pp):
        layers = np.arange(LAYERS)[stage * LAYERS // pp : (stage + 1) * LAYERS // pp]
        for data in range(dp):
            for part in range(tp):
                rows = slice(part * LENGTH // tp, (part + 1) * LENGTH // tp)
                batches = []
                for first in range(data * micro, SEQUENCES, micro * dp):
                    block = logits[layers, first : first + micro, rows]
                    batches.append(block.transpose(0, 2, 1, 3).reshape(len(layers), -1, EXPERTS))
                np.savez(
                    folder / f"step0000001_rank{rank:05}.npz",
                    logits=np.stack(batches, axis=1),
                    layers=layers,
                    data=np.array([data, dp]),
                    tensor=np.array([part, tp]),
                    micro_batch_size=np.array(micro),
                )
                rank += 1
    return folder


@pytest.fixture
def logits() -> np.ndarray:
    shape = (LAYERS, SEQUENCES, LENGTH, EXPERTS)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("pp", "dp", "tp", "micro"), [(1, 1, 1, 1), (2, 2, 2, 2), (1, 4, 3, 1)])
def test_the_batch_is_put_together(
    tmp_path: Path, logits: np.ndarray, pp: int, dp: int, tp: int, micro: int
) -> None:
    folder = write(tmp_path / "x", logits, pp=pp, dp=dp, tp=tp, micro=micro)
    assert np.array_equal(read_logits(folder, 1), logits)
    (folder / "step0000001_rank00000.npz").unlink()
    with pytest.raises(MlTrainError, match="router logits|do not make up"):
        read_logits(folder, 1)


def test_choices_that_differ_are_counted_with_their_margin(
    tmp_path: Path, logits: np.ndarray
) -> None:
    logits[1, 2, 3] = [5.0, 4.0, 4.0 - 2e-6, 0.0, 0.0]
    logits[2, 2, 3] = [5.0, 4.0, 3.5, 0.0, 0.0]
    other = logits.copy()
    other[1, 2, 3, 2] = 4.0 + 2e-6
    first = write(tmp_path / "one", logits, pp=1, dp=1, tp=1, micro=1)
    second = write(tmp_path / "two", other, pp=2, dp=2, tp=1, micro=2)
    choices = compare_choices(first, second, steps=1, topk=2)
    assert (choices.compared, choices.differing) == (LAYERS * SEQUENCES * LENGTH, 1)
    assert 0 < choices.largest_margin < 1e-5
    other[2, 2, 3, 2] = 4.1
    third = write(tmp_path / "three", other, pp=1, dp=1, tp=1, micro=1)
    choices = compare_choices(first, third, steps=1, topk=2)
    assert choices.differing == 2 and choices.largest_margin == pytest.approx(0.5)
    assert compare_choices(first, first, steps=1, topk=2).differing == 0
