"""Per-rank files that are hostile or damaged."""

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from model_checks.legacy import arguments, as_parameters, change_file, guide, save_sliced, whole
from model_checks.reading import check_weights

from ml_models.conversion.open import open_source
from ml_models.errors import MlModelsError, WeightError
from ml_models.weights.boxes import Box
from ml_models.weights.source import Reader


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("entry", ["args", "optimizer", "model", "iteration"])
def test_a_hostile_pickle_is_refused(entry: str, tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (1, 1, 1, 1))
    mark = tmp_path / "mark"
    path = iteration / "mp_rank_00" / "model_optim_rng.pt"
    change_file(path, **{entry: {"a": Command(mark)}})
    with pytest.raises(WeightError, match=r"posix\.system, which is not allowed"):
        open_source("megatron", iteration)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["cut", "bit", "byte of the pickle", "byte of the index", "gap"])
def test_a_damaged_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file, it is a WeightError or another model's, never a crash."""
    sizes = (1, 1, 1, 1)
    args = arguments(sizes, post_norm=True, num_layers=1)
    iteration = save_sliced(tmp_path, whole(post_norm=True, layers=1), args, sizes)
    path = iteration / "mp_rank_00" / "model_optim_rng.pt"
    data, chance, refused = path.read_bytes(), random.Random(kind), 0
    begin, index = data.find(b"data.pkl"), data.find(b"PK\x01\x02")
    for _ in range(40):
        changed = bytearray(data)
        if kind == "cut":
            del changed[chance.randrange(len(data)) :]
        elif kind == "bit":
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "byte of the pickle":
            changed[begin + chance.randrange(9000)] = chance.randrange(256)
        elif kind == "byte of the index":
            changed[chance.randrange(index, len(data))] = chance.randrange(256)
        else:
            at = chance.randrange(len(data))
            del changed[at : at + chance.randrange(1, 200)]
        path.write_bytes(changed)
        try:
            source = open_source("megatron", iteration)
            for name, shape in source.weights.parameter_shapes.items():
                Reader(source).read(name, Box.whole(shape))
        except MlModelsError:
            refused += 1
    # Nearly all bits are of weights, whose checksums are not read: none need be refused.
    assert refused >= (0 if kind == "bit" else 11)


def test_the_file_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide(tmp_path / "in")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a library unpickles")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    check_weights(open_source("megatron", tmp_path / "in"), as_parameters(whole(post_norm=True)))
