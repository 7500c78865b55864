"""Gives the verdict on each step: accept, or by the policy of its fault stop, skip or rollback.

All ranks decide together, before the update. Each rank judges the same reduced numbers, and the
gravest fault of any rank counts. The batch is written out first, whatever the policy is. Counts and
history go into checkpoints. Skips and rollbacks have a bound, so that no run repeats them for ever.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

import torch
from typing_extensions import override

from ml_train.checkpoint.run_state import RunState
from ml_train.config.sections.health import HealthSection
from ml_train.health.bad_steps import bad_batch
from ml_train.health.bad_steps.judge import KINDS, Fault, Judge
from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics
from ml_train.training.train_module import Gradients
from ml_train.training.verdict import ACCEPTED, Action, Verdict


class SavedState(TypedDict, total=False):
    """The part "health" of run_state.json."""

    losses: list[float]
    norms: list[float]
    rollbacks: int
    skips_in_a_row: int
    skipped_samples: list[list[int]]
    """[first, last] of each range of samples that a rollback left out."""


class BadStepCallback(Callback):
    """Judges each step before its update, and counts skips and rollbacks."""

    def __init__(
        self,
        config: HealthSection,
        *,
        folder: Path | None,
        state: Mapping[str, object] | None = None,
    ):
        """folder: where bad batches are written, None to write none.

        state: what state() returned under "health" before a resume, a SavedState.
        """
        self._config = config
        self._folder = folder
        self._judge = Judge(config)
        saved = cast("SavedState", state or {})
        self._restore_history(saved)
        self._rollbacks = int(saved.get("rollbacks", 0))
        self._skips_in_a_row = int(saved.get("skips_in_a_row", 0))
        self._skipped_samples = [list(pair) for pair in saved.get("skipped_samples", [])]

    @override
    def state(self) -> dict[str, object]:
        """For run_state.json, as {"health": ...}."""
        return {
            "health": {
                **self._judge.state(),
                "rollbacks": self._rollbacks,
                "skips_in_a_row": self._skips_in_a_row,
                "skipped_samples": self._skipped_samples,
            }
        }

    @override
    def on_gradients(self, trainer: TrainerView, gradients: Gradients) -> Verdict:
        """The verdict on this step, the same on all ranks. Collective."""
        # gradients.finite is the same on every rank, so that all or none compute the norm.
        wanted = self._judge.needs_grad_norm and gradients.finite
        norm = gradients.norm() if wanted else None
        kind = self._judge.fault(gradients.loss, gradients_finite=gradients.finite, grad_norm=norm)
        kind = _gravest_kind(kind, trainer.train_module.device)
        if kind is None:
            return ACCEPTED
        fault = self._judge.describe(kind, gradients.loss, norm)
        first = trainer.consumed_samples
        last = first + trainer.train_module.layout.global_batch_size - 1
        written = self._write(trainer, gradients, fault, [first, last])
        step = f"step {trainer.iteration + 1} (samples {first} to {last} of the run)"
        cause = f"{step}: {fault.text}"
        if fault.policy == "skip":
            return self._skip(trainer, cause, written)
        if fault.policy == "rollback":
            return self._roll_back(trainer, cause, written, next_sample=last + 1)
        flag = f"--{fault.kind.replace('_', '-')}-policy"
        return _stop(
            f"{cause}; the update was not made. {written} Look at that data, lower --lr, or resume "
            f"from an earlier checkpoint; {flag} skip or rollback goes on instead."
        )

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """Add the step to the history, unless it was skipped."""
        if not metrics.skipped:
            self._skips_in_a_row = 0
            self._judge.accept(metrics.loss, metrics.grad_norm)

    @override
    def on_rollback(self, trainer: TrainerView, left: int, state: RunState) -> None:
        """Take the history back to the checkpoint's.

        The count of rollbacks goes on, as it bounds those of the whole run.
        """
        self._restore_history(state.extra.get("health", {}))
        self._skips_in_a_row = 0
        self._skipped_samples.append([state.consumed_samples, trainer.consumed_samples - 1])

    def _restore_history(self, saved: SavedState) -> None:
        self._judge.restore({"losses": saved.get("losses", []), "norms": saved.get("norms", [])})

    def _skip(self, trainer: TrainerView, cause: str, written: str) -> Verdict:
        self._skips_in_a_row += 1
        if self._skips_in_a_row > self._config.max_consecutive_skips:
            return _stop(
                f"{cause}, after {self._config.max_consecutive_skips} skipped updates in a row, "
                f"which is --max-consecutive-skips. {written} Resume from an earlier checkpoint "
                "with a lower --lr."
            )
        _announce(trainer, "skipped", f"{cause}; no update is made. {written}")
        return Verdict(action=Action.SKIP, reason=cause)

    def _roll_back(
        self, trainer: TrainerView, cause: str, written: str, *, next_sample: int
    ) -> Verdict:
        bound = self._config.max_rollbacks
        if self._rollbacks >= bound:
            return _stop(
                f"{cause}, after {self._rollbacks} rollbacks, which is --max-rollbacks. {written} "
                "Lower --lr or look at the data."
            )
        self._rollbacks += 1
        _announce(
            trainer,
            "rollback",
            f"{cause}; back to the last checkpoint, then on with sample {next_sample} "
            f"({self._rollbacks} of {bound} rollbacks). {written}",
        )
        return Verdict(action=Action.ROLLBACK, reason=cause)

    def _write(
        self, trainer: TrainerView, gradients: Gradients, fault: Fault, samples: list[int]
    ) -> str:
        """Write the bad batch. Returns a sentence that names the file. Collective."""
        if self._folder is None:
            return "Without --save its documents are not written out."
        try:
            part = bad_batch.own_part(
                trainer.train_module, trainer.train_data, samples[0], gradients.micro_losses()
            )
        except Exception as error:  # noqa: BLE001 (the others wait for this rank's part)
            part = bad_batch.failed_part(error)
        parts: list[bad_batch.RankPart] = [{}] * torch.distributed.get_world_size()
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


def _stop(text: str) -> Verdict:
    return Verdict(action=Action.STOP, reason=text)


def _announce(trainer: TrainerView, kind: str, text: str) -> None:
    """Tell all callbacks, among them the reporter."""
    for callback in trainer.callbacks:
        callback.on_event(trainer, trainer.iteration + 1, kind, text)


def _gravest_kind(kind: str | None, device: torch.device) -> str | None:
    """The first kind in KINDS that any rank reports. Collective."""
    number = len(KINDS) if kind is None else KINDS.index(kind)
    vote = torch.tensor([number], device=device)
    torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MIN)
    agreed = int(vote)
    return None if agreed == len(KINDS) else KINDS[agreed]
