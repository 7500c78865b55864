"""The weight maps of every named model."""

import pytest
import torch

from ml_models import registry
from ml_models.weights.maps import build_map


@pytest.mark.parametrize("name", registry.names())
def test_every_named_model_has_complete_maps(name: str) -> None:

    model = registry.get(name)
    maps = registry.architecture(model).weights()
    weights = build_map(maps.huggingface_rows(model), maps.shapes(model), model)
    elements = sum(torch.Size(shape).numel() for shape in weights.parameter_shapes.values())
    assert elements == sum(torch.Size(shape).numel() for shape in weights.tensor_shapes.values())
    if name == "grok1-314b":
        assert (
            elements == 64 * (24 * 6144 * 32768 + 6144 * 14336 + 12 * 6144) + 131072 * 6144 + 6144
        )
