"""Grok-1 in fp64 by plain autograd, one expert at a time: what rounding is measured by."""

from typing import Any

import torch
from torch import Tensor

from ml_models.grok1.config import Grok1Config


def gradients(weights: dict[str, Tensor], ids: Tensor, config: Grok1Config) -> dict[str, Tensor]:
    """d loss / d parameter by our names, and "loss"; `weights` are whole, of any dtype."""
    leaves = {key: value.double().requires_grad_() for key, value in weights.items()}
    loss = _loss(leaves, ids, config)
    loss.backward()
    gradients: dict[str, Any] = {key: value.grad for key, value in leaves.items()}
    return {**gradients, "loss": loss.detach()}


def _loss(weights: dict[str, Tensor], ids: Tensor, config: Grok1Config) -> Tensor:
    table = weights["embedding.word_embeddings.weight"]
    x = table[ids] * config.embedding_multiplier_scale
    for layer in range(config.num_layers):
        own = {
            key.removeprefix(f"decoder.layers.{layer}."): value
            for key, value in weights.items()
            if key.startswith(f"decoder.layers.{layer}.")
        }
        attended = _attention(_norm(x, own["input_layernorm.weight"], config), own, config)
        x = x + _norm(attended, own["post_attention_layernorm.weight"], config)
        routed = _experts(_norm(x, own["pre_mlp_layernorm.weight"], config), own, config)
        x = x + _norm(routed, own["post_mlp_layernorm.weight"], config)
    logits = _norm(x, weights["decoder.final_layernorm.weight"], config) @ table.t()
    logits = logits[:, :-1] * config.output_multiplier_scale
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _norm(x: Tensor, weight: Tensor, config: Grok1Config) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + config.norm_epsilon).sqrt()


def _rotate(x: Tensor, base: float) -> Tensor:
    half = x.shape[-1] // 2
    # The tables are part of the model: both public codes make them in fp32.
    frequency = 1.0 / base ** (torch.arange(half).float() / half)
    angle = torch.arange(x.shape[1]).float()[:, None] * frequency
    cos, sin = angle.cos().double()[:, None], angle.sin().double()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _attention(x: Tensor, own: dict[str, Tensor], config: Grok1Config) -> Tensor:
    groups, size = config.num_query_groups, config.kv_channels
    repeat = config.num_attention_heads // groups
    qkv = (x @ own["self_attention.linear_qkv.weight"].t()).unflatten(
        -1, (groups, repeat + 2, size)
    )
    query = _rotate(qkv[..., :repeat, :].flatten(2, 3), config.rotary_base)
    key = _rotate(qkv[..., repeat, :], config.rotary_base).repeat_interleave(repeat, dim=2)
    value = qkv[..., repeat + 1, :].repeat_interleave(repeat, dim=2)
    scores = torch.einsum("bsnd,btnd->bnst", query, key) * config.attention_scale
    cap = config.attention_logit_cap
    assert cap is not None
    scores = cap * torch.tanh(scores / cap)
    above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(above, float("-inf")).softmax(-1)
    out = torch.einsum("bnst,btnd->bsnd", weights, value).flatten(2)
    return out @ own["self_attention.linear_proj.weight"].t()


def _experts(x: Tensor, own: dict[str, Tensor], config: Grok1Config) -> Tensor:
    tokens = x.flatten(0, 1)
    scores = (tokens @ own["mlp.router.weight"].t()).softmax(-1)
    top = scores.topk(config.moe_router_topk, dim=-1)
    approximate = "tanh" if config.activation == "gelu_tanh" else "none"
    out = torch.zeros_like(tokens)
    for expert in range(config.num_experts):
        gate, value = own["mlp.experts.linear_fc1.weight"][expert]
        down = own["mlp.experts.linear_fc2.weight"][expert]
        inner = torch.nn.functional.gelu(tokens @ gate.t(), approximate=approximate)
        result = (inner * (tokens @ value.t())) @ down.t()
        share = (top.values * (top.indices == expert)).sum(-1, keepdim=True)
        out = out + share * result
    return out.view_as(x)
