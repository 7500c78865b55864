"""Grok-2 against the independent fp64 program of the references, fp32, in one process.

The tolerances are those that the references' notes derive from their own fp32 runs.
"""

import pytest
import torch
from model_checks.grok2 import (
    NAMES,
    check_gradients,
    config_of,
    in_release_names,
    reference_of,
    weights_of,
)
from model_checks.references import whole_model
from torch import Tensor

from ml_models import probe, shards

LOGITS, LOSS, ROUTER = 1e-3, 2e-5, 3e-4
HIDDEN = {"g2_a": 2e-4, "g2_b": 4e-6, "g2_tp": 2e-4}
"""g2_b's residual stream is 0.02 small, so that an epsilon shows."""


def positions_of(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


@pytest.mark.parametrize("padding", [0, 128])
@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_reference(name: str, padding: int, alone: None) -> None:
    config, reference = config_of(name), reference_of(name)
    model = whole_model(config, weights_of(name, config), padding=padding)
    ids = reference["input_ids"]
    with probe.record(model) as recorded:
        logits = model(ids, positions_of(ids))[..., : config.vocab_size]
    torch.testing.assert_close(
        logits.double(), reference["logits_fp64"].double(), rtol=0, atol=LOGITS
    )
    limits = {"hidden_states": HIDDEN[name], "router_logits": ROUTER, "final_norm": 2e-4}
    inner = [key for key in reference if key.split(".")[0] in limits]
    assert len(inner) == 2 * config.num_layers + 2
    for key in inner:
        expected = reference[key].transpose(0, 1)
        limit = limits[key.split(".")[0]]
        torch.testing.assert_close(recorded[key].view_as(expected), expected, rtol=0, atol=limit)
    losses = model(ids, positions_of(ids), labels=ids.roll(-1, dims=1))[:, :-1]
    loss = losses.mean()
    assert abs(loss.item() - reference["loss_fp64"].item()) < LOSS
    loss.backward()
    gradients = {shard.key: shard.data.grad for shard in shards.local_shards(model)}
    for key in ("embedding.word_embeddings.weight", "output_layer.weight"):
        assert not gradients[key][config.vocab_size :].any()
        gradients[key] = gradients[key][: config.vocab_size]
    check_gradients(in_release_names(gradients, config), reference)


@pytest.mark.parametrize("name", NAMES)
def test_exact_gelu(name: str, alone: None) -> None:
    config, reference = config_of(name).replace(gelu="exact"), reference_of(name)
    model = whole_model(config, weights_of(name, config))
    ids = reference["input_ids"]
    with torch.no_grad():
        logits = model(ids, positions_of(ids))
        losses = model(ids, positions_of(ids), labels=ids.roll(-1, dims=1))[:, :-1]
    expected = reference["gelu_exact.logits_fp64"].double()
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=LOGITS)
    assert (logits - reference["logits_fp64"]).abs().max() > 5e-3
    assert abs(losses.mean().item() - reference["gelu_exact.loss_fp64"].item()) < LOSS


def test_parts_of_a_layer(alone: None) -> None:
    """A factor on a block's output is lost in the norm behind it: look in front of the norm."""
    name = "g2_b"
    config, reference = config_of(name), reference_of(name)
    model = whole_model(config, weights_of(name, config))
    outputs: dict[str, Tensor] = {}
    for number, layer in enumerate(model.decoder.layers):
        parts = {
            "attn_out": layer.self_attention,
            "mlp_out": layer.dense_mlp,
            "moe_out": layer.mlp,
        }
        for part, module in parts.items():
            module.register_forward_hook(
                lambda _, __, output, key=f"{part}.{number}": outputs.update({key: output[0]})
            )
        layer.post_mlp_layernorm.register_forward_pre_hook(
            lambda _, inputs, key=f"ffn_out.{number}": outputs.update({key: inputs[0]})
        )
    ids = reference["input_ids"]
    with torch.no_grad():
        model(ids, positions_of(ids))
    assert len(outputs) == 4 * config.num_layers
    for key, value in outputs.items():
        expected = reference[key].transpose(0, 1)
        # Their root mean square is 3e-3 to 2e-2.
        torch.testing.assert_close(value, expected, rtol=0, atol=2e-6, msg=key)
