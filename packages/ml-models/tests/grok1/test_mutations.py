"""Each plausible mistake moves the logits as far as the reference's makers measured.

meta.json of a reference lists wrong variants with the largest change of the logits when its own
code computes them. Here our model is given the same mistake: the comparison must fail, and by that
much, so that a passing parity test means that none of these mistakes was made.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_checks.references import (
    DATA,
    HUGGING_FACE,
    config_of,
    reference_of,
    weights_of,
    whole_model,
)
from torch import Tensor

from ml_models.grok1.config import Grok1Config
from ml_models.kernels import rotary
from ml_models.layers import attention

TOLERANCE = {"hf_a": 1e-4, "hf_b": 2e-5, "hf_c": 1e-4}

CONFIG: dict[str, Callable[[Grok1Config], dict[str, Any]]] = {
    "gelu_tanh_instead_of_erf": lambda c: {"activation": "gelu_tanh"},
    "silu_instead_of_gelu": lambda c: {"activation": "silu"},
    "no_attn_tanh_cap": lambda c: {"attention_logit_cap": None},
    "topk_renormalized": lambda c: {"renormalize_topk": True},
    "top1_only": lambda c: {"moe_router_topk": 1},
    "rope_theta_1e5": lambda c: {"rotary_base": 1e5},
    "rms_eps_1e-6": lambda c: {"norm_epsilon": 1e-6},
    "attn_scale_rsqrt_head_dim": lambda c: {"attention_scale": c.kv_channels**-0.5},
    "no_embedding_multiplier": lambda c: {"embedding_multiplier_scale": 1.0},
    "embedding_multiplier_sqrt_hidden": lambda c: {
        "embedding_multiplier_scale": c.hidden_size**0.5
    },
    "no_output_multiplier": lambda c: {"output_multiplier_scale": 1.0},
}


def swap_gate_and_value(weights: dict[str, Tensor], config: Grok1Config) -> None:
    for key in weights:
        if key.endswith("linear_fc1.weight"):
            weights[key] = weights[key].flip(1)


def swap_norms(weights: dict[str, Tensor], config: Grok1Config) -> None:
    """rms_norm_1 (after attention) and rms_norm_2 (before the experts) exchanged."""
    for layer in range(config.num_layers):
        a, b = (
            f"decoder.layers.{layer}.{name}.weight"
            for name in ("post_attention_layernorm", "pre_mlp_layernorm")
        )
        weights[a], weights[b] = weights[b], weights[a]


def tile_heads(weights: dict[str, Tensor], config: Grok1Config) -> None:
    """Query head j reads group j % groups instead of j // (heads / groups)."""
    groups, head = config.num_query_groups, config.kv_channels
    repeat = config.num_attention_heads // groups
    for layer in range(config.num_layers):
        key = f"decoder.layers.{layer}.self_attention.linear_qkv.weight"
        qkv = weights[key].view(groups, repeat + 2, head, -1)
        queries = qkv[:, :repeat].reshape(groups * repeat, head, -1)
        tiled = queries.view(repeat, groups, head, -1).transpose(0, 1)
        weights[key] = torch.cat((tiled, qkv[:, repeat:]), dim=1).reshape(weights[key].shape)
        proj = f"decoder.layers.{layer}.self_attention.linear_proj.weight"
        columns = weights[proj].view(-1, repeat, groups, head).transpose(1, 2)
        weights[proj] = columns.reshape(weights[proj].shape)


WEIGHTS = {
    "swap_linear_and_linear_v": swap_gate_and_value,
    "swap_pre_post_norm_scales": swap_norms,
    "kv_heads_tiled_not_interleaved": tile_heads,
}


def cap_after_mask(self: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
    repeat = query.shape[2] // key.shape[2]
    keys, values = key.repeat_interleave(repeat, 2), value.repeat_interleave(repeat, 2)
    scores = torch.einsum("sbnd,tbnd->bnst", query, keys) * self.scoring.scale
    above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    scores = scores.masked_fill(above, torch.finfo(torch.float32).min)
    weights = (self.scoring.cap * torch.tanh(scores / self.scoring.cap)).softmax(-1)
    return torch.einsum("bnst,tbnd->sbnd", weights, values).flatten(2)


def rotate_neighbours(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cos, sin = angles[..., :half].cos(), angles[..., :half].sin()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


CODE: dict[str, tuple[Any, str, Any]] = {
    "cap_applied_after_mask": (attention.CoreAttention, "forward", cap_after_mask),
    "rope_interleaved": (rotary, "rotate", rotate_neighbours),
}
REMOVED_NORMS = {
    "no_post_attn_norm": "post_attention_layernorm",
    "no_post_moe_norm": "post_mlp_layernorm",
}


def variants_of(name: str) -> dict[str, float]:
    meta = json.loads((DATA / name / "meta.json").read_text())
    listed = meta["sensitivity_of_logits_to_wrong_variants"]
    return {key: value["max_abs"] for key, value in listed.items()}


CASES = [(name, variant) for name in HUGGING_FACE for variant in variants_of(name)]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_wrong_variant_is_noticed(
    name: str, variant: str, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name, "gelu_erf")
    weights = weights_of(name, config)
    if variant in CONFIG:
        config = config.replace(**CONFIG[variant](config))
    elif variant in WEIGHTS:
        WEIGHTS[variant](weights, config)
    elif variant in CODE:
        monkeypatch.setattr(*CODE[variant])
    model = whole_model(config, weights)
    if variant in REMOVED_NORMS:
        for layer in model.decoder.layers:
            setattr(layer, REMOVED_NORMS[variant], torch.nn.Identity())
    reference = reference_of(name)
    ids = reference["input_ids"]
    with torch.no_grad():
        logits = model(ids, torch.arange(ids.shape[1]).expand_as(ids))
    error = (logits - reference["logits"]).abs().max().item()
    assert error > TOLERANCE[name]
    assert error == pytest.approx(variants_of(name)[variant], rel=0.02, abs=3 * TOLERANCE[name] / 2)
