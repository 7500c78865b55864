"""GPTModel with multipliers on the embedding and on the logits, a soft cap on the logits, and a
padded vocabulary.

Rows that pad the vocabulary give the lowest number there is instead of a logit, so that neither the
loss nor a sample depends on how far a layout pads (megatron-core lets them share in the softmax).
"""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from ml_models.kernels.precision import wide
from ml_models.layers.capped_cross_entropy import VocabularyPart, capped_cross_entropy
from ml_models.layers.device import device_of, place


class ScaledGPTModel(GPTModel):
    """logits = cap * tanh(output_multiplier * (final hidden state @ output weight^T) / cap).

    The output multiplier is applied to the final hidden state, which is the same product without
    a second [S, B, vocabulary] tensor: 0.5 GiB for 1024 tokens of Grok-1's vocabulary in fp32. With
    labels the cap is part of the loss, for the same reason.
    """

    def __init__(
        self,
        *args: object,
        unpadded_vocab_size: int,
        embedding_multiplier: float = 1.0,
        output_multiplier: float = 1.0,
        final_logit_cap: float | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        # megatron-core makes some parameters on the host, whatever its settings say.
        place(self, device_of(self.config))
        self.unpadded_vocab_size = unpadded_vocab_size
        self.embedding_multiplier = embedding_multiplier
        self.output_multiplier = output_multiplier
        self.final_logit_cap = final_logit_cap
        self._cap_in_loss = False
        # Hooks, because megatron-core calls the output layer inside its own forward.
        if self.post_process and output_multiplier != 1.0:
            self.output_layer.register_forward_pre_hook(self._scale_hidden)
        if self.post_process and final_logit_cap is not None:
            self.output_layer.register_forward_hook(self._cap_logits)
        if self.post_process and unpadded_vocab_size < self.vocab_size:
            self.output_layer.register_forward_hook(self._hide_padding)

    def _scale_hidden(self, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * self.output_multiplier, *inputs[1:])

    def _cap_logits(
        self, _: torch.nn.Module, __: object, output: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        logits, bias = output
        cap = self.final_logit_cap
        if self._cap_in_loss or cap is None:
            return output
        return (wide(logits).div(cap).tanh_() * cap).to(logits.dtype), bias

    def _hide_padding(
        self, _: torch.nn.Module, __: object, output: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        logits, bias = output
        if self._cap_in_loss:
            return output  # The capped loss leaves the padding out.
        first = self._first_entry(logits)
        column = torch.arange(first, first + logits.shape[-1], device=logits.device)
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(column >= self.unpadded_vocab_size, lowest), bias

    def _first_entry(self, logits: Tensor) -> int:
        """The entry of the vocabulary that the logits' first column is of."""
        # With parallel output a rank has the columns of its part of the vocabulary alone.
        if logits.shape[-1] == self.vocab_size:
            return 0
        return int(parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1])

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Losses [B, S] of labels [B, S] and of logits [S, B, V / TP] that this model returned."""
        if not self._cap_in_loss:
            losses: Tensor = super().compute_language_model_loss(labels, logits)
            return losses
        assert self.final_logit_cap is not None
        first = self._first_entry(logits)
        part = VocabularyPart(
            first,
            min(max(0, self.unpadded_vocab_size - first), logits.shape[-1]),
            parallel_state.get_tensor_model_parallel_group(),
        )
        capped = capped_cross_entropy(
            logits, labels.transpose(0, 1).contiguous(), cap=self.final_logit_cap, part=part
        )
        return capped.transpose(0, 1).contiguous()

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Logits [B, S, V / TP], or losses [B, S] with labels, or the stage's output [S, B, H]."""
        if self.pre_process and decoder_input is None:
            decoder_input = self.embedding(input_ids=input_ids, position_ids=position_ids)
            decoder_input = decoder_input * self.embedding_multiplier
        # Inside this call alone the output layer's logits come to the loss without their cap.
        self._cap_in_loss = labels is not None and self.final_logit_cap is not None
        try:
            result: Tensor = super().forward(
                input_ids,
                position_ids,
                attention_mask,
                decoder_input=decoder_input,
                labels=labels,
                **kwargs,
            )
        finally:
            self._cap_in_loss = False
        return result
