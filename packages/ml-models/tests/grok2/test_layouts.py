"""Grok-2's outputs, loss and gradients against the references, in every kind of layout."""

import pytest
import torch
from model_checks.grok2 import (
    check_gradients,
    config_of,
    in_release_names,
    reference_of,
    weights_of,
)
from model_checks.group import Group
from model_checks.step import initial_weights, run_step
from torch import Tensor

LAYOUTS = {
    "tp2": (2, 1, 1, 1),
    "pp2": (1, 2, 1, 1),
    "ep4": (1, 1, 4, 1),
    "tp2-pp2-ep2": (2, 2, 2, 1),
    "tp2-ep2-etp2": (2, 1, 2, 2),
}
CHECKS = [("g2_tp", name) for name in LAYOUTS] + [("g2_b", "tp2-ep2-etp2"), ("g2_a", "tp2")]
HIDDEN = {"g2_a": 2e-4, "g2_b": 4e-6, "g2_tp": 2e-4}


def check(result: dict[str, Tensor], name: str) -> None:
    config, reference = config_of(name), reference_of(name)
    limits = {"hidden_states": HIDDEN[name], "router_logits": 3e-4, "final_norm": 2e-4}
    logits = result["logits"][..., : config.vocab_size]
    torch.testing.assert_close(logits, reference["logits"], rtol=0, atol=1e-3)
    torch.testing.assert_close(result["loss"], reference["loss"], rtol=0, atol=2e-5)
    for key, expected in reference.items():
        if limit := limits.get(key.split(".")[0]):
            torch.testing.assert_close(result[key], expected, rtol=0, atol=limit)
    gradients = {
        key.removeprefix("grad."): value for key, value in result.items() if key.startswith("grad.")
    }
    for key in ("embedding.word_embeddings.weight", "output_layer.weight"):
        gradients[key] = gradients[key][: config.vocab_size]
    check_gradients(in_release_names(gradients, config), reference)


@pytest.mark.parametrize(("model", "name"), CHECKS)
def test_outputs_and_gradients(model: str, name: str, group4: Group) -> None:
    config, reference = config_of(model), reference_of(model)
    weights = weights_of(model, config)
    results = group4.run(run_step, config, weights, reference["input_ids"], LAYOUTS[name])
    check(results[0], model)


def test_initial_weights_do_not_depend_on_the_layout(group4: Group) -> None:
    config = config_of("g2_tp")
    expected = group4.run(initial_weights, config, (1, 1, 1, 1))[0]
    names = {f"decoder.layers.1.dense_mlp.linear_fc{part}.weight" for part in (1, 2)}
    assert names < set(expected)
    for layout in ("tp2-pp2-ep2", "tp2-ep2-etp2", "ep4"):
        whole = group4.run(initial_weights, config, LAYOUTS[layout])[0]
        assert set(whole) == set(expected)
        assert all(torch.equal(whole[key], expected[key]) for key in expected), layout
