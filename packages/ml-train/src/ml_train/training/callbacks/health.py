"""What happens to a step whose loss or gradients are wrong: stop, skip, or roll back.

All ranks decide together, before the update: each judges by the same reduced numbers, and the
worst verdict of any of them counts. The batch is written out first, whatever the policy is. Counts
and history go into checkpoints; every policy has a bound, so that no run goes round for ever.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ml_train.checkpoint.run_state import RunState
from ml_train.config.sections.health import HealthSection
from ml_train.errors import CheckpointError, TrainingError
from ml_train.health import bad_batch
from ml_train.health.judge import KINDS, Fault, Judge
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.callbacks.checkpoint import CheckpointCallback
from ml_train.training.metrics import StepMetrics
from ml_train.training.train_module import Gradients


class HealthCallback(Callback):
    """Judges each step before its update. `checkpoints` finds and loads what is rolled back to."""

    def __init__(
        self,
        config: HealthSection,
        *,
        folder: Path | None,
        checkpoints: CheckpointCallback | None = None,
        state: Mapping[str, Any] | None = None,
    ):
        """folder: where bad batches are written, None to write none; state: what state() gave
        before a resume."""
        self._config = config
        self._folder = folder
        self._checkpoints = checkpoints
        self._judge = Judge(config)
        state = state or {}
        self._judge.restore(state)
        self._rollbacks = int(state.get("rollbacks", 0))
        self._skips_in_a_row = int(state.get("skips_in_a_row", 0))
        self._skipped_samples = [list(pair) for pair in state.get("skipped_samples", [])]

    def state(self) -> dict[str, Any]:
        """For run_state.json, as {"health": ...}."""
        return {
            "health": {
                **self._judge.state(),
                "rollbacks": self._rollbacks,
                "skips_in_a_row": self._skips_in_a_row,
                "skipped_samples": self._skipped_samples,
            }
        }

    def on_gradients(self, trainer: TrainerView, gradients: Gradients) -> None:
        """Refuse the update, ask for a rollback, or raise TrainingError; the same on all ranks."""
        wanted = self._judge.needs_grad_norm and gradients.finite
        norm = gradients.norm() if wanted else None
        kind = self._judge.fault(gradients.loss, gradients_finite=gradients.finite, grad_norm=norm)
        kind = _worst(kind, trainer.train_module.device)
        if kind is None:
            return
        fault = self._judge.describe(kind, gradients.loss, norm)
        gradients.refuse()
        self._act(trainer, gradients, fault)

    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """Only what was updated is history."""
        if not metrics.skipped:
            self._skips_in_a_row = 0
            self._judge.accept(metrics.loss, metrics.grad_norm)

    def _act(self, trainer: TrainerView, gradients: Gradients, fault: Fault) -> None:
        first = trainer.consumed_samples
        last = first + trainer.train_module.layout.global_batch_size - 1
        where = f"step {trainer.iteration + 1} (samples {first} to {last} of the run)"
        written = self._write(trainer, gradients, fault, [first, last])
        if fault.policy == "skip":
            self._skips_in_a_row += 1
            if self._skips_in_a_row > self._config.max_consecutive_skips:
                raise TrainingError(
                    f"{where}: {fault.text}, after {self._config.max_consecutive_skips} skipped "
                    f"updates in a row, which is --max-consecutive-skips. {written} "
                    "Resume from an earlier checkpoint with a lower --lr."
                )
            self._tell(trainer, "skipped", f"{where}: {fault.text}; no update is made. {written}")
            return
        if fault.policy == "rollback":
            self._roll_back(trainer, fault, where, written, last)
            return
        flag = f"--{fault.kind.replace('_', '-')}-policy"
        raise TrainingError(
            f"{where}: {fault.text}; the update was not made. {written} Look at that data, lower "
            f"--lr, or resume from an earlier checkpoint; {flag} skip or rollback goes on instead."
        )

    def _roll_back(
        self, trainer: TrainerView, fault: Fault, where: str, written: str, last: int
    ) -> None:
        if self._rollbacks >= self._config.max_rollbacks:
            raise TrainingError(
                f"{where}: {fault.text}, after {self._rollbacks} rollbacks, which is "
                f"--max-rollbacks. {written} Lower --lr or look at the data."
            )
        self._rollbacks += 1
        self._tell(
            trainer,
            "rollback",
            f"{where}: {fault.text}; back to the last checkpoint, then on with sample {last + 1} "
            f"({self._rollbacks} of {self._config.max_rollbacks} rollbacks). {written}",
        )

        def load() -> RunState:
            assert self._checkpoints is not None  # RunConfig.check() wants --save-interval
            try:
                state = self._checkpoints.roll_back(trainer)
            except CheckpointError as error:
                raise TrainingError(f"{where}: {fault.text}. No rollback: {error}") from error
            self._judge.restore(state.extra.get("health", {}))
            self._skips_in_a_row = 0
            self._skipped_samples.append([state.consumed_samples, last])
            return state

        trainer.request_rollback(load)

    def _write(
        self, trainer: TrainerView, gradients: Gradients, fault: Fault, samples: list[int]
    ) -> str:
        """Collective. A sentence that says where the batch is described."""
        if self._folder is None:
            return "Without --save its documents are not written out."
        try:
            part = bad_batch.own_part(
                trainer.train_module, trainer.train_data, samples[0], gradients.micro_losses()
            )
        except Exception as error:  # noqa: BLE001 (the others wait for this rank's part)
            part = bad_batch.failed_part(error)
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, part)
        answer = [""]
        if torch.distributed.get_rank() == 0:
            facts = {"iteration": trainer.iteration + 1, "samples": samples}
            facts |= {"kind": fault.kind, "text": fault.text, "policy": fault.policy}
            try:
                path = bad_batch.write(bad_batch.document_of(parts, facts), self._folder)
                answer[0] = f"Its documents and offsets are in {path}."
            except OSError as error:
                answer[0] = f"Its documents could not be written out: {error}."
        torch.distributed.broadcast_object_list(answer, src=0)
        return answer[0]

    @staticmethod
    def _tell(trainer: TrainerView, kind: str, text: str) -> None:
        for callback in trainer.callbacks:
            callback.on_event(trainer, trainer.iteration + 1, kind, text)


def _worst(kind: str | None, device: torch.device) -> str | None:
    """The first kind in KINDS that any rank found. Collective."""
    number = len(KINDS) if kind is None else KINDS.index(kind)
    vote = torch.tensor([number], device=device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MIN)
    agreed = int(vote)
    return None if agreed == len(KINDS) else KINDS[agreed]
