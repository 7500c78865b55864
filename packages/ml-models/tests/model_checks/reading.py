"""Reading a source whole."""

import torch
from torch import Tensor

from ml_models.weights.boxes import Box
from ml_models.weights.source import Reader, Source


def check_weights(source: Source, expected: dict[str, Tensor]) -> None:
    """Every parameter of ours, bit by bit."""
    reader = Reader(source)
    assert set(source.weights.parameter_shapes) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(reader.read(name, Box.whole(tuple(tensor.shape))), tensor), name
