"""Gated experts: down(act(gate(x)) * value(x)), all experts of a rank in two tensors.

Parameters (L local experts, F' = F / ETP inner width on this rank, H hidden):
    linear_fc1.weight [L, 2, F', H]   0 = gate, whose output is activated; 1 = value
    linear_fc2.weight [L, H, F']
Four dimensions let expert parallelism shard axis 0 and expert tensor parallelism axis 2 of both
tensors as they are, so that a checkpoint is the same for every layout.

Tokens come sorted by expert; each expert's product is one matrix product over its rows, and an
expert without tokens gets zero gradients, never none. Gate probabilities weigh the inner
activation, which is the same as weighing the output. What is kept for the backward pass: the
input, the first product's output and the probabilities.
"""

from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from ml_models import core_line
from ml_models.errors import LayoutError
from ml_models.layers.activation import BACKWARD, FORWARD
from ml_models.layers.device import parameter_device


class _ExpertFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        probs: Tensor,
        fc1: Tensor,
        fc2: Tensor,
        counts: list[int],
        activation: str,
    ) -> Tensor:
        width = fc2.shape[-1]
        inner = x.new_empty(x.shape[0], 2 * width)
        out = torch.empty_like(x)
        for expert, rows in _ranges(counts):
            torch.mm(x[rows], fc1[expert].view(2 * width, -1).t(), out=inner[rows])
            gate, value = inner[rows].float().split(width, dim=-1)
            acted = FORWARD[activation](gate).mul_(value).mul_(probs[rows].float()[:, None])
            torch.mm(acted.to(x.dtype), fc2[expert].t(), out=out[rows])
        ctx.save_for_backward(x, probs, fc1, fc2, inner)
        ctx.counts, ctx.activation = counts, activation
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner = ctx.saved_tensors
        width = fc2.shape[-1]
        grad_x, grad_probs = torch.empty_like(x), torch.empty_like(probs)
        grad_fc1, grad_fc2 = torch.empty_like(fc1), torch.empty_like(fc2)
        act, act_backward = FORWARD[ctx.activation], BACKWARD[ctx.activation]
        for expert, rows in _ranges(ctx.counts):
            gate, value = inner[rows].float().split(width, dim=-1)
            prob = probs[rows].float()[:, None]
            grad = torch.mm(grad_out[rows], fc2[expert]).float()
            acted = act(gate.contiguous())
            product = acted * value
            grad_probs[rows] = (grad * product).sum(-1).to(probs.dtype)
            torch.mm(grad_out[rows].t(), product.mul_(prob).to(x.dtype), out=grad_fc2[expert])
            grad.mul_(prob)
            grad_inner = x.new_empty(grad.shape[0], 2 * width)
            grad_inner[:, width:] = acted.mul_(grad)
            grad_inner[:, :width] = act_backward(grad.mul_(value), gate)
            torch.mm(grad_inner, fc1[expert].view(2 * width, -1), out=grad_x[rows])
            torch.mm(grad_inner.t(), x[rows], out=grad_fc1[expert].view(2 * width, -1))
        return grad_x, grad_probs, grad_fc1, grad_fc2, None, None


def _ranges(counts: list[int]) -> list[tuple[int, slice]]:
    ranges, start = [], 0
    for expert, count in enumerate(counts):
        ranges.append((expert, slice(start, start + count)))
        start += count
    return ranges


class _Weight(torch.nn.Module):
    """Holds one parameter, so that it is called linear_fcN.weight."""

    def __init__(self, *shape: int, config: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.empty(shape, dtype=config.params_dtype, device=parameter_device(config))
        )
        # Read by megatron-core. allreduce False: gradients are summed over the experts' own
        # data-parallel group. Core's experts say True at EP 1, which at TP 2 and ETP 1 loses the
        # gradients of the other TP ranks' part of the sequence. Every rank's part counts in norms.
        self.weight.allreduce = False  # type: ignore[attr-defined]
        self.weight.tensor_model_parallel = True  # type: ignore[attr-defined]
        self.weight.partition_dim = 2  # type: ignore[attr-defined]
        self.weight.partition_stride = 1  # type: ignore[attr-defined]


class GatedExperts(torch.nn.Module):
    """The experts module of megatron-core's MoELayer."""

    def __init__(
        self,
        num_local_experts: int,
        config: Any,
        *,
        activation: str,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.num_local_experts = num_local_experts
        self.activation = activation
        self.ep_group, self.etp_group, self.edp_group = core_line.expert_groups(pg_collection)
        width, etp = config.moe_ffn_hidden_size, self.etp_group.size()
        if width % etp:
            raise LayoutError(
                f"expert tensor parallel size is {etp}, which does not divide ffn_hidden_size "
                f"{width}; choose a divisor."
            )
        self.linear_fc1 = _Weight(
            num_local_experts, 2, width // etp, config.hidden_size, config=config
        )
        self.linear_fc2 = _Weight(
            num_local_experts, config.hidden_size, width // etp, config=config
        )

    def forward(
        self, tokens_TH: Tensor, tokens_per_expert: Tensor, probs_T: Tensor
    ) -> tuple[Tensor, None]:
        """Tokens sorted by local expert -> their outputs, partial sums under ETP, and no bias."""
        result: Tensor = _ExpertFunction.apply(
            tokens_TH,
            probs_T,
            self.linear_fc1.weight,
            self.linear_fc2.weight,
            tokens_per_expert.tolist(),
            self.activation,
        )
        return result, None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> dict[str, Any]:
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
