"""What one step reports, and how the mixture-of-experts part of it is gathered.

Expert load comes from a forward hook on every router: it counts the routing map's ones, so it
holds for any dispatcher and needs no change to the model. A layer that is recomputed is counted
twice, which leaves its shares as they are.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One optimizer step, the same on every rank."""

    iteration: int
    """1 for the first step of the run."""
    loss: float
    """Mean cross entropy per token over the global batch, in nats, without auxiliary losses."""
    aux_loss: float | None = None
    """Load-balancing loss, mean over layers and micro batches; None without experts."""
    z_loss: float | None = None
    """Router z-loss, likewise."""
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
    step_seconds: float
    consumed_samples: int
    skipped: bool = False
    """The update was skipped, for instance for a gradient that is not finite."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class ExpertLoadCounter:
    """Counts, per layer and expert, the token slots that routers hand out."""

    def __init__(self, model_chunks: list[torch.nn.Module], *, num_layers: int, num_experts: int):
        self._counts = torch.zeros(num_layers, max(num_experts, 1), dtype=torch.float64)
        self._handles = []
        for chunk in model_chunks:
            for module in chunk.modules():
                if hasattr(module, "routing") and hasattr(module, "topk"):
                    layer = int(module.layer_number) - 1  # type: ignore[arg-type]
                    self._handles.append(module.register_forward_hook(self._hook(layer)))

    def _hook(self, layer: int) -> Any:
        def count(module: Any, inputs: Any, output: Any) -> None:
            if module.training:
                self._counts[layer] += output[1].detach().sum(dim=0).to("cpu", torch.float64)

        return count

    def collect(self, groups: list[Any], device: torch.device) -> list[list[float]]:
        """Shares summed over the process groups (one after the other), then start anew.

        Collective. groups: tensor-and-data parallel, then pipeline.
        """
        counts = self._counts.to(device, torch.float32)
        for group in groups:
            if torch.distributed.get_world_size(group) > 1:
                torch.distributed.all_reduce(counts, group=group)
        self._counts.zero_()
        total = counts.sum(dim=1, keepdim=True).clamp(min=1.0)
        rows: list[list[float]] = (counts / total).cpu().tolist()
        return rows

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def collect_moe_losses(*, num_layers: int, num_microbatches: int) -> dict[str, float]:
    """Means over layers and micro batches from megatron-core's tracker, which is then cleared.

    Collective over pipeline, tensor and data ranks. Keys are the core's: load_balancing_loss,
    z_loss. Empty on a model without experts.
    """
    from megatron.core.transformer.moe import moe_utils

    if hasattr(moe_utils, "get_moe_layer_wise_logging_tracker"):
        tracker = moe_utils.get_moe_layer_wise_logging_tracker()
    else:
        from megatron.core import parallel_state

        tracker = parallel_state.get_moe_layer_wise_logging_tracker()
    # A rank without expert layers has no entries of its own, but must take part in each reduction.
    names: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(names, sorted(tracker))
    wanted = sorted({name for part in names for name in part})
    device = next((tracker[name]["values"].device for name in tracker), torch.device("cpu"))
    for name in wanted:
        if name not in tracker:
            tracker[name] = {
                "values": torch.zeros(num_layers, device=device),
                "reduce_group": None,
                "avg_group": None,
                "reduce_group_has_dp": False,
            }
    if not wanted:
        return {}
    moe_utils.reduce_aux_losses_tracker_across_ranks()
    losses = {
        name: float(tracker[name]["values"].sum()) / (num_layers * num_microbatches)
        for name in wanted
    }
    moe_utils.clear_aux_losses_tracker()
    return losses
