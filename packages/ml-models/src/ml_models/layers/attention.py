"""Self-attention on megatron-core's projections, with rotary positions in fp32 and a soft cap.

The parameters, their names and their tensor parallelism are core's SelfAttention; its forward is
replaced, as the stock one casts cosine and sine to bf16 and has no soft cap.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor

from ml_models.errors import ConfigError
from ml_models.kernels.attention.functions import CAUSAL_ATTENTION
from ml_models.kernels.attention.reference import masked_attention
from ml_models.kernels.rotary import ROTATIONS
from ml_models.scoring import Scoring


class CoreAttention(torch.nn.Module):
    """From queries, keys and values to their mix. CappedSelfAttention sets `scoring`."""

    kernel_forms: Mapping[str, str] = MappingProxyType({"attention": "blocked"})
    scoring = Scoring(scale=1.0)
    use_compiled = False

    def __init__(self, **_: object) -> None:
        super().__init__()

    def forward(
        self, query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attention [S, B, N*D]: causal without a mask, else by the mask (True: may not look)."""
        if mask is None:
            attend = CAUSAL_ATTENTION[self.kernel_forms["attention"]]
            return attend(query_SBND, key_SBGD, value_SBGD, self.scoring, self.use_compiled)
        return masked_attention(query_SBND, key_SBGD, value_SBGD, mask, self.scoring)


class CappedSelfAttention(SelfAttention):
    """Grouped-query attention whose scores follow `scoring`."""

    kernel_forms: Mapping[str, str] = MappingProxyType({"rotary": "torch"})
    use_compiled = False

    def __init__(
        self,
        *args: object,
        scoring: Scoring,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.core_attention.scoring = scoring

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        inference_context: object = None,
        packed_seq_params: object = None,
        **_: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Output [S, B, H] (sequence-sharded under sequence parallelism) and no bias."""
        if inference_context is not None or packed_seq_params is not None:
            raise ConfigError(
                "attention got an inference context or packed sequences; neither is supported: "
                "generate by running the whole prefix, and pass sequences unpacked."
            )
        query, key, value = self.get_query_key_value_tensors(hidden_states)
        if rotary_pos_emb is not None:
            turn = ROTATIONS[self.kernel_forms["rotary"]]
            query = turn(query, rotary_pos_emb, self.use_compiled)
            key = turn(key, rotary_pos_emb, self.use_compiled)
        output, bias = self.linear_proj(self.core_attention(query, key, value, attention_mask))
        return output, bias
