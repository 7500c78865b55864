"""Reads the reference folders and maps between Hugging Face's names and ours.

The map is written independently of the package's converter, so that one checks the other.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ml_models.grok1.config import Grok1Config

DATA = Path(__file__).parent.parent / "data" / "grok1"
HUGGING_FACE = ("hf_a", "hf_b", "hf_c")
XAI = ("xai_tiny", "xai_tiny_mesh1")
NORMS = {
    "input_layernorm": "pre_attn_norm",
    "post_attention_layernorm": "post_attn_norm",
    "pre_mlp_layernorm": "pre_moe_norm",
    "post_mlp_layernorm": "post_moe_norm",
}


def config_of(name: str, activation: str) -> Grok1Config:
    values = json.loads((DATA / name / "config.json").read_text())
    xai = DATA / name / "xai_config.json"
    heads = values["num_attention_heads"]
    head = values["hidden_size"] // heads
    if xai.exists():
        head = json.loads(xai.read_text())["model"]["key_size"]
    return Grok1Config(
        num_layers=values["num_hidden_layers"],
        hidden_size=values["hidden_size"],
        ffn_hidden_size=values["intermediate_size"],
        num_attention_heads=heads,
        num_query_groups=values["num_key_value_heads"],
        kv_channels=head,
        num_experts=values["num_experts"],
        moe_router_topk=values["num_experts_per_tok"],
        vocab_size=values["vocab_size"],
        seq_length=values["max_position_embeddings"],
        norm_epsilon=values["rms_norm_eps"],
        activation=activation,
        attention_logit_cap=values["max_attn_value"],
        attention_scale=values["attn_output_multiplier"],
        embedding_multiplier_scale=values["embedding_multiplier_scale"],
        output_multiplier_scale=values["output_multiplier_scale"],
    )


def reference_of(name: str) -> dict[str, Tensor]:
    return load_file(DATA / name / "reference.safetensors")


def weights_of(name: str, config: Grok1Config) -> dict[str, Tensor]:
    """Whole tensors by our names, fp32."""
    if name in XAI:
        return from_hugging_face(_xai_tensors(name), config)
    tensors = load_file(DATA / name / "model.safetensors")
    return from_hugging_face({key: value.float() for key, value in tensors.items()}, config)


def whole_model(
    config: Grok1Config, weights: dict[str, Tensor], *, padding: int = 0, **options: Any
) -> Any:
    """The model on this process alone, with `weights`; `options` are build_model's."""
    from ml_models import shards
    from ml_models.build import build_model, make_transformer_config

    model = build_model(
        config,
        make_transformer_config(config),
        padded_vocab_size=config.vocab_size + padding,
        pre_process=True,
        post_process=True,
        **options,
    )
    shards.assign(model, weights)
    return model


def from_hugging_face(tensors: dict[str, Tensor], config: Grok1Config) -> dict[str, Tensor]:
    parameters = {
        "embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": tensors["model.norm.scale"],
    }
    for layer in range(config.num_layers):
        block_name, layer_name = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        for name, other in NORMS.items():
            parameters[f"{layer_name}{name}.weight"] = tensors[f"{block_name}{other}.scale"]
        q, k, v = (tensors[f"{block_name}attn.{x}_proj.weight"] for x in "qkv")
        groups, head = config.num_query_groups, config.kv_channels
        parts = [
            torch.cat(
                (
                    q.view(groups, -1, q.shape[-1])[g],
                    k.view(groups, head, -1)[g],
                    v.view(groups, head, -1)[g],
                )
            )
            for g in range(groups)
        ]
        parameters[f"{layer_name}self_attention.linear_qkv.weight"] = torch.cat(parts)
        parameters[f"{layer_name}self_attention.linear_proj.weight"] = tensors[
            f"{block_name}attn.o_proj.weight"
        ]
        parameters[f"{layer_name}mlp.router.weight"] = tensors[f"{block_name}moe_block.gate.weight"]
        first, second = [], []
        for expert in range(config.num_experts):
            block = f"{block_name}moe_block.experts.{expert}."
            gate, value = tensors[f"{block}linear.weight"], tensors[f"{block}linear_v.weight"]
            first.append(torch.stack((gate, value)))
            second.append(tensors[f"{block}linear_1.weight"])
        parameters[f"{layer_name}mlp.experts.linear_fc1.weight"] = torch.stack(first)
        parameters[f"{layer_name}mlp.experts.linear_fc2.weight"] = torch.stack(second)
    return parameters


