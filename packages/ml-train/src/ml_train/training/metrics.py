"""What one step reports, and how the mixture-of-experts part of it is gathered.

The routers of ml_models count the tokens of each expert where gradients are recorded, hence once
under recomputation; auxiliary losses are summed there as well, in megatron-core's tracker. One
all-reduce over tensor and data ranks and one over pipeline stages bring both together: layers x
(experts + 4) numbers a step.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ml_models.megatron_core import differences


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One optimizer step, the same on every rank."""

    iteration: int
    """1 for the first step of the run."""
    loss: float
    """Mean cross entropy per token over the global batch, in nats, without auxiliary losses."""
    aux_loss: float | None = None
    """Load-balancing loss before its coefficient, mean over layers and micro batches."""
    z_loss: float | None = None
    """Router z-loss, likewise; None where it is off."""
    learning_rate: float
    grad_norm: float | None
    """Global norm before clipping; None where the optimizer gives none."""
    tokens_per_second_per_device: float
    model_tflops_per_device: float
    """Model TFLOP/s, by ml_train.training.flops."""
    mfu: float | None = None
    """Share of the device's dense peak; None where the peak is not known."""
    memory_bytes: int
    """Peak of this process: device memory, or resident memory on the CPU."""
    expert_load: list[list[float]] = field(default_factory=list)
    """Per layer the share of token slots that each expert got; each row adds up to 1."""
    router_entropy: list[float] = field(default_factory=list)
    """Per layer the mean entropy of a token's distribution over all experts, in nats."""
    step_seconds: float
    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Of step_seconds on rank 0: data, forward, backward, communication, optimizer."""
    consumed_samples: int
    skipped: bool = False
    """The update was skipped, for instance for a gradient that is not finite."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RouterMetrics:
    """The fields of StepMetrics that routers give; see there."""

    aux_loss: float | None
    z_loss: float | None
    expert_load: list[list[float]]
    router_entropy: list[float]


class RouterMeter:
    """Reads and resets what the routers of this rank's layers gathered during a step."""

    def __init__(self, model_chunks: list[torch.nn.Module], *, num_layers: int, num_experts: int):
        self._num_layers, self._num_experts = num_layers, num_experts
        self._entropy = torch.zeros(num_layers, 2, dtype=torch.float64)
        self._routers: list[tuple[int, Any]] = []
        for chunk in model_chunks:
            for module in chunk.modules():
                if hasattr(module, "token_counts"):
                    router: Any = module
                    layer = int(router.layer_number) - 1
                    self._routers.append((layer, router))
                    router.observers.append(self._observe(layer, router))

    def _observe(self, layer: int, router: Any) -> Any:
        def observe(logits: torch.Tensor) -> None:
            if router.training:
                logs = torch.log_softmax(logits.float(), dim=-1)
                self._entropy[layer, 0] -= (logs.exp() * logs).sum().to("cpu", torch.float64)
                self._entropy[layer, 1] += logits.shape[0]

        return observe

    def collect(self, *, num_microbatches: int, device: torch.device) -> RouterMetrics:
        """Shares, entropies and losses of the step over all ranks. Collective."""
        from megatron.core import parallel_state

        experts = self._num_experts
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
        for column, name in enumerate(("load_balancing_loss", "z_loss"), start=experts + 2):
            entry = tracker.get(name)
            if entry is not None:
                # A loss with a reduce_group is a part that the ranks of that group add up to.
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


def _tracker() -> Any:
    """megatron-core's sums of auxiliary losses per layer."""
    return differences.router_losses()
