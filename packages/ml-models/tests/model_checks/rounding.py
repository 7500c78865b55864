"""How far a reference's own gradients, which are fp32, are from the same model in fp64."""

from functools import cache

import pytest

from model_checks import double
from model_checks.references import config_of, reference_of, to_hugging_face, weights_of


@cache
def reference_errors(name: str) -> dict[str, float]:
    """grad.NAME and grad_norm.NAME -> the reference's relative distance from fp64."""
    config, reference = config_of(name, "gelu_erf"), reference_of(name)
    exact = double.gradients(weights_of(name, config), reference["input_ids"], config)
    assert exact.pop("loss").item() == pytest.approx(reference["loss"].item(), rel=1e-6)
    exact = to_hugging_face(exact, config)
    errors = {}
    for key, value in reference.items():
        kind, _, parameter = key.partition(".")
        if kind == "grad":
            apart = (value - exact[parameter]).norm()
        elif kind == "grad_norm":
            apart = (value - exact[parameter].norm()).abs().view(())
        else:
            continue
        errors[key] = (apart / exact[parameter].norm()).item()
    return errors
