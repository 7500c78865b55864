"""Where a run stands, as run_state.json holds it. JSON is read without running code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

FORMAT_VERSION = 1


class AdamDocument(TypedDict):
    """The optimizer's part of run_state.json; its tensors are in the checkpoint's .distcp files."""

    adam_step: int


class ScheduleDocument(TypedDict):
    """The learning-rate schedule's part of run_state.json."""

    num_steps: int


class _Identified(TypedDict, total=False):
    identity: dict[str, object]
    """The run and the number of the save (ml_train.checkpoint.directory.identity)."""


class RunDocument(_Identified):
    """run_state.json."""

    format: int
    run: dict[str, Any]
    """RunState.to_dict()."""
    layout: dict[str, int]
    """ml_train.parallel.coordinates.layout_sizes()."""
    optimizer: AdamDocument | None
    """None: the checkpoint holds the model alone."""
    schedule: ScheduleDocument | None
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences taken from the training data so far: the data position."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the Trainer wants back; JSON values."""

    @classmethod
    def of(cls, value: "RunState | Mapping[str, Any]") -> "RunState":
        """Accepts the dictionary that Trainer.run_state() returns as well."""
        if isinstance(value, RunState):
            return value
        rest = dict(value)
        return cls(
            iteration=int(rest.pop("iteration")),
            consumed_samples=int(rest.pop("consumed_samples", 0)),
            extra=rest,
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat, as Trainer.run_state() gives it."""
        values = {"iteration": self.iteration, "consumed_samples": self.consumed_samples}
        return {**self.extra, **values}
