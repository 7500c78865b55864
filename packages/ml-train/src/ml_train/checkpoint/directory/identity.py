"""Which run a checkpoint belongs to, where that run began, and the number of the save.

run_state.json holds it as "identity". Checkpoints of version 1.0.0 hold none: their run has no
name. `save_number` counts the saves in a folder over all runs. The checkpoint with the largest
number is the last written, whatever its step is.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """A run, through all its interruptions."""

    run_id: str
    began: str
    """UTC, ISO 8601."""
    origin: str | None = None
    """--load or --pretrained-checkpoint of the run's first start, as an absolute path."""
    parent_run: str | None = None
    """The run of the checkpoint that it began with."""
    parent_iteration: int | None = None
    """The step of that checkpoint."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """section.name -> value of the start that wrote the checkpoint."""

    @staticmethod
    def new(
        *,
        origin: str | None = None,
        parent: "Record | None" = None,
        settings: Mapping[str, object] | None = None,
    ) -> "RunIdentity":
        """A run that begins now."""
        return RunIdentity(
            run_id=uuid.uuid4().hex,
            began=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            origin=origin,
            parent_run=parent.run_id if parent else None,
            parent_iteration=parent.iteration if parent else None,
            settings=settings or {},
        )

    def going_on(self, settings: Mapping[str, object]) -> "RunIdentity":
        """The same run at a later start."""
        return replace(self, settings=settings)

    def to_dict(self, save_number: int) -> dict[str, object]:
        """For run_state.json."""
        return {**asdict(self), "save_number": save_number}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint in a folder says of itself."""

    path: Path
    iteration: int
    save_number: int = 0
    """0: written by version 1.0.0."""
    identity: RunIdentity | None = None

    @property
    def run_id(self) -> str | None:
        """None: written by version 1.0.0, which did not say."""
        return self.identity.run_id if self.identity else None


def read_record(path: Path, iteration: int | None = None) -> Record:
    """The record of the checkpoint in `path`. iteration: the step in its name, where it has that.

    A checkpoint whose run_state.json cannot be read gets a record without identity. Loading it is
    refused, as it is damaged.
    """
    try:
        document = json.loads((path / "run_state.json").read_text(encoding="utf-8"))
        if iteration is None:
            iteration = int(document["run"]["iteration"])
        values = dict(document["identity"])
        number = int(values.pop("save_number"))
        known = {name: values[name] for name in RunIdentity.__dataclass_fields__ if name in values}
        return Record(
            path=path, iteration=iteration, save_number=number, identity=RunIdentity(**known)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Record(path=path, iteration=iteration or 0)


def plain(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as JSON gives them back, to be compared with a checkpoint's."""
    values: dict[str, object] = json.loads(json.dumps(settings, default=str))
    return values


def differing(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """The settings that are not the same in both, by their keys."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
