"""A gated MLP for dense layers: down(act(gate(x)) * value(x)), computed as a single expert.

Parameters (F' = F / TP inner width on this rank, H hidden), a checkpoint's for every layout:
    linear_fc1.weight [2, F', H]   0 = gate, whose output is activated; 1 = value
    linear_fc2.weight [H, F']
megatron-core's own MLP keeps gate and value in one [2F, H], whose parts mean something else at each
TP size; here TP shards axis 1 of both tensors as they are.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.tensor_parallel import mappings
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from ml_models.kernels.experts.loop import ExpertFunction, Product
from ml_models.layers.experts import Weight


class GatedMLP(torch.nn.Module):
    """The mlp module of a transformer layer. `gated_mlp` makes subclasses with an activation."""

    activation = "silu"
    kernel_forms: Mapping[str, str] = MappingProxyType(
        {"gated_activation": "torch", "weight_gradient": "add"}
    )
    use_compiled = False

    def __init__(self, config: TransformerConfig, **_: object) -> None:
        super().__init__()
        self.sequence_parallel = config.sequence_parallel
        width = config.ffn_hidden_size // config.tensor_model_parallel_size
        self.linear_fc1 = Weight(2, width, config.hidden_size, config=config, partition_dim=1)
        self.linear_fc2 = Weight(config.hidden_size, width, config=config, partition_dim=1)

    def forward(self, x_SBH: Tensor, **_: object) -> tuple[Tensor, None]:
        """[S, B, H] -> the same; under sequence parallelism S is this rank's part."""
        if self.sequence_parallel:
            x_SBH = mappings.gather_from_sequence_parallel_region(x_SBH)
        else:
            x_SBH = mappings.copy_to_tensor_model_parallel_region(x_SBH)
        tokens = x_SBH.reshape(-1, x_SBH.shape[-1])
        out: Tensor = ExpertFunction.apply(
            tokens,
            torch.ones(tokens.shape[0], dtype=torch.float32, device=tokens.device),
            # One expert, which takes every token with the gate probability 1.
            self.linear_fc1.weight[None],
            self.linear_fc2.weight[None],
            [tokens.shape[0]],
            Product(
                activation=self.activation,
                compiled=self.use_compiled,
                gated=self.kernel_forms["gated_activation"],
                weight_gradient=self.kernel_forms["weight_gradient"],
            ),
        )
        out = out.view_as(x_SBH)
        if self.sequence_parallel:
            return mappings.reduce_scatter_to_sequence_parallel_region(out), None
        return mappings.reduce_from_tensor_model_parallel_region(out), None

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        *_: object,
        **__: object,
    ) -> dict[str, ShardedTensor]:
        """TP shards axis 1 of both; data-parallel ranks hold replicas."""
        first = len(sharded_offsets)
        rank = parallel_state.get_tensor_model_parallel_rank()
        size = parallel_state.get_tensor_model_parallel_world_size()
        replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
        return {
            prefix + name: ShardedTensor.from_rank_offsets(
                prefix + name,
                parameter,
                *sharded_offsets,
                (first + 1, rank, size),
                replica_id=(0, 0, replica),
                prepend_axis_num=first,
            )
            for name, parameter in self.named_parameters()
        }


def gated_mlp(activation: str) -> type[GatedMLP]:
    """GatedMLP with `activation`, one of kernels/activation.py's names."""
    return type("GatedMLP", (GatedMLP,), {"activation": activation})
