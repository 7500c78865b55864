"""Compiled layers give eager layers' numbers; without a compiler there is one sentence."""

import shutil

import pytest
import torch
from model_checks import grok2
from model_checks.references import config_of, reference_of, weights_of, whole_model
from torch import Tensor

from ml_models.errors import ConfigError

LIMITS = {"hf_b": 1e-4, "g2_b": 3e-4}
"""Of a gradient's norm, as for the references."""


def run(name: str, execution: str) -> tuple[Tensor, dict[str, Tensor]]:
    if name in grok2.NAMES:
        config = grok2.config_of(name)
        weights, reference = grok2.weights_of(name, config), grok2.reference_of(name)
    else:
        config = config_of(name, "gelu_tanh")
        weights, reference = weights_of(name, config), reference_of(name)
    model = whole_model(config, weights, execution=execution)
    ids = reference["input_ids"]
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    losses = model(ids, positions, labels=ids.roll(-1, dims=1))
    losses[:, :-1].mean().backward()
    return losses.detach(), {key: value.grad for key, value in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ["hf_b", "g2_b"])
def test_compiled_equals_eager(name: str, alone: None) -> None:
    losses, grads = run(name, "eager")
    found, other = run(name, "compiled")
    torch.testing.assert_close(found, losses, rtol=0, atol=2e-5)
    for key, grad in grads.items():
        assert (other[key] - grad).norm() < LIMITS[name] * grad.norm(), key


def test_no_compiler_is_said(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler.*g\\+\\+ and clang.*or choose eager"):
        run("hf_b", "compiled")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler cannot be found"):
        run("hf_b", "compiled")
    with pytest.raises(ConfigError, match="must be eager or compiled"):
        run("hf_b", "fast")


def test_a_torch_compile_that_compiles_nothing_is_said(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(function: object, **_: object) -> object:
        return function

    # As MindSpeed's adaptor does it.
    compile_nothing.__module__ = "mindspeed.patch_utils"
    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(ConfigError, match=r"mindspeed\.patch_utils has replaced torch\.compile"):
        run("hf_b", "compiled")
