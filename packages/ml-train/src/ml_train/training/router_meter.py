"""What the routers of all layers did in a step: the load of the experts, entropy, auxiliary losses.

The routers of ml_models count the tokens of each expert only where gradients are recorded, so that
recomputation counts nothing twice. megatron-core's tracker sums the auxiliary losses at the same
moment. An all-reduce over tensor and data ranks and another over pipeline stages add up both:
layers x (experts + 4) numbers a step.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from megatron.core import parallel_state

from ml_models.megatron_core import differences

_LOSSES = ("load_balancing_loss", "z_loss")
"""Names in megatron-core's tracker."""


class Router(Protocol):
    """What is used of a router of ml_models.layers."""

    layer_number: int
    """From 1."""
    training: bool
    token_counts: torch.Tensor | None
    """Tokens per expert since it was last reset."""
    observers: list[Callable[[torch.Tensor], None]]
    """Are called with the logits [tokens, experts] of every forward pass."""


@dataclass(frozen=True, kw_only=True)
class RouterMetrics:
    """The fields of StepMetrics that routers give; see there."""

    aux_loss: float | None
    z_loss: float | None
    expert_load: list[list[float]]
    router_entropy: list[float]


def routers_of(model_chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[int, Router]]:
    """(number of the layer from 0, router) of all layers on this rank."""
    for chunk in model_chunks:
        for module in filter(_is_router, chunk.modules()):
            yield int(module.layer_number) - 1, module


def _is_router(module: object) -> TypeGuard[Router]:
    return hasattr(module, "token_counts")


class RouterMeter:
    """Reads and resets what the routers of this rank's layers gathered during a step."""

    def __init__(
        self, model_chunks: Sequence[torch.nn.Module], *, num_layers: int, num_experts: int
    ):
        self._num_layers, self._num_experts = num_layers, num_experts
        # Per layer the sum of entropies and the number of tokens.
        self._entropy = torch.zeros(num_layers, 2, dtype=torch.float64)
        self._routers = list(routers_of(model_chunks))
        for layer, router in self._routers:
            router.observers.append(self._observer(layer, router))

    def _observer(self, layer: int, router: Router) -> Callable[[torch.Tensor], None]:
        def observe(logits: torch.Tensor) -> None:
            if router.training:
                logs = torch.log_softmax(logits.float(), dim=-1)
                self._entropy[layer, 0] -= (logs.exp() * logs).sum().to("cpu", torch.float64)
                self._entropy[layer, 1] += logits.shape[0]

        return observe

    def collect(self, *, num_microbatches: int, device: torch.device) -> RouterMetrics:
        """Shares, entropies and losses of the step over all ranks. Collective."""
        experts = self._num_experts
        # Columns: tokens of each expert, sum of entropies, tokens, and the losses in _LOSSES.
        table = torch.zeros(self._num_layers, experts + 4, device=device)
        for layer, router in self._routers:
            if router.token_counts is not None:
                table[layer, :experts] += router.token_counts.to(device)
                router.token_counts = None
        table[:, experts : experts + 2] = self._entropy.to(device, torch.float32)
        self._entropy.zero_()
        tracker = _tracker()
        ranks = parallel_state.get_tensor_and_data_parallel_group()
        scale = 1.0 / (ranks.size() * num_microbatches)
        for column, name in enumerate(_LOSSES, start=experts + 2):
            entry = tracker.get(name)
            if entry is not None:
                # With a reduce_group, the ranks of that group hold parts that add up to the loss.
                group = entry.get("reduce_group")
                parts = 1 if group is None else group.size()
                table[:, column] = entry["values"].to(device) * (scale * parts)
                entry["values"].zero_()
        for group in (ranks, parallel_state.get_pipeline_model_parallel_group()):
            if group.size() > 1:
                torch.distributed.all_reduce(table, group=group)
        return self._read(table.cpu())

    def _read(self, table: torch.Tensor) -> RouterMetrics:
        experts = self._num_experts
        counts = table[:, :experts]
        load = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0)).tolist()
        entropy = (table[:, experts] / table[:, experts + 1].clamp(min=1.0)).tolist()
        # Both losses are positive where they are on: the first is about 1, the second a square.
        losses = table[:, experts + 2 :].mean(dim=0).tolist()
        return RouterMetrics(
            aux_loss=losses[0] if losses[0] > 0 else None,
            z_loss=losses[1] if losses[1] > 0 else None,
            expert_load=load,
            router_entropy=entropy,
        )


def _tracker() -> MutableMapping[str, Any]:
    """Name of an auxiliary loss -> its entry in megatron-core's tracker: values per layer."""
    return differences.router_losses()
