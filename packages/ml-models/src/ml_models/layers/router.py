"""The router in one pass: fp32 gate, softmax over all experts, top-k, losses from the same scores.

Grok-1 keeps the probabilities of a softmax over all experts, so that the chosen ones sum to less
than 1 (xAI's model.py:238-298; config.moe_router_pre_softmax). Renormalised gates (Mixtral, the
guide) are a softmax over the chosen logits, which is the same as dividing by their sum.

Grok-2's logits pass cap * tanh(logit / cap) before the softmax (capped_router). Losses see the
capped logits, observers the plain ones.

Load-balancing loss (Switch Transformer, arXiv 2101.03961): E * sum_e f_e * P_e, f_e the share of
the sequence's assignments, P_e the mean probability; each rank of a sequence-parallel group
contributes its tokens' part, so that the gradient does not depend on TP. It is computed only where
gradients are recorded, hence once under recomputation.

Token dropping (config.moe_expert_capacity_factor): of a micro batch's tokens an expert takes its
likeliest ceil(factor * T * k / E); the others pass the layer by its residual. The balancing loss
sees the choices before dropping, the counts of tokens per expert those after it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from ml_models.megatron_core import differences

Observer = Callable[[Tensor], None]


class _GateFunction(torch.autograd.Function):
    """x [T, H] @ weight [E, H]^T in fp32; keeps x in its own dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x.float() @ weight.float().t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = (grad @ weight.float()).to(x.dtype)
        return grad_x, (grad.t() @ x.float()).to(weight.dtype)


class FusedRouter(TopKRouter):
    """Parameter weight [E, H]. Settings are megatron-core's moe_router_* and moe_*_loss_coeff."""

    logit_cap: float | None = None
    """Logits become cap * tanh(logit / cap) before the softmax; None: they stay as they are."""

    token_counts: Tensor | None = None
    """Tokens that each expert got in training since it was last set to None, fp32 [E]."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.observers: list[Observer] = []
        """Called in turn with the detached logits [T, E] of every forward pass."""

    def gating(self, tokens: Tensor) -> Tensor:
        """Logits [T, E] in fp32."""
        logits: Tensor = _GateFunction.apply(tokens.reshape(-1, tokens.shape[-1]), self.weight)
        return logits

    def forward(self, tokens: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Gate probabilities [T, E], zero where not chosen, and the mask of the chosen [T, E].

        From 0.18 on megatron-core passes a padding mask, which is None for unpadded sequences.
        """
        logits = self.gating(self.apply_input_jitter(tokens))
        for observe in self.observers:
            observe(logits.detach())
        if self.logit_cap is not None:
            logits = self.logit_cap * torch.tanh(logits / self.logit_cap)
        learning = self.training and torch.is_grad_enabled()
        if learning and self.config.moe_z_loss_coeff:
            logits = self._attach_z_loss(logits)
        scores = torch.softmax(logits, dim=-1)
        top, chosen = torch.topk(scores, self.topk, dim=-1)
        if not self.config.moe_router_pre_softmax:
            top = top / top.sum(dim=-1, keepdim=True)
        probs = torch.zeros_like(scores).scatter(1, chosen, top)
        routing_map = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
        kept = routing_map
        if self.config.moe_expert_capacity_factor is not None:
            kept = routing_map & self._within_capacity(probs)
            probs = probs * kept
        if learning:
            counts = kept.sum(dim=0).float()
            self.token_counts = counts if self.token_counts is None else self.token_counts + counts
            probs = self._balance(probs, scores, routing_map)
        return probs, kept

    def _within_capacity(self, probs: Tensor) -> Tensor:
        """Mask [T, E] of each expert's likeliest tokens, as many as it has room for."""
        tokens, experts = probs.shape
        room = math.ceil(tokens * self.topk / experts * self.config.moe_expert_capacity_factor)
        likeliest = torch.topk(probs.detach(), min(room, tokens), dim=0, sorted=False).indices
        return torch.zeros_like(probs, dtype=torch.bool).scatter_(0, likeliest, True)

    def _balance(self, probs: Tensor, scores: Tensor, routing_map: Tensor) -> Tensor:
        coefficient = self.config.moe_aux_loss_coeff
        if self.config.moe_router_load_balancing_type != "aux_loss" or not coefficient:
            return probs
        # Counts are of the whole sequence, so that every rank's part of the loss uses the same f_e.
        counts = routing_map.sum(dim=0).float()
        group = differences.sequence_group(self)
        if group.size() > 1:
            torch.distributed.all_reduce(counts, group=group)
        tokens = scores.shape[0] * group.size()
        factor = scores.shape[1] / (self.topk * tokens * tokens)
        loss = (scores.sum(dim=0) * counts).sum() * factor
        differences.record_router_loss("load_balancing_loss", loss, self, reduce_group=group)
        return self._attach(probs, loss * coefficient)

    def _attach_z_loss(self, logits: Tensor) -> Tensor:
        """Mean of logsumexp squared (ST-MoE, arXiv 2202.08906), scaled as megatron-core does."""
        loss = torch.logsumexp(logits, dim=-1).square().mean()
        differences.record_router_loss("z_loss", loss, self)
        size = differences.sequence_group(self).size()
        return self._attach(logits, loss * (self.config.moe_z_loss_coeff / size))

    def _attach(self, activation: Tensor, loss: Tensor) -> Tensor:
        """`activation` unchanged; its backward pass also starts that of `loss`."""
        # Gradients are then divided by the number of tokens of the whole step.
        if self.config.calculate_per_token_loss:
            loss = loss * activation.shape[0]
        result: Tensor = MoEAuxLossAutoScaler.apply(activation, loss)
        return result


def capped_router(logit_cap: float | None) -> type[FusedRouter]:
    """FusedRouter with a soft cap on its logits; megatron-core makes routers without arguments."""
    return type("FusedRouter", (FusedRouter,), {"logit_cap": logit_cap})
