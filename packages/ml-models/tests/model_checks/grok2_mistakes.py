"""Mistakes that can be made in Grok-2, put into this project's model.

Each function takes a built model. The names are those of the references' meta.json, which say how
far the logits of the references' own program move under the mistake.
"""

import math
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor

Mistake = Callable[[Any], None]


def each_layer(change: Mistake) -> Mistake:
    def mistake(model: Any) -> None:
        for layer in model.decoder.layers:
            change(layer)

    return mistake


def gelu(activation: str, *, dense: bool, experts: bool) -> Mistake:
    def change(layer: Any) -> None:
        if dense:
            layer.dense_mlp.activation = activation
        if experts:
            layer.mlp.experts.activation = activation

    return each_layer(change)


def norm_epsilon(*names: str) -> Mistake:
    """1e-6 in the norms with these names; "final" is the one behind the layers."""

    def mistake(model: Any) -> None:
        if "final" in names:
            model.decoder.final_layernorm.eps = 1e-6
        for layer in model.decoder.layers:
            for name in set(names) - {"final"}:
                getattr(layer, name).eps = 1e-6

    return mistake


def without_norm(name: str) -> Mistake:
    return each_layer(lambda layer: setattr(layer, name, torch.nn.Identity()))


# --- The feed-forward part -----------------------------------------------------------------------


def feed_forward(combine: Callable[[Tensor, Tensor], Tensor]) -> Mistake:
    """`combine` gets the outputs of the dense MLP and of the experts."""

    def changed(layer: Any, normed: Tensor) -> Tensor:
        return combine(layer.dense_mlp(normed)[0], layer.mlp(normed)[0])

    return each_layer(lambda layer: setattr(layer, "feed_forward", MethodType(changed, layer)))


def _layer_forward(
    layer: Any, hidden: Tensor, *, norm_the_sum: bool, dense_reads_hidden: bool, **settings: Any
) -> tuple[Tensor, None]:
    attended, _ = layer.self_attention(
        layer.input_layernorm(hidden),
        attention_mask=settings["attention_mask"],
        rotary_pos_emb=settings["rotary_pos_emb"],
    )
    after_attention, after_mlp = layer.post_attention_layernorm, layer.post_mlp_layernorm
    if norm_the_sum:
        hidden = after_attention(hidden + attended)
    else:
        hidden = hidden + after_attention(attended)
    normed = layer.pre_mlp_layernorm(hidden)
    dense = layer.dense_mlp(hidden if dense_reads_hidden else normed)[0]
    mixed = (dense + layer.mlp(normed)[0]) / math.sqrt(2)
    return (after_mlp(hidden + mixed) if norm_the_sum else hidden + after_mlp(mixed)), None


def layer_forward(*, norm_the_sum: bool = False, dense_reads_hidden: bool = False) -> Mistake:
    changed = partial(
        _layer_forward, norm_the_sum=norm_the_sum, dense_reads_hidden=dense_reads_hidden
    )

    def change(layer: Any) -> None:
        layer.forward = lambda hidden_states, **settings: changed(
            layer,
            hidden_states,
            attention_mask=settings["attention_mask"],
            rotary_pos_emb=settings["rotary_pos_emb"],
        )

    return each_layer(change)


# --- The router ----------------------------------------------------------------------------------


def cap_on_probabilities(model: Any) -> None:
    def forward(router: Any, tokens: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        scores = 30 * torch.tanh(router.gating(tokens).softmax(-1) / 30)
        top, chosen = torch.topk(scores, router.topk, dim=-1)
        probs = torch.zeros_like(scores).scatter(1, chosen, top)
        return probs, torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)

    for layer in model.decoder.layers:
        layer.mlp.router.forward = MethodType(forward, layer.mlp.router)


# --- Attention -----------------------------------------------------------------------------------

Scores = Callable[[Any, Tensor, Tensor], Tensor]
"""(rule, q.k [B, N, S, S], positions [S]) -> scores before the mask."""


def attention(scores_of: Scores, *, cap_after_mask: bool = False) -> Mistake:
    def forward(core: Any, query: Tensor, key: Tensor, value: Tensor, _: Any) -> Tensor:
        repeat = query.shape[2] // key.shape[2]
        keys, values = key.repeat_interleave(repeat, 2), value.repeat_interleave(repeat, 2)
        positions = torch.arange(query.shape[0]).float()
        products = torch.einsum("sbnd,tbnd->bnst", query, keys)
        scores = scores_of(core.scoring, products, positions)
        above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(above, torch.finfo(torch.float32).min)
        if cap_after_mask:
            scores = _capped(core.scoring, scores) * _factor(core.scoring, positions)[:, None]
        return torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), values).flatten(2)

    def change(layer: Any) -> None:
        core = layer.self_attention.core_attention
        core.forward = MethodType(forward, core)

    return each_layer(change)


