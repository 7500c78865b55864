"""Gated experts: down(act(gate(x)) * value(x)), all experts of a rank in two tensors.

Parameters (L local experts, F' = F / ETP inner width on this rank, H hidden):
    linear_fc1.weight [L, 2, F', H]   0 = gate, whose output is activated; 1 = value
    linear_fc2.weight [L, H, F']
Four dimensions let expert parallelism shard axis 0 and expert tensor parallelism axis 2 of both
tensors as they are, so that a checkpoint is the same for every layout. kernels/experts has the
arithmetic.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from ml_models.errors import LayoutError
from ml_models.kernels.experts.functions import EXPERT_FUNCTIONS
from ml_models.kernels.experts.loop import Product
from ml_models.layers.device import parameter_device
from ml_models.megatron_core import differences


class Weight(torch.nn.Module):
    """A module of a single parameter, which gives the parameter the name linear_fcN.weight."""

    def __init__(
        self, *shape: int, config: TransformerConfig, partition_dim: int, allreduce: bool = True
    ) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.empty(shape, dtype=config.params_dtype, device=parameter_device(config))
        )
        # Read by megatron-core: over which group gradients are summed, and that every TP rank's
        # part counts in norms.
        self.weight.allreduce = allreduce  # type: ignore[attr-defined]
        self.weight.tensor_model_parallel = True  # type: ignore[attr-defined]
        self.weight.partition_dim = partition_dim  # type: ignore[attr-defined]
        self.weight.partition_stride = 1  # type: ignore[attr-defined]


class GatedExperts(torch.nn.Module):
    """The experts module of megatron-core's MoELayer."""

    kernel_forms: Mapping[str, str] = MappingProxyType(
        {"experts": "loop", "gated_activation": "torch", "weight_gradient": "add"}
    )
    use_compiled = False

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        *,
        activation: str,
        pg_collection: object = None,
        **_: object,
    ) -> None:
        super().__init__()
        self.num_local_experts = num_local_experts
        self.activation = activation
        self.ep_group, self.etp_group, self.edp_group = differences.expert_groups(pg_collection)
        width, etp = config.moe_ffn_hidden_size, self.etp_group.size()
        if width % etp:
            raise LayoutError(
                f"expert tensor parallel size is {etp}, which does not divide ffn_hidden_size "
                f"{width}; choose a divisor."
            )
        # allreduce False: gradients are summed over the experts' own data-parallel group. Core's
        # experts say True at EP 1, which at TP 2 and ETP 1 loses the gradients of the other TP
        # ranks' part of the sequence.
        kind: dict[str, Any] = {"config": config, "partition_dim": 2, "allreduce": False}
        hidden, part = config.hidden_size, width // etp
        self.widths = (hidden, part)
        self.linear_fc1 = Weight(num_local_experts, 2, part, hidden, **kind)
        self.linear_fc2 = Weight(num_local_experts, hidden, part, **kind)

    def forward(
        self, tokens_TH: Tensor, tokens_per_expert: Tensor, probs_T: Tensor
    ) -> tuple[Tensor, None]:
        """Outputs of tokens that are sorted by local expert, and no bias.

        With expert tensor parallelism the outputs are this rank's part of a sum.
        """
        forms = self.kernel_forms
        product = Product(
            activation=self.activation,
            compiled=self.use_compiled,
            experts=forms["experts"],
            gated=forms["gated_activation"],
            weight_gradient=forms["weight_gradient"],
        )
        result: Tensor = EXPERT_FUNCTIONS[product.experts].apply(
            tokens_TH,
            probs_T,
            self.linear_fc1.weight,
            self.linear_fc2.weight,
            tokens_per_expert.tolist(),
            product,
        )
        return result, None

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        *_: object,
        **__: object,
    ) -> dict[str, ShardedTensor]:
        """EP shards axis 0, ETP axis 2; expert data-parallel ranks hold replicas."""
        first = len(sharded_offsets)
        state = {}
        for name, parameter in self.named_parameters():
            state[prefix + name] = ShardedTensor.from_rank_offsets(
                prefix + name,
                parameter,  # itself, not .data: optimizers find their state's place by it
                *sharded_offsets,
                (first, self.ep_group.rank(), self.ep_group.size()),
                (first + 2, self.etp_group.rank(), self.etp_group.size()),
                replica_id=(0, 0, self.edp_group.rank()),
                prepend_axis_num=first,
            )
        return state
