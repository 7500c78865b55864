"""What every router said of every token: the record by which verify-layouts compares choices.

One file per step and rank, step0000001_rank00000.npz: `logits` float32 [layers here, micro batches,
tokens, experts], `layers` their numbers from 0, and where this rank stands: `data` (rank, size) and
`tensor` (rank, size), `micro_batch_size`. Tokens are ordered by position, then by sequence. Costs
4 bytes per token, layer and expert; meant for a few steps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics


class RouterLogits(Callback):
    """Listens to the routers beside the meter of ml_train.training.metrics."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._found: dict[int, list[torch.Tensor]] = {}

    def on_train_start(self, trainer: TrainerView) -> None:
        """Listen to each router of this rank."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for chunk in trainer.train_module.model_chunks:
            for module in chunk.modules():
                if hasattr(module, "token_counts"):
                    router: Any = module
                    router.observers.append(self._listener(router))

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """Write what the step brought."""
        from megatron.core import parallel_state as state

        layers = sorted(self._found)
        rank = torch.distributed.get_rank()
        np.savez(
            self._directory / f"step{metrics.iteration:07}_rank{rank:05}.npz",
            logits=torch.stack([torch.stack(self._found[layer]) for layer in layers]).numpy(),
            layers=np.array(layers),
            data=np.array([state.get_data_parallel_rank(), state.get_data_parallel_world_size()]),
            tensor=np.array(
                [
                    state.get_tensor_model_parallel_rank(),
                    state.get_tensor_model_parallel_world_size(),
                ]
            ),
            micro_batch_size=np.array(trainer.config.training.micro_batch_size),
        )
        self._found = {}

    def _listener(self, router: Any) -> Any:
        layer = int(router.layer_number) - 1

        def observe(logits: torch.Tensor) -> None:
            # Where gradients are recorded, hence once under recomputation.
            if router.training and torch.is_grad_enabled():
                self._found.setdefault(layer, []).append(logits.float().cpu())

        return observe
