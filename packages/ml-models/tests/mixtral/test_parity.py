"""Mixtral against transformers' MixtralForCausalLM with random weights: logits, loss, gradients."""

from typing import Any

import pytest
import torch
from model_checks.group import Group
from model_checks.step import run_step
from torch import Tensor

from ml_models.mixtral.config import MixtralConfig

CONFIG = MixtralConfig(
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=8,
    num_query_groups=4,
    kv_channels=16,
    num_experts=4,
    vocab_size=256,
    seq_length=128,
)
LAYOUTS = [(1, 1, 1, 1), (2, 2, 1, 1), (2, 1, 2, 2), (1, 2, 2, 1)]


def make_reference() -> tuple[Any, Tensor]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.ffn_hidden_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_attention_heads,
            num_key_value_heads=CONFIG.num_query_groups,
            head_dim=CONFIG.kv_channels,
            num_local_experts=CONFIG.num_experts,
            num_experts_per_tok=CONFIG.moe_router_topk,
            rms_norm_eps=CONFIG.norm_epsilon,
            rope_theta=CONFIG.rotary_base,
            sliding_window=None,
            attn_implementation="eager",
        )
    ).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.12)
    return model, torch.randint(0, CONFIG.vocab_size, (2, 32))


def to_parameters(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys; both the fused expert names of transformers 5 and the separate ones of 4."""
    parameters = {
        "embedding.word_embeddings.weight": saved["model.embed_tokens.weight"],
        "output_layer.weight": saved["lm_head.weight"],
        "decoder.final_layernorm.weight": saved["model.norm.weight"],
    }
    groups, width = CONFIG.num_query_groups, CONFIG.hidden_size
    for layer in range(CONFIG.num_layers):
        a, b = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        parameters[f"{b}input_layernorm.weight"] = saved[f"{a}input_layernorm.weight"]
        parameters[f"{b}pre_mlp_layernorm.weight"] = saved[f"{a}post_attention_layernorm.weight"]
        q, k, v = (saved[f"{a}self_attn.{x}_proj.weight"].view(groups, -1, width) for x in "qkv")
        parameters[f"{b}self_attention.linear_qkv.weight"] = torch.cat((q, k, v), 1).view(-1, width)
        parameters[f"{b}self_attention.linear_proj.weight"] = saved[f"{a}self_attn.o_proj.weight"]
        fused = f"{a}mlp.experts.gate_up_proj"
        block = f"{a}mlp." if fused in saved else f"{a}block_sparse_moe."
        parameters[f"{b}mlp.router.weight"] = saved[f"{block}gate.weight"]
        if fused in saved:
            first = saved[fused].unflatten(1, (2, -1))
            second = saved[f"{a}mlp.experts.down_proj"]
        else:
            part = [
                [saved[f"{block}experts.{e}.{w}.weight"] for w in ("w1", "w3", "w2")]
                for e in range(CONFIG.num_experts)
            ]
            first = torch.stack([torch.stack(weights[:2]) for weights in part])
            second = torch.stack([weights[2] for weights in part])
        parameters[f"{b}mlp.experts.linear_fc1.weight"] = first
        parameters[f"{b}mlp.experts.linear_fc2.weight"] = second
    return parameters


def test_logits_loss_and_gradients(group4: Group) -> None:
    model, ids = make_reference()
    result = model(ids)
    loss = torch.nn.functional.cross_entropy(
        result.logits[:, :-1].reshape(-1, CONFIG.vocab_size), ids[:, 1:].reshape(-1)
    )
    loss.backward()
    weights = to_parameters({n: p.detach() for n, p in model.named_parameters()})
    grads = to_parameters({n: p.grad for n, p in model.named_parameters()})
    for sizes in LAYOUTS:
        step = group4.run(run_step, CONFIG, weights, ids, sizes)[0]
        torch.testing.assert_close(step["logits"], result.logits.detach(), rtol=0, atol=1e-4)
        torch.testing.assert_close(step["loss"], loss.detach(), rtol=1e-5, atol=0)
        for key, expected in grads.items():
            error = (step[f"grad.{key}"] - expected).norm() / expected.norm()
            assert error < 1e-4, (sizes, key, float(error))
