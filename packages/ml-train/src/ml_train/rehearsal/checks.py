"""The checks of a rehearsal, in their order, and what each needs of the configuration.

A check's module is imported at its turn: it imports megatron-core, which has to come after the
platform.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from ml_train.rehearsal.finding import Finding
from ml_train.rehearsal.job import Job


@dataclass(frozen=True, kw_only=True)
class Check:
    """A subject that a rehearsal looks at."""

    title: str
    """What progress says."""
    module: str
    """A file of this folder whose check() gives the findings."""
    sections: frozenset[str]
    """Without a fault in these sections of the configuration its answer means something."""
    needs_layout: bool = False
    """Whether it needs a legal layout."""

    def run(self, job: Job) -> Iterator[Finding]:
        """The findings, as they are made."""
        module = importlib.import_module(f"ml_train.rehearsal.{self.module}")
        check = cast("Callable[[Job], Iterator[Finding]]", module.check)
        yield from check(job)


_MODEL = frozenset({"model", "training"})

CHECKS = (
    Check(
        title="settings", module="settings", sections=frozenset({"model", "training", "optimizer"})
    ),
    Check(title="layout", module="layouts", sections=_MODEL | {"parallel", "kernels"}),
    Check(title="versions", module="versions", sections=frozenset()),
    Check(
        title="data",
        module="tokens",
        sections=_MODEL | {"data", "tokenizer", "checkpoint"},
    ),
    Check(title="storage", module="storage", sections=_MODEL | {"checkpoint", "logging"}),
    Check(
        title="memory of every kind of rank",
        module="ranks",
        sections=_MODEL | {"parallel", "optimizer"},
        needs_layout=True,
    ),
    Check(
        title="the checkpoint to begin with",
        module="resume",
        sections=_MODEL | {"parallel", "optimizer", "checkpoint", "data"},
    ),
)
