"""Attention without a cap by torch.nn.functional.scaled_dot_product_attention.

torch chooses the kernel: FlashAttention or cuDNN on a GPU in bf16, its own flash kernel on a CPU.
"""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ml_models.scoring import Scoring


def causal_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    scoring: Scoring,
    _: bool = False,
) -> Tensor:
    """Causal attention [S, B, N*D]; query head n reads group n // (N / G)."""
    assert scoring.cap is None and scoring.temperature_length is None, "forms.py refuses both"
    out_BNSD = scaled_dot_product_attention(
        query_SBND.permute(1, 2, 0, 3),
        key_SBGD.permute(1, 2, 0, 3),
        value_SBGD.permute(1, 2, 0, 3),
        is_causal=True,
        scale=scoring.scale,
        enable_gqa=query_SBND.shape[2] != key_SBGD.shape[2],
    )
    return out_BNSD.permute(2, 0, 1, 3).flatten(2)
