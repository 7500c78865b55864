"""One layer as a run trains it, on any device: ours with chosen forms, or stock megatron-core's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from ml_models.build import build_model, make_transformer_config, pad_vocab_size
from ml_models.layers.linear import add_gradients_to_buffers
from ml_models.single_process import process_group

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.kernels.table import KernelSettings
    from ml_models.platforms.base import Platform


@contextmanager
def groups(platform: Platform) -> Iterator[None]:
    """Process groups of one process, inside the platform's context."""
    with process_group(platform), platform.context():
        parallel_state.initialize_model_parallel(
            create_gloo_process_groups=platform.needs_gloo_groups
        )
        model_parallel_cuda_manual_seed(1)
        try:
            yield
        finally:
            parallel_state.destroy_model_parallel()


class Layer:
    """A layer in core's DistributedDataParallel, whose buffer keeps gradients in fp32."""

    def __init__(
        self,
        model: ModelConfig,
        platform: Platform,
        dtype: torch.dtype,
        *,
        kernels: KernelSettings | None = None,
        execution: Any = "eager",
        stock: bool = False,
    ):
        self.model = model.replace(num_layers=1)
        self.device, self.dtype = platform.device, dtype
        config = make_transformer_config(
            self.model,
            device=platform.device,
            bf16=dtype == torch.bfloat16,
            params_dtype=dtype,
            pipeline_dtype=dtype,
            perform_initialization=False,
        )
        vocabulary = pad_vocab_size(self.model.vocab_size, 1, 1)
        if stock:
            built = _stock(self.model, config, vocabulary)
        else:
            built = build_model(
                self.model, config, padded_vocab_size=vocabulary,
                pre_process=False, post_process=False, execution=execution, kernels=kernels,
            )  # fmt: skip
        built = built.to(device=self.device, dtype=dtype)
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        self.wrapped = DistributedDataParallel(
            config,
            DistributedDataParallelConfig(grad_reduce_in_fp32=dtype == torch.bfloat16),
            built,
        )
        add_gradients_to_buffers(self.wrapped)
        self.layer = built.decoder.layers[0]

    def mask(self, length: int) -> torch.Tensor | None:
        """Stock attention reads a mask; ours knows that it is causal."""
        if type(self.layer).__module__.startswith("ml_models"):
            return None
        return torch.ones(length, length, dtype=torch.bool, device=self.device).triu(1)[None, None]

    def inputs(self, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [S, 1, H] and rotary angles [S, 1, 1, C], the same for every dtype."""
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randn(length, 1, self.model.hidden_size, generator=generator)
        angles = torch.randn(length, 1, 1, self.model.kv_channels, generator=generator)
        return hidden.bfloat16().to(self.device, self.dtype).requires_grad_(), angles.to(
            self.device
        )

    def step(self, hidden: torch.Tensor, angles: torch.Tensor, mask: torch.Tensor | None) -> Any:
        """Forward and backward; the output [S, 1, H]."""
        self.wrapped.zero_grad_buffer()
        output, _ = self.layer(hidden, attention_mask=mask, rotary_pos_emb=angles)
        output.backward(torch.ones_like(output) / output.numel())
        return output

    def gradients(self) -> dict[str, torch.Tensor]:
        """Name of a parameter -> its gradient in the buffer."""
        return {name: item.main_grad for name, item in self.layer.named_parameters()}


def _stock(model: ModelConfig, config: Any, vocabulary: int) -> Any:
    """Megatron-core's own modules of the same sizes; they have no soft cap and no post norms."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    config.activation_func = torch.nn.functional.gelu
    spec = get_gpt_layer_local_spec(
        num_experts=model.num_experts, moe_grouped_gemm=False, normalization="RMSNorm"
    )
    return GPTModel(
        config, spec, vocabulary, model.seq_length,
        pre_process=False, post_process=False, position_embedding_type="rope",
    )  # fmt: skip
