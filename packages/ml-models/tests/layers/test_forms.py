"""The modules of a model get their forms when it is built, and every form trains the same model."""

import pytest
import torch
from model_checks.references import config_of, reference_of, weights_of, whole_model

from ml_models import registry
from ml_models.build import build_model, make_transformer_config
from ml_models.kernels.selection import Situation
from ml_models.kernels.table import KernelSettings
from ml_models.layers.attention import CoreAttention
from ml_models.layers.forms import set_forms
from ml_models.scoring import Scoring

SITUATION = Situation(device="cuda", dtype="bfloat16", scoring=Scoring(scale=0.5), head_size=16)


def test_modules_get_their_forms_by_their_own_scoring() -> None:
    class Layer(torch.nn.Module):
        def __init__(self, scoring: Scoring) -> None:
            super().__init__()
            self.core = CoreAttention()
            self.core.scoring = scoring

    model = torch.nn.Sequential(Layer(Scoring(1.0, 30.0)), Layer(Scoring(1.0)))
    set_forms(model, KernelSettings(attention="unfused"), SITUATION)
    assert all(layer.core.kernel_forms == {"attention": "reference"} for layer in model)


@pytest.mark.parametrize("name", ["grok1-tiny", "grok1-40b-guide", "mixtral-tiny", "grok2-tiny"])
def test_a_configuration_tells_the_rule_that_its_layers_follow(name: str, alone: None) -> None:
    """show-config chooses by the configuration, and a run by the layers."""
    changes = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 32, "vocab_size": 64}
    model = registry.get(name).replace(**changes)
    settings = make_transformer_config(model, perform_initialization=False)
    built = build_model(model, settings, padded_vocab_size=64, pre_process=True, post_process=True)
    rules = {module.scoring for module in built.modules() if isinstance(module, CoreAttention)}
    assert rules == {model.attention_scoring}


@pytest.mark.parametrize(("cap", "asked"), [(30.0, "unfused"), (None, "unfused"), (None, "fused")])
def test_a_model_gives_the_same_by_every_form(cap: float | None, asked: str, alone: None) -> None:
    """Losses and gradients of a whole model, whose forms are chosen when it is built."""
    config = config_of("hf_b", "gelu_tanh").replace(attention_logit_cap=cap)
    reference, weights = reference_of("hf_b"), weights_of("hf_b", config)
    ids = reference["input_ids"]
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    results = {}
    for request in ("local", asked):
        model = whole_model(config, weights, kernels=KernelSettings(attention=request))
        losses = model(ids, positions, None, labels=ids.roll(-1, dims=1))
        losses[:, :-1].mean().backward()
        results[request] = {name: p.grad for name, p in model.named_parameters()}
        results[request]["losses"] = losses.detach()
    for name, wanted in results["local"].items():
        off = (results[asked][name] - wanted).norm()
        assert off <= 1e-4 * wanted.norm(), (name, off / wanted.norm())
    forms = {
        module.kernel_forms["attention"]
        for module in model.modules()
        if isinstance(module, CoreAttention)
    }
    assert forms == {"sdpa" if asked == "fused" else "reference"}
