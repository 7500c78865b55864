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

Under megatron-core's DistributedDataParallel the weights' gradients are added to its buffer
(`main_grad`) by the products that compute them. A tensor of all experts' gradients, new in each
step, would cost more than its arithmetic: 100 MiB are 25,000 page faults.
"""

from typing import Any, NamedTuple

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from ml_models.errors import LayoutError
from ml_models.layers.activation import BACKWARD, FORWARD
from ml_models.layers.device import parameter_device
from ml_models.layers.kernels import kernel
from ml_models.megatron_core import differences


def gated_product(inner: Tensor, probs: Tensor, activation: str) -> Tensor:
    """act(gate) * value * prob [n, F] in fp32, given in inner's dtype."""
    gate, value = inner.float().chunk(2, dim=-1)
    product = FORWARD[activation](gate).mul_(value).mul_(probs.float()[:, None])
    return product.to(inner.dtype)


def gated_product_backward(
    grad: Tensor, inner: Tensor, probs: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(act(gate) * value, gradient of inner, gradient of probs); `grad` holds the factor prob."""
    gate, value = inner.float().chunk(2, dim=-1)
    grad = grad.float()
    acted = FORWARD[activation](gate)
    product = acted * value
    # grad holds the factor prob, which the gradient of prob itself must not have.
    tiny = torch.finfo(torch.float32).tiny
    grad_probs = (grad * product).sum(-1).div_(probs.float().clamp(min=tiny))
    grad_inner = torch.empty_like(inner)
    width = gate.shape[-1]
    grad_inner[:, width:] = acted.mul_(grad)
    grad_inner[:, :width] = BACKWARD[activation](grad.mul_(value), gate)
    return product.to(inner.dtype), grad_inner, grad_probs.to(probs.dtype)


class Product(NamedTuple):
    """How the inner product of an expert is computed."""

    activation: str
    """A name of activation.py."""
    compiled: bool


class ExpertFunction(torch.autograd.Function):
    """Tokens [n, H] sorted by expert, with gate probabilities [n], through their experts."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        probs: Tensor,
        fc1: Tensor,
        fc2: Tensor,
        counts: list[int],
        product: "Product",
    ) -> Tensor:
        width = fc2.shape[-1]
        inner = x.new_empty(x.shape[0], 2 * width)
        out = torch.empty_like(x)
        gated = kernel(gated_product, product.compiled)
        for expert, rows in _ranges(counts):
            # Gate and value in one product: [n, H] @ [H, 2F'].
            torch.mm(x[rows], fc1[expert].view(2 * width, -1).t(), out=inner[rows])
            weighted = gated(inner[rows], probs[rows], product.activation)
            torch.mm(weighted, fc2[expert].t(), out=out[rows])
        ctx.save_for_backward(x, probs, fc1, fc2, inner)
        ctx.weights, ctx.counts, ctx.product = (fc1, fc2), counts, product
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, probs, fc1, fc2, inner = ctx.saved_tensors
        width = fc2.shape[-1]
        grad_x, grad_probs = torch.empty_like(x), torch.empty_like(probs)
        grad_fc1, grad_fc2 = (_WeightGradient(weight) for weight in ctx.weights)
        gated = kernel(gated_product_backward, ctx.product.compiled)
        for expert, rows in _ranges(ctx.counts):
            weighted = (grad_out[rows] * probs[rows, None]).to(grad_out.dtype)
            grad = torch.mm(weighted, fc2[expert])
            product, grad_inner, grad_probs[rows] = gated(
                grad, inner[rows], probs[rows], ctx.product.activation
            )
            grad_fc2.add(expert, weighted.t(), product)
            torch.mm(grad_inner, fc1[expert].view(2 * width, -1), out=grad_x[rows])
            grad_fc1.add(expert, grad_inner.t(), x[rows])
        return grad_x, grad_probs, grad_fc1.result, grad_fc2.result, None, None


class _WeightGradient:
    """The gradient of a weight: part of megatron-core's buffer if that exists, else a tensor.

    `result` is what autograd gets. Beside a buffer its values are never read, as for core's own
    gradient_accumulation_fusion: DistributedDataParallel's hook looks at grad_added_to_main_grad.
    """

    def __init__(self, weight: Any) -> None:
        self.result = torch.empty_like(weight)
        self._sum: Tensor | None = None
        if hasattr(weight, "grad_added_to_main_grad") and weight.requires_grad:
            self._sum = weight.main_grad
            weight.grad_added_to_main_grad = True

    def add(self, expert: int, first: Tensor, second: Tensor) -> None:
        """Set the gradient of `expert` to first @ second, or add that to the buffer."""
        if self._sum is None:
            torch.mm(first, second, out=self.result[expert].view(first.shape[0], -1))
            return
        target = self._sum[expert].view(first.shape[0], -1)
        if target.dtype == first.dtype:
            target.addmm_(first, second)
        else:
            target.add_(torch.mm(first, second))


def _ranges(counts: list[int]) -> list[tuple[int, slice]]:
    ranges, start = [], 0
    for expert, count in enumerate(counts):
        ranges.append((expert, slice(start, start + count)))
        start += count
    return ranges


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
        self.linear_fc1 = Weight(num_local_experts, 2, part, hidden, **kind)
        self.linear_fc2 = Weight(num_local_experts, hidden, part, **kind)

    def forward(
        self, tokens_TH: Tensor, tokens_per_expert: Tensor, probs_T: Tensor
    ) -> tuple[Tensor, None]:
        """Outputs of tokens that are sorted by local expert, and no bias.

        With expert tensor parallelism the outputs are this rank's part of a sum.
        """
        result: Tensor = ExpertFunction.apply(
            tokens_TH,
            probs_T,
            self.linear_fc1.weight,
            self.linear_fc2.weight,
            tokens_per_expert.tolist(),
            Product(self.activation, self.use_compiled),
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
