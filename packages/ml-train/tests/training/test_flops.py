"""FLOPs and parameter counts against what can be counted otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.parameters import count_parameters
from ml_train.training.flops import (
    forward_flops_per_token,
    model_tflops_per_device,
    training_flops_per_token,
)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    # xAI: 314 B, "25 % active"; Mistral: 46.7 B and 12.9 B; Grok-2's release: 269.5 B.
    [
        ("grok1-314b", 314.7e9, 85e9),
        ("mixtral-8x7b", 46.7e9, 12.9e9),
        ("grok2-270b", 269.5e9, 113.8e9),
    ],
)
def test_published_parameter_counts(name: str, total: float, active: float) -> None:
    model = registry.get(name)
    assert count_parameters(model).total == pytest.approx(total, rel=0.01)
    assert count_parameters(model).active == pytest.approx(active, rel=0.02)


def test_grok_2_to_the_parameter() -> None:
    """By hand: the weights of the release's tensors, and 2 of 8 experts without the lookup."""
    layer = 8192 * (2 * 64 + 2 * 8) * 128 + 8 * 8192 + 3 * 8192 * 32768 + 4 * 8192
    expert, table = 3 * 8192 * 16384, 131072 * 8192
    counts = count_parameters(registry.get("grok2-270b"))
    assert counts.total == 64 * (layer + 8 * expert) + 8192 + 2 * table == 269_515_497_472
    assert counts.active == 64 * (layer + 2 * expert) + 8192 + table == 113_822_932_992
    assert counts.dense_mlp == 64 * 3 * 8192 * 32768


@pytest.mark.parametrize("name", ["grok1-40b", "mixtral-8x7b", "grok2-270b"])
def test_short_sequences_cost_six_times_the_active_matrices(name: str) -> None:
    model = registry.get(name)
    parts = forward_flops_per_token(model, 1)
    # The embedding is looked up, not multiplied; tied, it is the output matrix as well.
    counts = count_parameters(model)
    untied = model.untie_embeddings_and_output_weights
    matrices = counts.active - (counts.active_embedding if untied else 0)
    cost = training_flops_per_token(model, 1) - 3 * parts.attention
    assert cost == pytest.approx(6 * matrices, rel=1e-4)


def test_causal_attention_counts_pairs_once() -> None:
    model = registry.get("grok1-tiny")
    length = 256
    pairs = length * (length + 1) / 2
    by_pairs = model.num_layers * pairs * 4 * model.num_attention_heads * model.kv_channels
    counted = forward_flops_per_token(model, length).attention * length
    assert counted == pytest.approx(by_pairs)


@pytest.mark.parametrize("name", ["grok1-tiny", "grok2-tiny"])
def test_counted_against_torch(name: str) -> None:
    """torch's own counter over the same products of one layer and the logits."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = registry.get(name).replace(num_layers=1)
    tokens, hidden = 4, model.hidden_size
    queries = model.num_attention_heads * model.kv_channels
    groups = 2 * model.num_query_groups * model.kv_channels
    sizes = [(hidden, queries + groups), (queries, hidden), (hidden, model.num_experts)]
    sizes += [(hidden, 2 * model.ffn_hidden_size), (model.ffn_hidden_size, hidden)] * 2
    sizes += [(hidden, 2 * model.dense_mlp_width), (model.dense_mlp_width, hidden)]
    sizes += [(hidden, model.vocab_size)]
    with FlopCounterMode(display=False) as counter:
        for inner, outer in sizes:
            torch.zeros(tokens, inner) @ torch.zeros(inner, outer)
    parts = forward_flops_per_token(model, tokens)
    assert counter.get_total_flops() == tokens * (parts.total - parts.attention)


def test_a_dense_model_has_no_router() -> None:
    """A dense layer has attention, a gated MLP of three matrices and norms, but no router."""

    @dataclass(frozen=True, kw_only=True)
    class DenseConfig(ModelConfig):
        post_norms: ClassVar[bool] = True

    sizes = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 64, "vocab_size": 128}
    sizes |= {"num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 16}
    dense = DenseConfig(num_experts=1, moe_router_topk=1, seq_length=16, **sizes)
    attention, experts, norms = 64 * (2 * 64 + 2 * 32), 3 * 64 * 64, 4 * 64
    wanted = 2 * (attention + experts + norms) + 64 + 128 * 64
    assert count_parameters(dense).total == count_parameters(dense).active == wanted
    assert count_parameters(dense).total == wanted
    parts = forward_flops_per_token(dense, 1)
    assert parts.router == 0
    assert parts.total - parts.attention == 2 * (2 * (attention + experts) + 128 * 64)


def test_rates() -> None:
    model = registry.get("grok1-tiny")
    per_token = training_flops_per_token(model, 128)
    got = model_tflops_per_device(model, seq_length=128, tokens=2048, seconds=0.5, devices=8)
    assert got == pytest.approx(per_token * 2048 / 0.5 / 8 / 1e12)
    assert model_tflops_per_device(model, seq_length=1, tokens=1, seconds=0, devices=1) == 0
