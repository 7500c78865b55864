"""Each plausible mistake moves the logits as far as the references' makers measured.

meta.json of a reference lists wrong variants, those of the four engines among them, with the
largest change of the logits when the reference's own program computes them. Here this project's
model gets the same mistake: it must be noticed, and by that much.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from model_checks import grok2_mistakes as mistakes
from model_checks.grok2 import NAMES, config_of, logits_of, meta_of, reference_of, weights_of
from model_checks.references import whole_model
from torch import Tensor

from ml_models.grok2.config import Grok2Config
from ml_models.kernels import rotary

NOTICED = 1e-3
"""The tolerance of the logits."""
UNNOTICED = frozenset({"temperature_ge_instead_of_gt"})
"""The same numbers: at the length the factor is log2(n) / log2(n)."""
SEEN_BY_G2_B_ALONE = frozenset({"eps_1e-6_in_final_norm_only", "eps_1e-6_in_pre_norms_only"})
SCALED_THETA = math.log(131072 / (2 * math.pi)) / math.log(8192 / (2 * math.pi))

Fields = Callable[[Grok2Config], Mapping[str, Any]]


def fields(**values: Any) -> Fields:
    return lambda _: values


NO_TEMPERATURE = {"attention_temperature_length": None}
LLAMA_CPP = {**NO_TEMPERATURE, "router_logit_cap": None, "renormalize_topk": True}
VLLM = {**NO_TEMPERATURE, "gelu": "exact"}
CONFIG: Mapping[str, Fields] = MappingProxyType(
    {
        "gelu_exact_everywhere": fields(gelu="exact"),
        "no_attention_cap": fields(attention_logit_cap=None),
        "no_temperature": fields(**NO_TEMPERATURE),
        "rope_theta_1e4": fields(rotary_base=1e4),
        "rope_theta_1e6_unscaled_base": fields(rotary_base=1e6),
        "rope_theta_scaled_again": lambda c: {"rotary_base": c.rotary_base**SCALED_THETA},
        "top2_renormalised": fields(renormalize_topk=True),
        "softmax_over_chosen_only": fields(renormalize_topk=True),
        "router_cap_off": fields(router_logit_cap=None),
        "top1_instead_of_top2": fields(moe_router_topk=1),
        "no_final_cap": fields(final_logit_cap=None),
        "no_output_multiplier": fields(output_multiplier_scale=1.0),
        # m * cap * tanh(x / cap) is a cap m * cap on logits m * x.
        "output_multiplier_after_final_cap": lambda c: {
            "final_logit_cap": c.final_logit_cap * c.output_multiplier_scale
        },
        "no_embedding_multiplier": fields(embedding_multiplier_scale=1.0),
        "embedding_multiplier_sqrt_hidden": lambda c: {
            "embedding_multiplier_scale": c.hidden_size**0.5
        },
        "eps_1e-6": fields(norm_epsilon=1e-6),
        "ENGINE llama.cpp, without the yarn keys": fields(**LLAMA_CPP),
        "ENGINE llama.cpp, yarn keys as its converter writes them": fields(**LLAMA_CPP),
        "ENGINE vLLM (exact GELU, no temperature)": fields(**VLLM),
        "ENGINE vLLM, tied as well (config without tie_word_embeddings)": fields(**VLLM),
        "ENGINE SGLang CUDA (exact GELU)": fields(gelu="exact"),
        "ENGINE SGLang unified kernel (exact GELU, len/(p+1))": fields(gelu="exact"),
    }
)
PRE_NORMS = ("input_layernorm", "pre_mlp_layernorm")
MODEL: Mapping[str, mistakes.Mistake] = MappingProxyType(
    {
        "gelu_exact_in_dense_mlp_only": mistakes.gelu("gelu_erf", dense=True, experts=False),
        "gelu_exact_in_experts_only": mistakes.gelu("gelu_erf", dense=False, experts=True),
        "silu_for_gelu": mistakes.gelu("silu", dense=True, experts=True),
        "attention_cap_after_mask": mistakes.attention(mistakes.scaled_only, cap_after_mask=True),
        "attention_cap_before_scale": mistakes.attention(mistakes.cap_before_scale),
        "attention_scale_hidden_over_heads": mistakes.attention_scale(
            lambda config: (config.hidden_size / config.num_attention_heads) ** -0.5
        ),
        "temperature_before_cap": mistakes.attention(mistakes.temperature_before_cap),
        "temperature_from_key_position": mistakes.attention(mistakes.temperature_of_keys),
        "temperature_position_from_one": mistakes.temperature(mistakes.from_one),
        "temperature_without_floor_of_one": mistakes.temperature(mistakes.without_floor),
        "temperature_length_over_position": mistakes.temperature(mistakes.length_over_position),
        "temperature_ge_instead_of_gt": mistakes.temperature(mistakes.at_the_length_too),
        "rope_yarn_frequencies_only": mistakes.rotary_frequencies(mistakes.yarn_frequencies),
        "rope_original_read_as_yarn": mistakes.yarn,
        "rope_linear_interpolation": mistakes.rotary_frequencies(
            lambda plain, _: plain / mistakes.FACTOR
        ),
        "router_cap_on_probabilities": mistakes.cap_on_probabilities,
        "no_one_over_sqrt2": mistakes.feed_forward(lambda mlp, moe: mlp + moe),
        "half_instead_of_one_over_sqrt2": mistakes.feed_forward(lambda mlp, moe: (mlp + moe) / 2),
        "one_over_sqrt2_on_moe_only": mistakes.feed_forward(
            lambda mlp, moe: mlp + moe / math.sqrt(2)
        ),
        "no_residual_mlp": mistakes.feed_forward(lambda _, moe: moe),
        "no_experts_only_mlp": mistakes.feed_forward(lambda mlp, _: mlp),
        "eps_1e-6_in_final_norm_only": mistakes.norm_epsilon("final"),
        "eps_1e-6_in_pre_norms_only": mistakes.norm_epsilon(*PRE_NORMS),
        "no_post_attn_norm": mistakes.without_norm("post_attention_layernorm"),
        "no_post_moe_norm": mistakes.without_norm("post_mlp_layernorm"),
        "post_norm_after_residual_sum": mistakes.layer_forward(norm_the_sum=True),
        "dense_mlp_reads_unnormed_hidden": mistakes.layer_forward(dense_reads_hidden=True),
        "ENGINE llama.cpp, yarn keys as its converter writes them": mistakes.yarn,
        "ENGINE SGLang unified kernel (exact GELU, len/(p+1))": mistakes.temperature(
            mistakes.length_over_position
        ),
        "ENGINE sglang-jax TPU kernel (temperature before cap)": mistakes.attention(
            mistakes.temperature_before_cap
        ),
    }
)
Weights = dict[str, Tensor]


def flip_halves(weights: Weights, _: Grok2Config, ending: str) -> None:
    for key in weights:
        if key.endswith(ending):
            weights[key] = weights[key].flip(-3)


def add_one_to_norms(weights: Weights, _: Grok2Config) -> None:
    for key in weights:
        if "layernorm" in key:
            weights[key] = weights[key] + 1


def swap_norms(weights: Weights, config: Grok2Config) -> None:
    for layer in range(config.num_layers):
        first, second = (
            f"decoder.layers.{layer}.{name}.weight"
            for name in ("post_attention_layernorm", "pre_mlp_layernorm")
        )
        weights[first], weights[second] = weights[second], weights[first]


def tile_heads(weights: Weights, config: Grok2Config) -> None:
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


def tie(weights: Weights, _: Grok2Config) -> None:
    weights["output_layer.weight"] = weights["embedding.word_embeddings.weight"]


WEIGHTS: Mapping[str, Callable[[Weights, Grok2Config], None]] = MappingProxyType(
    {
        "w1_and_w3_swapped": lambda w, c: flip_halves(w, c, "experts.linear_fc1.weight"),
        "gate_proj_and_up_proj_swapped": lambda w, c: flip_halves(
            w, c, "dense_mlp.linear_fc1.weight"
        ),
        "norm_weight_plus_one": add_one_to_norms,
        "post_attn_and_pre_moe_norm_swapped": swap_norms,
        "kv_heads_tiled_instead_of_grouped": tile_heads,
        "tied_embeddings": tie,
        "ENGINE vLLM, tied as well (config without tie_word_embeddings)": tie,
    }
)


def measured(name: str) -> dict[str, float]:
    listed = meta_of(name)["mutations"]
    return {key: value["logits_max_abs"] for key, value in listed.items()}


# g2_tp has as many key heads as query heads: nothing shows there that g2_a and g2_b hide.
CASES = [
    pytest.param(name, mistake, marks=[pytest.mark.slow] if name == "g2_tp" else [])
    for name in NAMES
    for mistake in measured(name)
]


def test_every_listed_mistake_is_made_here() -> None:
    made = {*CONFIG, *MODEL, *WEIGHTS, "rope_interleaved_pairs"}
    listed = {mistake for name in NAMES for mistake in measured(name)}
    assert listed == made and len(made) == 57


@pytest.mark.parametrize(("name", "mistake"), CASES)
def test_a_mistake_is_noticed(
    name: str, mistake: str, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name)
    weights = weights_of(name, config)
    if mistake in CONFIG:
        config = config.replace(**CONFIG[mistake](config))
    if mistake in WEIGHTS:
        WEIGHTS[mistake](weights, config)
    if mistake == "rope_interleaved_pairs":
        monkeypatch.setattr(rotary, "rotate", mistakes.rotate_neighbours)
    model = whole_model(config, weights)
    if mistake in MODEL:
        MODEL[mistake](model)
    reference = reference_of(name)
    logits = logits_of(model, reference["input_ids"])
    error = (logits.double() - reference["logits_fp64"].double()).abs().max().item()
    quiet = mistake in UNNOTICED or (mistake in SEEN_BY_G2_B_ALONE and name != "g2_b")
    assert quiet or error > NOTICED
    assert error == pytest.approx(measured(name)[mistake], rel=0.02, abs=1.5e-3)
