"""Whose checkpoint it is: a name for the run, where it began, and which save of the folder it is.

Kept in run_state.json as "identity". Checkpoints of version 1.0.0 have none: their run has no
name. `save_number` counts the saves in a folder, whichever run made them: the largest is the last
one that was written, whatever its step is.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any


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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """section.name -> value of the start that wrote the checkpoint."""

    @staticmethod
    def new(
        *,
        origin: str | None = None,
        parent: "Record | None" = None,
        settings: Mapping[str, Any] | None = None,
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

    def going_on(self, settings: Mapping[str, Any]) -> "RunIdentity":
        """The same run at a later start."""
        return replace(self, settings=settings)

    def to_dict(self, save_number: int) -> dict[str, Any]:
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
    """Of the checkpoint in `path`; iteration: what its name says, where it says it.

    One whose run_state.json cannot be read has no identity: it is refused as damaged where it would
    be loaded.
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


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back, to be compared with a checkpoint's."""
    values: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return values


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The settings that are not the same in both, by their keys."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
