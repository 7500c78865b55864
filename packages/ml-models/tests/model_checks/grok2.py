"""The Grok-2 references, and the map between the release's names and ours.

The configuration and the map are written independently of the package, so that one checks the
other.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ml_models.grok2.config import Grok2Config

DATA = Path(__file__).parent.parent / "data" / "grok2"
FOLDERS = {"g2_a": "g2_a", "g2_b": "g2_b", "g2_tp": "g2_tp/plain"}
NAMES = tuple(FOLDERS)
GRADIENTS = 3e-4
"""Of a gradient's norm, as the references' notes derive it."""
NORMS = {
    "input_layernorm": "pre_attn_norm",
    "post_attention_layernorm": "post_attn_norm",
    "pre_mlp_layernorm": "pre_moe_norm",
    "post_mlp_layernorm": "post_moe_norm",
}


def config_of(name: str) -> Grok2Config:
    values = json.loads((DATA / FOLDERS[name] / "config.json").read_text())
    return Grok2Config(
        num_layers=values["num_hidden_layers"],
        hidden_size=values["hidden_size"],
        ffn_hidden_size=values["moe_intermediate_size"],
        dense_ffn_hidden_size=values["intermediate_size"],
        num_attention_heads=values["num_attention_heads"],
        num_query_groups=values["num_key_value_heads"],
        kv_channels=values["head_dim"],
        num_experts=values["num_local_experts"],
        moe_router_topk=values["num_experts_per_tok"],
        vocab_size=values["vocab_size"],
        seq_length=values["max_position_embeddings"],
        rotary_base=values["rope_theta"],
        norm_epsilon=values["rms_norm_eps"],
        attention_temperature_length=values["attn_temperature_len"],
        embedding_multiplier_scale=values["embedding_multiplier_scale"],
        output_multiplier_scale=values["output_multiplier_scale"],
    )


@cache
def reference_of(name: str) -> dict[str, Tensor]:
    return load_file(DATA / name / "reference.safetensors")


@cache
def meta_of(name: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((DATA / name / "meta.json").read_text())
    return meta


def weights_of(name: str, config: Grok2Config) -> dict[str, Tensor]:
    """Whole tensors by our names, fp32."""
    stored = load_file(DATA / FOLDERS[name] / "model.safetensors")
    tensors = {key: value.float() for key, value in stored.items()}
    parameters = {
        "embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": tensors["model.norm.weight"],
        "output_layer.weight": tensors["lm_head.weight"],
    }
    groups, head = config.num_query_groups, config.kv_channels
    for layer in range(config.num_layers):
        theirs, ours = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        moe, mlp = f"{theirs}block_sparse_moe.", f"{theirs}mlp."
        for norm, released in NORMS.items():
            parameters[f"{ours}{norm}.weight"] = tensors[f"{theirs}{released}.weight"]
        q, k, v = (
            tensors[f"{theirs}self_attn.{x}_proj.weight"].view(groups, -1, config.hidden_size)
            for x in "qkv"
        )
        qkv = torch.cat((q, k, v), dim=1)
        assert qkv.shape[1] == (config.num_attention_heads // groups + 2) * head
        attention = f"{ours}self_attention."
        parameters[f"{attention}linear_qkv.weight"] = qkv.flatten(0, 1)
        parameters[f"{attention}linear_proj.weight"] = tensors[f"{theirs}self_attn.o_proj.weight"]
        parameters[f"{ours}dense_mlp.linear_fc1.weight"] = torch.stack(
            [tensors[f"{mlp}{part}_proj.weight"] for part in ("gate", "up")]
        )
        parameters[f"{ours}dense_mlp.linear_fc2.weight"] = tensors[f"{mlp}down_proj.weight"]
        parameters[f"{ours}mlp.router.weight"] = tensors[f"{moe}gate.weight"]
        experts = [f"{moe}experts.{expert}." for expert in range(config.num_experts)]
        parameters[f"{ours}mlp.experts.linear_fc1.weight"] = torch.stack(
            [torch.stack([tensors[f"{e}w1.weight"], tensors[f"{e}w3.weight"]]) for e in experts]
        )
        parameters[f"{ours}mlp.experts.linear_fc2.weight"] = torch.stack(
            [tensors[f"{e}w2.weight"] for e in experts]
        )
    return parameters


def in_release_names(parameters: dict[str, Tensor], config: Grok2Config) -> dict[str, Tensor]:
    """The inverse of `weights_of`, for gradients."""
    tensors = {
        "model.embed_tokens.weight": parameters["embedding.word_embeddings.weight"],
        "model.norm.weight": parameters["decoder.final_layernorm.weight"],
        "lm_head.weight": parameters["output_layer.weight"],
    }
    groups, head = config.num_query_groups, config.kv_channels
    sizes = (config.num_attention_heads // groups * head, head, head)
    for layer in range(config.num_layers):
        theirs, ours = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        for norm, released in NORMS.items():
            tensors[f"{theirs}{released}.weight"] = parameters[f"{ours}{norm}.weight"]
        qkv = parameters[f"{ours}self_attention.linear_qkv.weight"]
        parts = qkv.view(groups, -1, qkv.shape[-1]).split(sizes, dim=1)
        for letter, part in zip("qkv", parts, strict=True):
            tensors[f"{theirs}self_attn.{letter}_proj.weight"] = part.flatten(0, 1)
        projection = parameters[f"{ours}self_attention.linear_proj.weight"]
        tensors[f"{theirs}self_attn.o_proj.weight"] = projection
        gate, up = parameters[f"{ours}dense_mlp.linear_fc1.weight"]
        tensors[f"{theirs}mlp.gate_proj.weight"] = gate
        tensors[f"{theirs}mlp.up_proj.weight"] = up
        down = parameters[f"{ours}dense_mlp.linear_fc2.weight"]
        tensors[f"{theirs}mlp.down_proj.weight"] = down
        router = parameters[f"{ours}mlp.router.weight"]
        tensors[f"{theirs}block_sparse_moe.gate.weight"] = router
        for expert in range(config.num_experts):
            block = f"{theirs}block_sparse_moe.experts.{expert}."
            first = parameters[f"{ours}mlp.experts.linear_fc1.weight"][expert]
            second = parameters[f"{ours}mlp.experts.linear_fc2.weight"][expert]
            tensors[f"{block}w1.weight"], tensors[f"{block}w3.weight"] = first
            tensors[f"{block}w2.weight"] = second
    return tensors


def logits_of(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, torch.arange(ids.shape[1]).expand_as(ids))
    return logits


def check_gradients(gradients: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    """Gradients by the release's names: every norm, and those that the reference has whole."""
    norms = {key for key in reference if key.startswith("grad_norm.")}
    assert {key.removeprefix("grad_norm.") for key in norms} == set(gradients)
    for key in norms:
        norm = gradients[key.removeprefix("grad_norm.")].double().norm()
        torch.testing.assert_close(norm, reference[key].double(), rtol=GRADIENTS, atol=0, msg=key)
    for key, expected in reference.items():
        if key.startswith("grad."):
            apart = (gradients[key.removeprefix("grad.")] - expected).norm() / expected.norm()
            assert apart < GRADIENTS, (key, apart)
