"""Megatron's per-rank checkpoints, written without ml_models: by slicing, and by stock modules.

`whole` tensors have the names of a stock megatron-core model in one process, over all layers and
experts: decoder.layers.5.mlp.experts.local_experts.3.linear_fc1.weight.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAYERS, HIDDEN, FFN, HEADS, GROUPS, HEAD, EXPERTS = 8, 32, 24, 8, 4, 4, 4
VOCABULARY, PADDED = 90, 96
Sizes = tuple[int, int, int, int]  # tp, pp, ep, virtual stages


def whole(*, post_norm: bool, layers: int = LAYERS, padded: int = PADDED) -> dict[str, Tensor]:
    """Random weights, the same on every call."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    norms = ["input_layernorm", "pre_mlp_layernorm"]
    norms += ["post_attn_norm", "post_mlp_layernorm"] if post_norm else []
    tensors_by_name = {"embedding.word_embeddings.weight": draw(padded, HIDDEN)}
    for layer in range(layers):
        name = f"decoder.layers.{layer}."
        tensors_by_name.update({f"{name}{norm}.weight": 1 + draw(HIDDEN) for norm in norms})
        tensors_by_name[f"{name}self_attention.linear_proj.weight"] = draw(HIDDEN, HEADS * HEAD)
        tensors_by_name[f"{name}self_attention.linear_qkv.weight"] = draw(
            (HEADS + 2 * GROUPS) * HEAD, HIDDEN
        )
        tensors_by_name[f"{name}mlp.router.weight"] = draw(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            inner = f"{name}mlp.experts.local_experts.{expert}."
            tensors_by_name[f"{inner}linear_fc1.weight"] = draw(2 * FFN, HIDDEN)
            tensors_by_name[f"{inner}linear_fc2.weight"] = draw(HIDDEN, FFN)
    tensors_by_name["decoder.final_layernorm.weight"] = 1 + draw(HIDDEN)
    tensors_by_name["output_layer.weight"] = draw(padded, HIDDEN)
    return tensors_by_name


def as_parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names."""
    tensors_by_name: dict[str, Tensor] = {}
    experts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)local_experts\.\d+\.(linear_fc.)\.weight", name):
            matrix = tensor.reshape(2, FFN, HIDDEN) if match[2] == "linear_fc1" else tensor
            experts.setdefault(f"{match[1]}{match[2]}.weight", []).append(matrix)
            continue
        if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
            tensor = tensor[:VOCABULARY]
        tensors_by_name[name.replace("post_attn_norm", "post_attention_layernorm")] = tensor
    return {**tensors_by_name, **{name: torch.stack(parts) for name, parts in experts.items()}}


def arguments(sizes: Sizes, *, post_norm: bool, **changes: Any) -> argparse.Namespace:
    """What a run with the guide's flags (or Mixtral's) keeps, and some things beside them."""
    from megatron.core.enums import ModelType

    tp, pp, ep, vp = sizes
    values = {
        "num_layers": LAYERS,
        "hidden_size": HIDDEN,
        "ffn_hidden_size": FFN,
        "num_attention_heads": HEADS,
        "group_query_attention": True,
        "num_query_groups": GROUPS,
        "kv_channels": HEAD,
        "num_experts": EXPERTS,
        "moe_router_topk": 2,
        "moe_router_load_balancing_type": "aux_loss",
        "vocab_size": VOCABULARY,
        "padded_vocab_size": PADDED,
        "seq_length": 32,
        "max_position_embeddings": 32,
        "norm_epsilon": 1e-5,
        "init_method_std": 0.01,
        "normalization": "RMSNorm",
        "position_embedding_type": "rope",
        "rotary_base": None if post_norm else 1e6,
        "swiglu": True,
        "add_bias_linear": False,
        "untie_embeddings_and_output_weights": True,
        "post_norm": post_norm,
        "embedding_multiplier_scale": 5.5 if post_norm else 1.0,
        "output_multiplier_scale": 0.5 if post_norm else None,
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "expert_model_parallel_size": ep,
        "virtual_pipeline_model_parallel_size": vp if vp > 1 else None,
        "params_dtype": torch.bfloat16,
        "model_type": ModelType.encoder_or_decoder,
        "data_path": ["alpaca_text_document"],
        "save": Path("ckpt"),
        "lr": np.float64(1e-5),
    }
    return argparse.Namespace(**{**values, **changes})


def folder_name(sizes: Sizes, tp: int, pp: int, ep: int) -> str:
    name = f"mp_rank_{tp:02d}"
    if sizes[1] > 1:
        name += f"_{pp:03d}"
    return f"{name}_{ep:03d}" if sizes[2] > 1 else name


def save_rank(
    path: Path, chunks: list[dict[str, Any]], args: argparse.Namespace, **changes: Any
) -> None:
    """model_optim_rng.pt of one rank, with an optimizer's tensors and random states beside it."""
    models = {"model": chunks[0]} if len(chunks) == 1 else {}
    if not models:
        models = {f"model{number}": chunk for number, chunk in enumerate(chunks)}
    state = {
        "args": args,
        "checkpoint_version": 3.0,
        "iteration": 5000,
        **models,
        "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.ones(7)}}}},
        "opt_param_scheduler": {"max_lr": 1e-5},
        "rng_state": [{"np": np.random.RandomState(1).get_state(), "t": torch.get_rng_state()}],
        "num_floating_point_operations_so_far": 1e18,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


def save_sliced(
    folder: Path,
    tensors: dict[str, Tensor],
    args: argparse.Namespace,
    sizes: Sizes,
    *,
    flat: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda chunk: chunk,
) -> Path:
    """One file per rank, cut out of the whole tensors; `flat`: views of one buffer per rank."""
    tp_size, pp_size, ep_size, vp_size = sizes
    iteration = folder / "iter_0005000"
    for pp in range(pp_size):
        for tp in range(tp_size):
            for ep in range(ep_size):
                chunks = [
                    change(_chunk(tensors, sizes, layers, (tp, pp, ep), virtual))
                    for virtual, layers in enumerate(_stages(sizes, len_layers(tensors))[pp])
                ]
                if flat:
                    chunks = [_in_one_buffer(chunk) for chunk in chunks]
                name = folder_name(sizes, tp, pp, ep)
                save_rank(iteration / name / "model_optim_rng.pt", chunks, args)
                (iteration / name / "distrib_optim.pt").write_bytes(b"not read")
    (folder / "latest_checkpointed_iteration.txt").write_text("5000")
    return iteration


def len_layers(tensors: dict[str, Tensor]) -> int:
    return sum(name.endswith("router.weight") for name in tensors)


def _stages(sizes: Sizes, layers: int) -> list[list[range]]:
    """Layers are dealt to stages in turns: 8 over 2 stages of 2: [0 1] [4 5], [2 3] [6 7]."""
    _, pp, _, vp = sizes
    each = layers // (pp * vp)
    dealt: list[list[range]] = [[] for _ in range(pp)]
    for turn, first in enumerate(range(0, layers, each)):
        dealt[turn % pp].append(range(first, first + each))
    return dealt


def _chunk(
    tensors: dict[str, Tensor],
    sizes: Sizes,
    layers: range,
    ranks: tuple[int, int, int],
    virtual: int,
) -> dict[str, Any]:
    tp_size, pp_size, ep_size, vp_size = sizes
    tp, pp, ep = ranks
    local_experts = range(ep * EXPERTS // ep_size, (ep + 1) * EXPERTS // ep_size)
    chunk: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = re.match(r"decoder\.layers\.(\d+)\.", name)
        local = name
        if match:
            if int(match[1]) not in layers:
                continue
            local = name.replace(match[0], f"decoder.layers.{layers.index(int(match[1]))}.")
        elif name.startswith("embedding"):
            if (pp, virtual) != (0, 0):
                continue
        elif (pp, virtual) != (pp_size - 1, vp_size - 1):
            continue
        if expert := re.search(r"local_experts\.(\d+)\.", local):
            if int(expert[1]) not in local_experts:
                continue
            local = local.replace(
                expert[0], f"local_experts.{local_experts.index(int(expert[1]))}."
            )
        chunk[local] = cut(name, tensor, tp, tp_size).contiguous()
        if ".linear_" in name or name == "output_layer.weight":
            chunk[local.removesuffix("weight") + "_extra_state"] = None
    return chunk


def cut(name: str, tensor: Tensor, tp: int, tp_size: int) -> Tensor:
    """One tensor rank's part."""
    if "norm" in name or "router" in name:
        return tensor
    if "linear_fc1" in name:
        gate, value = tensor.chunk(2)
        return torch.cat([gate.chunk(tp_size)[tp], value.chunk(tp_size)[tp]])
    if "linear_fc2" in name or "linear_proj" in name:
        return tensor.chunk(tp_size, dim=1)[tp]
    return tensor.chunk(tp_size)[tp]


def _in_one_buffer(chunk: dict[str, Any]) -> dict[str, Any]:
    """As Megatron's distributed optimizer keeps parameters."""
    tensors = {name: value for name, value in chunk.items() if value is not None}
    buffer = torch.cat([torch.zeros(3), *(tensor.flatten() for tensor in tensors.values())])
    at, views = 3, {}
    for name, tensor in tensors.items():
        views[name] = buffer[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return {**chunk, **views}


def stock_model(sizes: Sizes, rotary_base: float = 1e6) -> Any:
    """Megatron-core's own Mixtral-like GPTModel, local spec, in this process's layout."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch.nn import functional

    config = TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        kv_channels=HEAD,
        num_moe_experts=EXPERTS,
        moe_router_topk=2,
        moe_router_load_balancing_type="none",
        moe_token_dispatcher_type="alltoall",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=functional.silu,
        normalization="RMSNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
        tensor_model_parallel_size=sizes[0],
        pipeline_model_parallel_size=sizes[1],
    )
    # Set behind its back: with TP, core 0.12 asks for sequence parallelism, which its torch norm
    # refuses; without training neither is needed.
    config.expert_model_parallel_size = sizes[2]
    model = GPTModel(
        config,
        get_gpt_layer_local_spec(EXPERTS, False, normalization="RMSNorm"),
        PADDED,
        32,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=False,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_base=rotary_base,
    )
    return model.eval()


def guide_logits(ids: Tensor) -> Tensor:
    """The stock model with what ModelLink changes in it: norms behind attention and experts,
    embeddings times 5.5, logits times 0.5, as `arguments` says. One process."""
    model, tensors = stock_model((1, 1, 1, 1), rotary_base=10000.0), whole(post_norm=True)

    def normed(name: str) -> Any:
        norm = torch.nn.RMSNorm(HIDDEN, eps=1e-5)
        norm.load_state_dict({"weight": tensors.pop(f"{name}.weight")})
        return lambda module, given, result: (norm(result[0]), result[1])

    for number, layer in enumerate(model.decoder.layers):
        name = f"decoder.layers.{number}."
        layer.self_attention.register_forward_hook(normed(f"{name}post_attn_norm"))
        layer.mlp.register_forward_hook(normed(f"{name}post_mlp_layernorm"))
    words = model.embedding.word_embeddings
    words.register_forward_hook(lambda module, given, result: result * 5.5)
    model.output_layer.register_forward_hook(lambda m, g, result: (result[0] * 0.5, result[1]))
    missing, superfluous = model.load_state_dict(tensors, strict=False)
    assert not superfluous and all(name.endswith("_extra_state") for name in missing)
    return logits(model, ids)


def save_stock(folder: Path, sizes: Sizes, ids: Tensor) -> Tensor | None:
    """A stock model's own state_dict of this rank, as Megatron saves it; without PP its logits."""
    from megatron.core import parallel_state as state

    from model_checks.process import layout

    layout(*sizes[:3], sizes[0])
    model = stock_model(sizes)
    tp, pp = state.get_tensor_model_parallel_rank(), state.get_pipeline_model_parallel_rank()
    ep = state.get_expert_model_parallel_rank()
    _fill(model, tp, ep, sizes)
    if state.get_expert_data_parallel_rank() == 0:
        name = folder_name(sizes, tp, pp, ep)
        args = arguments(sizes, post_norm=False)
        save_rank(
            folder / "iter_0005000" / name / "model_optim_rng.pt",
            [model.state_dict_for_save_checkpoint()],
            args,
        )
    return logits(model, ids) if sizes[1] == 1 else None


def save_stock_distributed(
    folder: Path, sizes: Sizes, ids: Tensor, metadata: dict[str, Any] | None
) -> Tensor | None:
    """A stock model's distributed checkpoint; without PP its logits."""
    import multiprocessing

    from megatron.core import dist_checkpointing
    from megatron.core import parallel_state as state

    from model_checks.process import layout

    layout(*sizes[:3], sizes[0])
    model = stock_model(sizes)
    tp, ep = state.get_tensor_model_parallel_rank(), state.get_expert_model_parallel_rank()
    _fill(model, tp, ep, sizes)
    saved = {
        "model": model.sharded_state_dict(metadata=metadata),
        "args": arguments(sizes, post_norm=False),
        "iteration": 7,
    }
    own = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    own["daemon"] = False  # the core's writer starts a process, which daemons may not
    try:
        dist_checkpointing.save(saved, str(folder))
    finally:
        own["daemon"] = True
    return logits(model, ids) if sizes[1] == 1 else None


def _fill(model: Any, tp: int, ep: int, sizes: Sizes) -> None:
    """Put the whole weights' parts in place, by what the modules say of their own parameters."""
    tensors = whole(post_norm=False)
    numbers = [layer.layer_number - 1 for layer in model.decoder.layers]
    for name, parameter in model.named_parameters():
        if match := re.match(r"decoder\.layers\.(\d+)\.", name):
            name = name.replace(match[0], f"decoder.layers.{numbers[int(match[1])]}.")
        if expert := re.search(r"local_experts\.(\d+)\.", name):
            number = ep * (EXPERTS // sizes[2]) + int(expert[1])
            name = name.replace(expert[0], f"local_experts.{number}.")
        value = tensors[name]
        if getattr(parameter, "tensor_model_parallel", False):
            if "linear_fc1" in name:
                value = value.view(2, FFN, HIDDEN).chunk(sizes[0], 1)[tp].flatten(0, 1)
            else:
                value = value.chunk(sizes[0], parameter.partition_dim)[tp]
        with torch.no_grad():
            assert parameter.shape == value.shape, name
            parameter.copy_(value)


def logits(model: Any, ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)[None, None]
    with torch.no_grad():
        result: Tensor = model(ids, positions, mask)
    return result[..., :VOCABULARY]


def guide(folder: Path, sizes: Sizes = (2, 1, 1, 1), **options: Any) -> Path:
    """A small model of the guide's kind; returns the folder of the iteration."""
    args = arguments(sizes, post_norm=True)
    return save_sliced(folder, whole(post_norm=True), args, sizes, **options)


def change_file(path: Path, **changes: Any) -> None:
    """Write one rank's file again with other entries."""
    state = torch.load(path, weights_only=False)
    torch.save({**state, **changes}, path)
