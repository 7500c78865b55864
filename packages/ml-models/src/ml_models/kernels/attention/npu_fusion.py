"""Attention without a cap by torch_npu's npu_fusion_attention.

Its contract (docs/zh/custom_APIs/torch_npu of github.com/Ascend/op-plugin): layout SBH is query
[S, B, N*D], key and value [S, B, G*D], in fp16, bf16 or fp32; `head_num` counts the query's heads.
`sparse_mode` 2 is the causal mask from the upper left corner, for which `atten_mask` is always
2048 x 2048, True where a query may not look. The first of its seven results is the output. No NPU
was available: the tests hold the call to a stand-in that implements this contract and refuses
anything else.
"""

import functools
from importlib import import_module

import torch
from torch import Tensor

from ml_models.scoring import Scoring

CAUSAL_FROM_UPPER_LEFT = 2
COMPRESSED_MASK = 2048
ALL_TOKENS = 2**31 - 1


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    _: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    assert scoring.cap is None and scoring.temperature_length is None, "forms.py refuses both"
    attend = import_module("torch_npu").npu_fusion_attention
    results: tuple[Tensor, ...] = attend(
        query_SBND.flatten(2),
        key_SBGD.flatten(2),
        value_SBGD.flatten(2),
        query_SBND.shape[2],
        "SBH",
        atten_mask=_compressed_mask(query_SBND.device),
        scale=scoring.scale,
        keep_prob=1.0,
        pre_tockens=ALL_TOKENS,
        next_tockens=0,
        sparse_mode=CAUSAL_FROM_UPPER_LEFT,
    )
    return results[0]


@functools.lru_cache(maxsize=1)
def _compressed_mask(device: torch.device) -> Tensor:
    ones = torch.ones(COMPRESSED_MASK, COMPRESSED_MASK, dtype=torch.bool, device=device)
    return ones.triu(1)