def _capped(rule: Any, scores: Tensor) -> Tensor:
    return rule.cap * torch.tanh(scores / rule.cap)


def _factor(rule: Any, positions: Tensor) -> Tensor:
    length = rule.temperature_length
    factors = positions.clamp(min=1).log2() / math.log2(length)
    return torch.where(positions > length, factors, 1.0)


def scaled_only(rule: Any, products: Tensor, _: Tensor) -> Tensor:
    return products * rule.scale


def cap_before_scale(rule: Any, products: Tensor, positions: Tensor) -> Tensor:
    return _capped(rule, products) * rule.scale * _factor(rule, positions)[:, None]


def temperature_before_cap(rule: Any, products: Tensor, positions: Tensor) -> Tensor:
    return _capped(rule, products * rule.scale * _factor(rule, positions)[:, None])


def temperature_of_keys(rule: Any, products: Tensor, positions: Tensor) -> Tensor:
    return _capped(rule, products * rule.scale) * _factor(rule, positions)


def temperature(factor_of: Callable[[Tensor, int], Tensor]) -> Mistake:
    """`factor_of` gets positions fp32 [S] and the length."""

    def scores_of(rule: Any, products: Tensor, positions: Tensor) -> Tensor:
        factors = factor_of(positions, rule.temperature_length)
        return _capped(rule, products * rule.scale) * factors[:, None]

    return attention(scores_of)


def from_one(positions: Tensor, length: int) -> Tensor:
    shifted = positions + 1
    return torch.where(shifted > length, shifted.log2() / math.log2(length), 1.0)


def without_floor(positions: Tensor, length: int) -> Tensor:
    return positions.clamp(min=1).log2() / math.log2(length)


def length_over_position(positions: Tensor, length: int) -> Tensor:
    """SGLang's unified kernel."""
    return torch.where(positions < length, 1.0, length / (positions + 1))


def at_the_length_too(positions: Tensor, length: int) -> Tensor:
    return torch.where(positions >= length, positions.clamp(min=1).log2() / math.log2(length), 1.0)


def attention_scale(scale_of: Callable[[Any], float]) -> Mistake:
    """`scale_of` gets megatron-core's settings."""
    from dataclasses import replace

    def mistake(model: Any) -> None:
        for layer in model.decoder.layers:
            core = layer.self_attention.core_attention
            core.scoring = replace(core.scoring, scale=scale_of(model.config))

    return mistake


# --- Rotary positions ----------------------------------------------------------------------------

FACTOR, TRAINED, BETA_FAST, BETA_SLOW = 16.0, 8192, 8, 1
MAGNITUDE = 1 + 0.1 * math.log(FACTOR)


def rotary_frequencies(change: Callable[[Tensor, float], Tensor]) -> Mistake:
    """`change` gets the plain frequencies [D / 2] and theta."""

    def mistake(model: Any) -> None:
        rotary = model.rotary_pos_emb
        # The cache of megatron-core is by length; a new model has none yet.
        rotary.inv_freq = change(rotary.inv_freq, 208533496.0)

    return mistake


def yarn_frequencies(plain: Tensor, theta: float) -> Tensor:
    """Plain above BETA_FAST turns within TRAINED positions, divided by FACTOR below BETA_SLOW."""
    half = len(plain)

    def channel_of(turns: float) -> float:
        return half * math.log(TRAINED / (turns * 2 * math.pi)) / math.log(theta)

    low = max(math.floor(channel_of(BETA_FAST)), 0)
    high = min(math.ceil(channel_of(BETA_SLOW)), 2 * half - 1)
    ramp = ((torch.arange(half).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / FACTOR * ramp + plain * (1 - ramp)


def yarn(model: Any) -> None:
    """llama.cpp's converter: frequencies, and both q and k times MAGNITUDE."""
    rotary_frequencies(yarn_frequencies)(model)
    attention_scale(lambda config: config.kv_channels**-0.5 * MAGNITUDE**2)(model)


def rotate_neighbours(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cos, sin = angles[..., :half].cos(), angles[..., :half].sin()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