def to_hugging_face(parameters: dict[str, Tensor], config: Grok1Config) -> dict[str, Tensor]:
    """The inverse, for gradients: by Hugging Face's parameter names."""
    tensors = {
        "model.embed_tokens.weight": parameters["embedding.word_embeddings.weight"],
        "model.norm.scale": parameters["decoder.final_layernorm.weight"],
    }
    groups, head = config.num_query_groups, config.kv_channels
    for layer in range(config.num_layers):
        block_name, layer_name = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        for name, other in NORMS.items():
            tensors[f"{block_name}{other}.scale"] = parameters[f"{layer_name}{name}.weight"]
        qkv = parameters[f"{layer_name}self_attention.linear_qkv.weight"]
        q, k, v = qkv.view(groups, -1, qkv.shape[-1]).split(
            (config.num_attention_heads // groups * head, head, head), dim=1
        )
        for letter, part in zip("qkv", (q, k, v), strict=True):
            tensors[f"{block_name}attn.{letter}_proj.weight"] = part.reshape(-1, qkv.shape[-1])
        tensors[f"{block_name}attn.o_proj.weight"] = parameters[
            f"{layer_name}self_attention.linear_proj.weight"
        ]
        tensors[f"{block_name}moe_block.gate.weight"] = parameters[f"{layer_name}mlp.router.weight"]
        for expert in range(config.num_experts):
            block = f"{block_name}moe_block.experts.{expert}."
            gate, value = parameters[f"{layer_name}mlp.experts.linear_fc1.weight"][expert]
            tensors[f"{block}linear.weight"] = gate
            tensors[f"{block}linear_v.weight"] = value
            tensors[f"{block}linear_1.weight"] = parameters[
                f"{layer_name}mlp.experts.linear_fc2.weight"
            ][expert]
    return tensors


class Quantized:
    """Stands in for the class that xAI's pickles name."""

    weight: np.ndarray
    scales: np.ndarray


class XaiUnpickler(pickle.Unpickler):
    """Python's own unpickler, with stand-ins for what is not installed."""

    def find_class(self, module: str, name: str) -> object:
        if name == "QuantizedWeight8bit":
            return Quantized
        if module == "ml_dtypes" and name == "bfloat16":
            return np.uint16
        # numpy 2 renamed numpy.core; the files name either.
        names = ("numpy.core", "numpy._core")
        old, new = names if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else names[::-1]
        return super().find_class(module.replace(old, new), name)


def _xai_tensors(name: str) -> dict[str, Tensor]:
    """The pickled leaves, dequantized, by Hugging Face's names."""
    short = {
        "multi_head_attention/key/w": "attn.k_proj.weight",
        "multi_head_attention/linear/w": "attn.o_proj.weight",
        "multi_head_attention/query/w": "attn.q_proj.weight",
        "multi_head_attention/value/w": "attn.v_proj.weight",
        "rms_norm/scale": "pre_attn_norm.scale",
        "rms_norm_1/scale": "post_attn_norm.scale",
        "rms_norm_2/scale": "pre_moe_norm.scale",
        "rms_norm_3/scale": "post_moe_norm.scale",
        "router/w": "moe_block.gate.weight",
    }
    tensors = {}
    for leaf in json.loads((DATA / name / "leaves.json").read_text()):
        data = (DATA / name / "ckpt-0" / leaf["file"]).read_bytes()
        array = _dequantize(XaiUnpickler(io.BytesIO(data)).load())
        path = leaf["path"].removeprefix("params/")
        if path.startswith("language_model"):
            known = {
                "in_out_embed/embeddings": "embed_tokens.weight",
                "rms_norm/scale": "norm.scale",
            }
            tensors["model." + known[path.removeprefix("language_model/")]] = array
            continue
        layer, _, rest = path.removeprefix("transformer/decoder_layer_").partition("/")
        if rest.startswith("moe/"):
            part = rest.split("/")[1]
            for expert, matrix in enumerate(array):
                key = f"model.layers.{layer}.moe_block.experts.{expert}.{part}.weight"
                tensors[key] = matrix.t().contiguous()
        else:
            value = array.t().contiguous() if rest.endswith("/w") else array
            tensors[f"model.layers.{layer}.{short[rest]}"] = value
    return tensors


def _dequantize(leaf: object) -> Tensor:
    if not isinstance(leaf, Quantized):
        return torch.from_numpy(np.array(leaf, dtype=np.float32))
    weight = leaf.weight.astype(np.float32)
    scales = (np.asarray(leaf.scales).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    groups = scales.shape[-2]
    shape = (*weight.shape[:-2], groups, weight.shape[-2] // groups, weight.shape[-1])
    whole = weight.reshape(shape) * scales[..., :, None, :]
    return torch.from_numpy(whole.reshape(weight.shape))
