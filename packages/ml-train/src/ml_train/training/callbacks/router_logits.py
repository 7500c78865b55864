"""Every router's logits of every token: the record by which verify-layouts compares choices.

There is a file per step and rank, step0000001_rank00000.npz:

    logits             float32 [layers of this rank, micro batches, tokens, experts]
    layers             their numbers from 0
    data, tensor       (rank, size) of this rank in its data-parallel and tensor-parallel groups
    micro_batch_size

Tokens are ordered by position, then by sequence. A step takes 4 bytes per token, layer and expert,
so that this is for runs of a few steps.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from megatron.core import parallel_state
from typing_extensions import override

from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics
from ml_train.training.router_meter import Router, routers_of


class RouterLogits(Callback):
    """Observes the routers, beside the meter of ml_train.training.router_meter."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._logits: dict[int, list[torch.Tensor]] = {}
        """Layer -> logits of the micro batches."""

    @override
    def on_train_start(self, trainer: TrainerView) -> None:
        """Observe each router of this rank."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for layer, router in routers_of(trainer.train_module.model_chunks):
            router.observers.append(self._observer(layer, router))

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """Write the logits of the step."""
        layers = sorted(self._logits)
        rank = torch.distributed.get_rank()
        data = parallel_state.get_data_parallel_group()
        tensor = parallel_state.get_tensor_model_parallel_group()
        np.savez(
            self._directory / f"step{metrics.iteration:07}_rank{rank:05}.npz",
            logits=torch.stack([torch.stack(self._logits[layer]) for layer in layers]).numpy(),
            layers=np.array(layers),
            data=np.array([data.rank(), data.size()]),
            tensor=np.array([tensor.rank(), tensor.size()]),
            micro_batch_size=np.array(trainer.config.training.micro_batch_size),
        )
        self._logits = {}

    def _observer(self, layer: int, router: Router) -> Callable[[torch.Tensor], None]:
        def observe(logits: torch.Tensor) -> None:
            # Only where gradients are recorded: recomputation passes a token a second time.
            if router.training and torch.is_grad_enabled():
                self._logits.setdefault(layer, []).append(logits.float().cpu())

        return observe
