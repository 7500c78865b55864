"""Trainer: the loop. What happens besides steps (reports, saving, signals) is in callbacks."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ml_train.checkpoint.run_state import RunState
from ml_train.config.run import RunConfig
from ml_train.data.loaders import DataLoaders
from ml_train.data.stream import SampleStream
from ml_train.errors import CheckpointError, TrainingError
from ml_train.training.callbacks.base import Callback
from ml_train.training.flops import model_tflops_per_device
from ml_train.training.metrics import StepMetrics
from ml_train.training.router_meter import RouterMeter
from ml_train.training.timing import StepTimers
from ml_train.training.train_module import Batch, Gradients, LossSum, StepResult, TrainModule
from ml_train.training.verdict import Action, Verdict, gravest

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform


class Trainer:
    """Steps a TrainModule through the data until the run's end or a request to stop."""

    def __init__(
        self,
        *,
        config: RunConfig,
        train_module: TrainModule,
        loaders: DataLoaders,
        platform: "Platform",
        timers: StepTimers,
        callbacks: Sequence[Callback] = (),
        state: RunState | None = None,
    ):
        """state: of the checkpoint that the run goes on from; None for a fresh start."""
        self.config = config
        self.train_module = train_module
        self.callbacks = list(callbacks)
        self.iteration = state.iteration if state else 0
        self.consumed_samples = state.consumed_samples if state else 0
        self.stop_reason: str | None = None
        self.stop_signal: int | None = None
        """The signal that ended the run, set by SignalCallback; the same on every rank."""
        self.saved: Path | None = None
        """The last checkpoint of this run that became whole."""
        self._is_late = False
        self._loaders = loaders
        self._platform = platform
        self._timers = timers
        self._started = time.perf_counter()
        model = train_module.model_config
        self._meter = RouterMeter(
            train_module.model_chunks, num_layers=model.num_layers, num_experts=model.num_experts
        )

    def fit(self) -> None:
        """Train to the last step. Every callback hears of an exception before it is raised.

        However the run ends, its last state is saved before a validation or a test.
        """
        training, first = self.config.training, self.iteration
        try:
            self._call("on_train_start")
            while self.iteration < training.train_iters and self.stop_reason is None:
                if not self._step():
                    continue
                self._stop_if_due()
                last = self.iteration == training.train_iters
                if self._validation_is_due() and not last and self.stop_reason is None:
                    self.validate()
            self._call("on_last_step")
            is_trained = self.iteration > first or self.iteration % training.eval_interval
            if training.eval_iters and is_trained and not self._in_a_hurry:
                self.validate()
            is_complete = self.iteration == training.train_iters
            if self._loaders.test is not None and is_complete and not self._in_a_hurry:
                self._evaluate(self._loaders.test, "test_loss")
            self._call("on_train_end")
        except BaseException as error:
            for callback in self.callbacks:
                callback.on_error(self, error)
            raise

    def _step(self) -> bool:
        """A step of training. Returns False where it was given up for an earlier state."""
        self._call("on_step_start")
        started = self._timers.now()
        with self._timers.phase("data"):
            batches = self._next(self._loaders.train)
        result = self.train_module.train_step(batches, before_update=self._judge)
        # Raised before the step is counted: the run stopped after the step before it.
        if result.verdict.action is Action.STOP:
            raise TrainingError(result.verdict.reason)
        self.iteration += 1
        self.consumed_samples += self.train_module.layout.global_batch_size
        if result.verdict.action is Action.ROLLBACK:
            self._go_back(result.verdict.reason)
            return False
        metrics = self._measure(result, self._timers.now() - started)
        self._call("on_step_end", metrics)
        return True

    def validate(self) -> dict[str, float]:
        """Loss over eval_iters global batches of the validation data. Collective.

        Empty where the validation was broken off, because the run must leave.
        """
        return self._evaluate(self._loaders.valid, "loss")

    def _validation_is_due(self) -> bool:
        training = self.config.training
        return training.eval_iters > 0 and self.iteration % training.eval_interval == 0

    def _evaluate(self, loader: SampleStream | None, name: str) -> dict[str, float]:
        self.train_module.sync_parameters()
        losses = []
        for _ in range(self.config.training.eval_iters):
            losses.append(self.train_module.eval_step(self._next(loader)))
            self._call("on_validation_step")
            self._stop_if_late()
            if self._in_a_hurry:
                return {}
        whole = LossSum(
            total=math.fsum(loss.total for loss in losses),
            num_targets=sum(loss.num_targets for loss in losses),
        )
        result = {name: whole.mean}
        # The time of a validation belongs to no step.
        self._timers.collect()
        self._call("on_validation_end", result)
        return result

    def run_state(self) -> dict[str, object]:
        """What a resume needs besides tensors. Makes the parameters whole, as a save reads them."""
        self.train_module.sync_parameters()
        state: dict[str, object] = {}
        for callback in self.callbacks:
            state.update(callback.state())
        return {
            **state,
            "data": self._loaders.state(self.iteration),
            "iteration": self.iteration,
            "consumed_samples": self.consumed_samples,
        }

    @property
    def train_data(self) -> SampleStream:
        """The training data, which knows where a sample is from."""
        assert self._loaders.train is not None  # A run that trains has training data.
        return self._loaders.train

    def request_stop(self, reason: str) -> None:
        """End the run after this step. The same on every rank."""
        self.stop_reason = self.stop_reason or reason

    def _next(self, loader: SampleStream | None) -> list[Batch | None]:
        """The micro batches of this rank's next global batch; None on stages that need no data."""
        number = self.train_module.layout.num_microbatches
        if not self.train_module.needs_data:
            return [None] * number
        assert loader is not None  # Nothing is asked of a split without samples.
        return [next(loader) for _ in range(number)]

    def _call(self, hook: str, *arguments: object) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _judge(self, gradients: Gradients) -> Verdict:
        return gravest([callback.on_gradients(self, gradients) for callback in self.callbacks])

    def _go_back(self, cause: str) -> None:
        """Load an earlier state of everything but the data, of which nothing is seen twice.

        Raises TrainingError, with the cause of the rollback, where no checkpoint can be loaded.
        """
        layout, training = self.train_module.layout, self.config.training
        # What the meter and the timers hold of this step belongs to no step that is reported.
        self._meter.collect(num_microbatches=layout.num_microbatches, device=self._platform.device)
        self._timers.collect()
        try:
            state = self._earlier_state()
        except CheckpointError as error:
            raise TrainingError(f"{cause}. No rollback: {error}") from error
        left, self.iteration = self.iteration, state.iteration
        left_samples = (training.train_iters - self.iteration) * layout.global_batch_size
        self._loaders.go_back(
            self.iteration,
            consumed=self.consumed_samples,
            total=self.consumed_samples + left_samples,
        )
        self._call("on_rollback", left, state)

    def _earlier_state(self) -> RunState:
        """From the first callback that holds checkpoints. Raises CheckpointError."""
        for callback in self.callbacks:
            state = callback.roll_back(self)
            if state is not None:
                return state
        raise CheckpointError("This run keeps no checkpoints.")

    def _measure(self, result: StepResult, seconds: float) -> StepMetrics:
        layout, model = self.train_module.layout, self.train_module.model_config
        training = self.config.training
        tokens = layout.global_batch_size * model.seq_length
        tflops = model_tflops_per_device(
            model,
            seq_length=model.seq_length,
            tokens=tokens,
            seconds=seconds,
            devices=layout.world,
        )
        dtype = torch.bfloat16 if training.bf16 else torch.float32
        peak = self.config.logging.peak_tflops_per_device or self._platform.peak_tflops(dtype)
        routers = self._meter.collect(
            num_microbatches=layout.num_microbatches, device=self._platform.device
        )
        return StepMetrics(
            iteration=self.iteration,
            loss=result.loss,
            aux_loss=routers.aux_loss,
            z_loss=routers.z_loss,
            learning_rate=result.learning_rate,
            grad_norm=result.grad_norm,
            tokens_per_second_per_device=tokens / seconds / layout.world,
            model_tflops_per_device=tflops,
            mfu=tflops / peak if peak else None,
            memory_bytes=self._platform.memory_bytes(),
            expert_load=routers.expert_load,
            router_entropy=routers.router_entropy,
            step_seconds=seconds,
            phase_seconds=self._timers.collect(),
            consumed_samples=self.consumed_samples,
            skipped=result.skipped,
        )

    @property
    def _in_a_hurry(self) -> bool:
        """The run must end soon: of what is left, only the last save is done."""
        return self.stop_signal is not None or self._is_late

    def _stop_if_due(self) -> None:
        training = self.config.training
        if training.exit_interval and self.iteration % training.exit_interval == 0:
            self.request_stop(f"--exit-interval {training.exit_interval}")
        self._stop_if_late()

    def _stop_if_late(self) -> None:
        minutes = self.config.training.exit_duration_in_mins
        if minutes is None:
            return
        # Clocks differ between ranks, and all must stop after the same step.
        late = (time.perf_counter() - self._started) / 60 >= minutes
        vote = torch.tensor([float(late)], device=self._platform.device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        if float(vote):
            self._is_late = True
            self.request_stop(f"--exit-duration-in-mins {minutes:g}")
