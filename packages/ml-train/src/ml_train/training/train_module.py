"""TrainModule: model, optimizer and schedule of this rank, and a step of them.

No other module calls megatron-core's schedules. The loss of a step is the mean over the targets of
its global batch, which are the tokens that the loss mask leaves in. The gradients are those of that
mean. Neither depends on how the layout and the micro batch size divide the global batch.

megatron-core's calculate_per_token_loss gives the same gradient: it divides sums by a count that is
known after the last micro batch. But it divides the auxiliary losses too, which then depend on the
share of masked tokens and on TP, and the host waits for the count. Here the targets are counted
before the first forward pass, and each micro batch is weighted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer import TransformerConfig

from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout
from ml_train.training.build import model_chunks, transformer_config
from ml_train.training.optimizer import make_optimizer
from ml_train.training.schedule import make_schedule
from ml_train.training.verdict import ACCEPTED, Action, Verdict

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids and loss_mask: each [sequence of the micro batch, position]."""
Losses = dict[str, torch.Tensor]
"""What megatron-core's schedules return per micro batch: "loss", the sum over its targets."""
LossFunction = Callable[[torch.Tensor], tuple[torch.Tensor, Losses]]
"""The output of the last stage -> (what the backward pass starts from, what is reported)."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a training step gave. It is the same on every rank."""

    loss: float
    grad_norm: float | None
    learning_rate: float
    """Of this step's update."""
    skipped: bool
    """No update was made: by the verdict, or as the loss or a gradient is not finite."""
    verdict: Verdict = ACCEPTED


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss that can be added up over batches."""

    total: float
    """Sum over the targets, in nats."""
    num_targets: int

    @property
    def mean(self) -> float:
        """Per target; 0 without any."""
        return self.total / max(self.num_targets, 1)


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What is known of a step before its update. Numbers are the same on every rank."""

    loss: float
    finite: bool
    """No rank holds a gradient that is NaN or Inf."""
    norm: Callable[[], float | None]
    """Computes the global norm before clipping: another pass over the gradients. Collective."""
    micro_losses: Callable[[], list[float]] = list
    """Per target, of this rank's micro batches; empty on stages without a loss. A function, as the
    host waits for the device to have them."""


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """The tokens that the loss mask leaves in; empty tensors on stages without a loss."""

    of_micro_batches: torch.Tensor
    """fp32 [micro batches of this rank]."""
    weight: torch.Tensor
    """Turns the sum of a micro batch's losses into what the schedule is given."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ml_train.training.build makes on this rank."""

    transformer_config: TransformerConfig
    model_chunks: list[DistributedDataParallel]
    """The rank's virtual stages, first to last."""
    optimizer: MegatronOptimizer
    opt_param_scheduler: OptimizerParamScheduler


Timers = Callable[..., object]
"""megatron-core calls timers(name, log_level=...): ml_train.training.timing."""


