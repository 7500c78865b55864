"""TrainModule: model, optimizer and schedule of this rank, and one step of them.

The only place that calls megatron-core's schedules. The loss of a step is the mean over its micro
batches of each one's mean over unmasked tokens, so it is the same number for every layout that
cuts a global batch into the same micro batches; gradients are those of that mean.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout
from ml_train.training.build import model_chunks, optimizer_and_schedule, transformer_config

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a training step gave; the same on every rank."""

    loss: float
    grad_norm: float | None
    learning_rate: float
    """Of this step's update."""
    finite: bool
    """Loss and gradients were finite; where not, nothing was updated."""
    skipped: bool


@dataclass(kw_only=True)
class Gradients:
    """What a step has come to before its update. Numbers are the same on every rank."""

    loss: float
    finite: bool
    """No rank holds a gradient that is NaN or Inf."""
    norm: Callable[[], float | None]
    """Global norm before clipping; costs one more pass over the gradients. Collective."""
    micro_losses: Callable[[], list[float]] = list
    """Of this rank's micro batches; empty on stages without a loss."""
    refused: bool = False

    def refuse(self) -> None:
        """No update with these gradients. To be called on every rank."""
        self.refused = True


class TrainModule:
    """Model chunks wrapped for data parallelism, optimizer, schedule."""

    def __init__(
        self,
        *,
        model_config: "ModelConfig",
        transformer_config: Any,
        model_chunks: list[Any],
        optimizer: Any,
        opt_param_scheduler: Any,
        layout: Layout,
        micro_batch_size: int,
        device: torch.device,
        timers: Any = None,
    ):
        self.model_config = model_config
        self.transformer_config = transformer_config
        self.model_chunks = model_chunks
        self.optimizer = optimizer
        self.opt_param_scheduler = opt_param_scheduler
        self.layout = layout
        self.micro_batch_size = micro_batch_size
        self.device = device
        self._connect(timers)

    @staticmethod
    def build(
        config: RunConfig,
        model: "ModelConfig",
        layout: Layout,
        platform: Any,
        *,
        timers: Any = None,
    ) -> "TrainModule":
        """Inside the platform's context and the process groups."""
        transformer = transformer_config(config, model, layout, platform.device)
        chunks = model_chunks(config, model, layout, transformer, platform.device)
        optimizer, schedule = optimizer_and_schedule(config, chunks, platform)
        return TrainModule(
            model_config=model,
            transformer_config=transformer,
            model_chunks=chunks,
            optimizer=optimizer,
            opt_param_scheduler=schedule,
            layout=layout,
            micro_batch_size=config.training.micro_batch_size,
            device=platform.device,
            timers=timers,
        )

    @property
    def needs_data(self) -> bool:
        """Whether this rank holds the embedding or the loss: stages between need no tokens."""
        from megatron.core import parallel_state

        rank = parallel_state.get_pipeline_model_parallel_rank()
        return bool(rank in (0, self.layout.pp - 1))

    def train_step(
        self,
        batches: Sequence[Batch | None],
        *,
        before_update: Callable[[Gradients], None] | None = None,
    ) -> StepResult:
        """Forward, backward, reduction and update over this rank's micro batches. Collective.

        before_update sees the gradients and may refuse them; those that are not finite are never
        used. The schedule counts updates that were made.
        """
        self.sync_parameters()
        for chunk in self.model_chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = self._run(batches, forward_only=False)
        loss, gradients_finite = self._agree(reports, self._gradients_finite())
        learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
        gradients = Gradients(
            loss=loss,
            finite=gradients_finite,
            norm=self._grad_norm,
            micro_losses=lambda: [float(report["loss"]) for report in reports],
        )
        if before_update is not None:
            before_update(gradients)
        finite = gradients_finite and math.isfinite(loss)
        if gradients.refused or not finite:
            return StepResult(
                loss=loss, grad_norm=None, learning_rate=learning_rate, finite=finite, skipped=True
            )
        updated, grad_norm, _ = self.optimizer.step()
        self.opt_param_scheduler.step(increment=1)
        return StepResult(
            loss=loss,
            grad_norm=None if grad_norm is None else float(grad_norm),
            learning_rate=learning_rate,
            finite=True,
            skipped=not updated,
        )

    def eval_step(self, batches: Sequence[Batch | None]) -> float:
        """Loss of a global batch without gradients. Collective."""
        for chunk in self.model_chunks:
            chunk.eval()
        with torch.no_grad():
            reports = self._run(batches, forward_only=True)
        return self._agree(reports, finite=True)[0]

    def sync_parameters(self) -> None:
        """Finish gathering parameters that overlap_param_gather leaves for the next forward.

        Also before each step: megatron-core gathers a module's parameters when its forward is
        called, and layers here read weights of modules that they do not call.
        """
        for chunk in self.model_chunks:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    def _connect(self, timers: Any) -> None:
        from megatron.core.distributed import finalize_model_grads

        config = self.transformer_config
        config.timers = timers
        config.finalize_model_grads_func = finalize_model_grads
        if self.optimizer is not None:
            config.grad_scale_func = self.optimizer.scale_loss
            for each in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
                each.config.timers = timers
        if any(chunk.ddp_config.overlap_grad_reduce for chunk in self.model_chunks):
            hooks = [chunk.no_sync for chunk in self.model_chunks]
            config.no_sync_func = hooks if len(hooks) > 1 else hooks[0]

    def _run(self, batches: Sequence[Batch | None], *, forward_only: bool) -> list[Any]:
        from megatron.core.pipeline_parallel import get_forward_backward_func

        iterators = [iter(batches) for _ in self.model_chunks]
        reports: list[Any] = get_forward_backward_func()(
            forward_step_func=self._forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.model_chunks if len(self.model_chunks) > 1 else self.model_chunks[0],
            num_microbatches=len(batches),
            seq_length=self.model_config.seq_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )
        return reports

    def _forward_step(self, batches: Iterator[Batch | None], chunk: Any) -> tuple[Any, Any]:
        batch = next(batches)
        if batch is None:
            return chunk(None, None, None), _no_loss
        on_device = {key: value.to(self.device) for key, value in batch.items()}
        output = chunk(
            on_device["tokens"], on_device["position_ids"], None, labels=on_device["labels"]
        )

        def mean_over_tokens(losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            mask = on_device["loss_mask"].float()
            loss = (losses.float() * mask).sum() / mask.sum().clamp(min=1.0)
            # A clone, as the schedule divides the loss in place by the number of micro batches.
            return loss, {"loss": loss.detach().clone()}

        return output, mean_over_tokens

    def _grad_norm(self) -> float | None:
        """Before the update, which prepares the gradients once more; the largest of all ranks."""
        if self.optimizer.prepare_grads():
            return None
        norm = torch.tensor(float(self.optimizer.get_grad_norm()), device=self.device)
        torch.distributed.all_reduce(norm, op=torch.distributed.ReduceOp.MAX)
        return float(norm)

    def _gradients_finite(self) -> bool:
        """Whether this rank's gradient buffers hold no NaN or Inf."""
        for chunk in self.model_chunks:
            for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
                if not bool(torch.isfinite(buffer.grad_data.sum())):
                    return False
        return True

    def _agree(self, reports: list[Any], finite: bool) -> tuple[float, bool]:
        """(mean loss over micro batches and data ranks, finite everywhere), on every rank.

        finite: this rank's gradients.
        """
        from megatron.core import parallel_state

        is_last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        counts = is_last and parallel_state.get_tensor_model_parallel_rank() == 0
        values = torch.zeros(3, dtype=torch.float32, device=self.device)
        if counts:
            values[0] = torch.stack([report["loss"] for report in reports]).sum()
            values[1] = len(reports)
        values[2] = 0.0 if finite else 1.0
        torch.distributed.all_reduce(values)
        total, number, faults = values.tolist()
        loss = total / max(number, 1.0)
        return loss, faults == 0


def _no_loss(output: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    raise AssertionError("a stage between the first and the last has no loss")
