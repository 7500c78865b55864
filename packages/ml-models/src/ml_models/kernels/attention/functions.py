"""From a form's name to its function. Imports torch, unlike the table of forms."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from ml_models.kernels.attention import blocked, flash, flex, npu_fusion, reference, sdpa
from ml_models.scoring import Scoring

CausalAttention = Callable[[Tensor, Tensor, Tensor, Scoring, bool], Tensor]
"""(query [S, B, N, D], key and value [S, B, G, D], rule, compiled) -> [S, B, N*D]."""

CAUSAL_ATTENTION: Mapping[str, CausalAttention] = MappingProxyType(
    {
        "reference": reference.causal_attention,
        "blocked": blocked.causal_attention,
        "sdpa": sdpa.causal_attention,
        "flex": flex.causal_attention,
        "flash": flash.causal_attention,
        "npu_fusion": npu_fusion.causal_attention,
    }
)
