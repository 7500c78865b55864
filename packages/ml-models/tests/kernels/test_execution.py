"""Compiled layers give eager layers' numbers; without a compiler there is one sentence."""

import shutil

import pytest
import torch
from model_checks.references import config_of, reference_of, weights_of, whole_model
from torch import Tensor

from ml_models.errors import ConfigError


def run(name: str, execution: str) -> tuple[Tensor, dict[str, Tensor]]:
    config, reference = config_of(name, "gelu_tanh"), reference_of(name)
    model = whole_model(config, weights_of(name, config), execution=execution)
    ids = reference["input_ids"]
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    losses = model(ids, positions, labels=ids.roll(-1, dims=1))
    losses[:, :-1].mean().backward()
    return losses.detach(), {key: value.grad for key, value in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_equals_eager(alone: None) -> None:
    losses, grads = run("hf_b", "eager")
    found, other = run("hf_b", "compiled")
    torch.testing.assert_close(found, losses, rtol=0, atol=2e-5)
    for key, grad in grads.items():
        assert (other[key] - grad).norm() < 1e-4 * grad.norm(), key


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
