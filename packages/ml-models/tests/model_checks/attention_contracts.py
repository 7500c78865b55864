"""Stand-ins for libraries that run on devices alone: their documented contracts, and no more.

Each computes on the CPU what the library documents and raises for an argument, a layout or a dtype
that the documentation does not allow. Dtypes aside: flash-attn's stand-in takes float64 as well, so
that gradients can be held to the reference closely.
"""

from types import ModuleType

import torch
from torch import Tensor


def _attention(query: Tensor, key: Tensor, value: Tensor, scale: float, cap: float) -> Tensor:
    """Causal attention of [B, H, S, D], written anew."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.transpose(2, 3) * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), -1) @ value


def flash_attn(dtypes: tuple[torch.dtype, ...]) -> ModuleType:
    """flash_attn 2.6 and newer: flash_attn/flash_attn_interface.py of Dao-AILab/flash-attention."""
    module = ModuleType("flash_attn")

    def flash_attn_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Tensor:
        """q [B, S, N, D], k and v [B, S, G, D] -> [B, S, N, D]."""
        if (dropout_p, window_size, alibi_slopes) != (0.0, (-1, -1), None) or return_attn_probs:
            raise ValueError("not part of what this project uses")
        if not causal or not isinstance(deterministic, bool):
            raise ValueError("causal attention is what is computed here")
        module.deterministic = deterministic  # type: ignore[attr-defined] # as the caller asked
        for tensor in (q, k, v):
            if tensor.dtype not in dtypes:
                raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
            if tensor.stride(-1) != 1:
                raise RuntimeError("Input tensor must have contiguous last dimension")
        batch, length, heads, size = q.shape
        groups = k.shape[2]
        if k.shape != (batch, length, groups, size) or v.shape != k.shape or heads % groups:
            raise RuntimeError("shapes of q, k and v do not agree")
        scale = size**-0.5 if softmax_scale is None else softmax_scale
        out = _attention(*(tensor.transpose(1, 2) for tensor in (q, k, v)), scale, softcap)
        return out.transpose(1, 2).contiguous()

    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    return module


def _check_heads(heads: int, size: int, width: int, key: Tensor, value: Tensor) -> None:
    if not (1 <= size <= 768 and 1 <= heads <= 256 and key.shape == value.shape):
        raise RuntimeError("heads of 1 to 768 channels, 1 to 256 of them, keys as values")
    if width % heads or key.shape[2] % size or heads % (key.shape[2] // size):
        raise RuntimeError("the query's heads must be a multiple of the key's")


def torch_npu() -> ModuleType:
    """npu_fusion_attention of torch_npu, layout SBH, causal from the upper left corner.

    Source: docs/zh/custom_APIs/torch_npu/torch_npu-npu_fusion_attention.md of
    github.com/Ascend/op-plugin. The last five parameters are newer than torch_npu 2.6.
    """

    def npu_fusion_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        head_num: int,
        input_layout: str,
        pse: Tensor | None = None,
        padding_mask: Tensor | None = None,
        atten_mask: Tensor | None = None,
        scale: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = 2147483647,
        next_tockens: int = 2147483647,
        inner_precise: int = 0,
        prefix: list[int] | None = None,
        actual_seq_qlen: list[int] | None = None,
        actual_seq_kvlen: list[int] | None = None,
        sparse_mode: int = 0,
        gen_mask_parallel: bool = True,
        sync: bool = False,
        softmax_layout: str = "",
        sink: Tensor | None = None,
        dropout_mask: Tensor | None = None,
        seed: int = 0,
        offset: int = 0,
    ) -> tuple[Tensor | int, ...]:
        unused = (pse, padding_mask, prefix, actual_seq_qlen, actual_seq_kvlen, sink, dropout_mask)
        if (
            any(item is not None for item in unused)
            or inner_precise
            or sync
            or softmax_layout
            or seed
            or offset
        ):
            raise ValueError("not part of what this project uses")
        if input_layout != "SBH" or keep_prob != 1.0 or not gen_mask_parallel:
            raise ValueError(f"layout {input_layout}, keep_prob {keep_prob}")
        if any(t.dtype not in (torch.float16, torch.bfloat16, torch.float32) for t in (query, key)):
            raise RuntimeError("query and key must be float16, bfloat16 or float32")
        if query.dtype != key.dtype or key.dtype != value.dtype or query.dim() != 3:
            raise RuntimeError("query, key and value must be [S, B, H] of the same dtype")
        if sparse_mode != 2 or (pre_tockens, next_tockens) != (2147483647, 0):
            raise RuntimeError("the causal mask is sparse_mode 2 with next_tockens 0")
        if atten_mask is None or atten_mask.shape != (2048, 2048) or atten_mask.dtype != torch.bool:
            raise RuntimeError("sparse_mode 2 needs a bool atten_mask of 2048 x 2048")
        if not torch.equal(atten_mask, torch.ones_like(atten_mask).triu(1)):
            raise RuntimeError("atten_mask must be True above the diagonal and False elsewhere")
        length, batch, width = query.shape
        size = width // head_num
        _check_heads(head_num, size, width, key, value)
        heads = [t.view(length, batch, -1, size).permute(1, 2, 0, 3) for t in (query, key, value)]
        out = _attention(*heads, scale, 0.0).permute(2, 0, 1, 3).reshape(length, batch, width)
        statistics = query.new_zeros(batch, head_num, length, 8, dtype=torch.float32)
        return out, statistics, statistics, query.new_empty(0), 0, 0, 0

    module = ModuleType("torch_npu")
    module.npu_fusion_attention = npu_fusion_attention  # type: ignore[attr-defined]
    return module
