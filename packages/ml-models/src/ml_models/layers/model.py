"""GPTModel with multipliers on the embedding and on the logits, and a padded vocabulary.

Rows that pad the vocabulary give the lowest number there is instead of a logit, so that neither the
loss nor a sample depends on how far a layout pads (megatron-core lets them share in the softmax).
"""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from ml_models.layers.device import device_of, place


class ScaledGPTModel(GPTModel):
    """logits = output_multiplier * (final hidden state @ output weight^T).

    The output multiplier is applied to the final hidden state, which is the same product without
    a second [S, B, vocabulary] tensor: 0.5 GiB for 1024 tokens of Grok-1's vocabulary in fp32.
    """

    def __init__(
        self,
        *args: object,
        unpadded_vocab_size: int,
        embedding_multiplier: float = 1.0,
        output_multiplier: float = 1.0,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        # megatron-core makes some parameters on the host, whatever its settings say.
        place(self, device_of(self.config))
        self.unpadded_vocab_size = unpadded_vocab_size
        self.embedding_multiplier = embedding_multiplier
        self.output_multiplier = output_multiplier
        # Hooks, because megatron-core calls the output layer inside its own forward.
        if self.post_process and output_multiplier != 1.0:
            self.output_layer.register_forward_pre_hook(self._scale_hidden)
        if self.post_process and unpadded_vocab_size < self.vocab_size:
            self.output_layer.register_forward_hook(self._hide_padding)

    def _scale_hidden(self, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * self.output_multiplier, *inputs[1:])

    def _hide_padding(
        self, _: torch.nn.Module, __: object, output: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        logits, bias = output
        # With parallel output a rank has the columns of its part of the vocabulary alone.
        first = 0
        if logits.shape[-1] < self.vocab_size:
            first = parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1]
        column = torch.arange(first, first + logits.shape[-1], device=logits.device)
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(column >= self.unpadded_vocab_size, lowest), bias

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
        result: Tensor = super().forward(
            input_ids,
            position_ids,
            attention_mask,
            decoder_input=decoder_input,
            labels=labels,
            **kwargs,
        )
        return result