class TrainModule:
    """Model chunks wrapped for data parallelism, optimizer, schedule."""

    def __init__(
        self,
        *,
        model_config: "ModelConfig",
        parts: Parts,
        layout: Layout,
        micro_batch_size: int,
        device: torch.device,
        timers: Timers | None = None,
    ):
        self.model_config = model_config
        self.transformer_config = parts.transformer_config
        self.model_chunks = parts.model_chunks
        self.optimizer = parts.optimizer
        self.opt_param_scheduler = parts.opt_param_scheduler
        self.layout = layout
        self.micro_batch_size = micro_batch_size
        self.device = device
        self._connect(timers)

    @staticmethod
    def build(
        config: RunConfig,
        model: "ModelConfig",
        layout: Layout,
        platform: "Platform",
        *,
        timers: Timers | None = None,
    ) -> "TrainModule":
        """Build all pieces. Needs the platform's context and the process groups."""
        transformer = transformer_config(config, model, layout, platform.device)
        chunks = model_chunks(config, model, layout, transformer)
        optimizer = make_optimizer(config, chunks, platform)
        schedule = make_schedule(optimizer, config.optimizer, config.training.train_iters)
        parts = Parts(
            transformer_config=transformer,
            model_chunks=chunks,
            optimizer=optimizer,
            opt_param_scheduler=schedule,
        )
        return TrainModule(
            model_config=model,
            parts=parts,
            layout=layout,
            micro_batch_size=config.training.micro_batch_size,
            device=platform.device,
            timers=timers,
        )

    @property
    def needs_data(self) -> bool:
        """Whether this rank holds the embedding or the loss: stages between need no tokens."""
        rank = parallel_state.get_pipeline_model_parallel_rank()
        return bool(rank in (0, self.layout.pp - 1))

    def train_step(
        self,
        batches: Sequence[Batch | None],
        *,
        before_update: Callable[[Gradients], Verdict] | None = None,
    ) -> StepResult:
        """Forward, backward, reduction and update over this rank's micro batches. Collective.

        before_update gives the verdict on the gradients. Gradients that are not finite are never
        used, whatever the verdict. The schedule counts updates that were made.
        """
        self.sync_parameters()
        for chunk in self.model_chunks:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        targets = self._count_targets(batches)
        reports = self._run(batches, targets, forward_only=False)
        loss_sum, gradients_finite = self._agree(reports, targets, self._gradients_finite())
        loss = loss_sum.mean
        # Before the schedule moves on. Groups differ in weight decay, not in the learning rate.
        learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
        gradients = Gradients(
            loss=loss,
            finite=gradients_finite,
            norm=self._grad_norm,
            micro_losses=lambda: [
                float(report["loss"] / number.clamp(min=1.0))
                for report, number in zip(reports, targets.of_micro_batches, strict=False)
            ],
        )
        verdict = ACCEPTED if before_update is None else before_update(gradients)
        is_finite = gradients_finite and math.isfinite(loss)
        if verdict.action is not Action.ACCEPT or not is_finite:
            return StepResult(
                loss=loss,
                grad_norm=None,
                learning_rate=learning_rate,
                skipped=True,
                verdict=verdict,
            )
        # The optimizer makes no update where it sees a gradient that overflowed.
        updated, grad_norm, _ = self.optimizer.step()
        self.opt_param_scheduler.step(increment=1)
        return StepResult(
            loss=loss,
            grad_norm=None if grad_norm is None else float(grad_norm),
            learning_rate=learning_rate,
            skipped=not updated,
        )

    def eval_step(self, batches: Sequence[Batch | None]) -> LossSum:
        """Loss of a global batch without gradients. Collective."""
        for chunk in self.model_chunks:
            chunk.eval()
        targets = self._count_targets(batches)
        with torch.no_grad():
            reports = self._run(batches, targets, forward_only=True)
        return self._agree(reports, targets, finite=True)[0]

    def sync_parameters(self) -> None:
        """Finish gathering parameters that overlap_param_gather leaves for the next forward.

        Also before each step: megatron-core gathers a module's parameters when its forward is
        called, and layers here read weights of modules that they do not call.
        """
        for chunk in self.model_chunks:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    def _connect(self, timers: Timers | None) -> None:
        """Put into the TransformerConfig what megatron-core's schedules look for there."""
        config = self.transformer_config
        config.timers = timers
        config.finalize_model_grads_func = finalize_model_grads
        if self.optimizer is not None:
            config.grad_scale_func = self.optimizer.scale_loss
            # A chain holds an optimizer for dense parameters and another for experts.
            for optimizer in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
                optimizer.config.timers = timers
        # Without this hook every micro batch would reduce its gradients, not the last one alone.
        if any(chunk.ddp_config.overlap_grad_reduce for chunk in self.model_chunks):
            hooks = [chunk.no_sync for chunk in self.model_chunks]
            config.no_sync_func = hooks if len(hooks) > 1 else hooks[0]

    def _run(
        self, batches: Sequence[Batch | None], targets: "_Targets", *, forward_only: bool
    ) -> list[Losses]:
        """Run megatron-core's schedule. Returns losses per micro batch, on the last stage."""
        weighted = [
            None if batch is None else {**batch, "loss_weight": targets.weight} for batch in batches
        ]
        # Every virtual stage reads all batches.
        iterators = [iter(weighted) for _ in self.model_chunks]
        reports: list[Losses] = get_forward_backward_func()(
            forward_step_func=self._forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.model_chunks if len(self.model_chunks) > 1 else self.model_chunks[0],
            num_microbatches=len(batches),
            seq_length=self.model_config.seq_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )
        return reports

    def _forward_step(
        self, batches: Iterator[Batch | None], chunk: torch.nn.Module
    ) -> tuple[torch.Tensor, LossFunction]:
        batch = next(batches)
        # A stage between the first and the last gets activations from its neighbour, no tokens.
        if batch is None:
            return chunk(None, None, None), _no_loss
        on_device = {key: value.to(self.device) for key, value in batch.items()}
        output = chunk(
            on_device["tokens"], on_device["position_ids"], None, labels=on_device["labels"]
        )

        def weighted(losses: torch.Tensor) -> tuple[torch.Tensor, Losses]:
            mask = on_device["loss_mask"].float()
            total = (losses.float() * mask).sum()
            return total * on_device["loss_weight"], {"loss": total.detach()}

        return output, weighted

    def _count_targets(self, batches: Sequence[Batch | None]) -> "_Targets":
        """Collective over the data ranks of the last stage; other stages have no loss."""
        # ignore_virtual: the question is about the rank, whichever of its virtual stages runs.
        if not parallel_state.is_pipeline_last_stage(ignore_virtual=True):
            nothing = torch.zeros(0, device=self.device)
            return _Targets(of_micro_batches=nothing, weight=nothing)
        masks = [batch["loss_mask"] for batch in batches if batch is not None]
        counts = torch.stack([mask.sum(dtype=torch.float32) for mask in masks]).to(self.device)
        total = counts.sum()
        torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
        # The schedule divides by the number of micro batches, and data parallelism by the number
        # of data ranks, so that a target's weight comes to 1 / total.
        weight = len(batches) * self.layout.dp / total.clamp(min=1.0)
        return _Targets(of_micro_batches=counts, weight=weight)

    def _grad_norm(self) -> float | None:
        """The global norm before the update; None where a gradient is not finite. Collective.

        It is the largest of all ranks' norms, so that all ranks judge the same number.
        """
        # The update prepares the gradients again, from the same buffers.
        if self.optimizer.prepare_grads():
            return None
        norm = torch.tensor(float(self.optimizer.get_grad_norm()), device=self.device)
        torch.distributed.all_reduce(norm, op=torch.distributed.ReduceOp.MAX)
        return float(norm)

    def _gradients_finite(self) -> bool:
        """Whether this rank's gradient buffers hold no NaN or Inf."""
        for chunk in self.model_chunks:
            for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
                # A sum is finite only if all its terms are, and needs no temporary tensor.
                if not bool(torch.isfinite(buffer.grad_data.sum())):
                    return False
        return True

    def _agree(
        self, reports: list[Losses], targets: "_Targets", finite: bool
    ) -> tuple[LossSum, bool]:
        """(loss over micro batches and data ranks, finite everywhere), on every rank. Collective.

        finite: this rank's gradients.
        """
        is_last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        values = torch.zeros(3, dtype=torch.float32, device=self.device)
        # Ranks of a tensor-parallel group hold the same losses: the first of them counts.
        if is_last and parallel_state.get_tensor_model_parallel_rank() == 0:
            values[0] = torch.stack([report["loss"] for report in reports]).sum()
            values[1] = targets.of_micro_batches.sum()
        values[2] = 0.0 if finite else 1.0
        torch.distributed.all_reduce(values)
        total, num_targets, faults = values.tolist()
        return LossSum(total=total, num_targets=round(num_targets)), faults == 0


def _no_loss(_output: torch.Tensor) -> tuple[torch.Tensor, Losses]:
    raise AssertionError("a stage between the first and the last has no loss")
