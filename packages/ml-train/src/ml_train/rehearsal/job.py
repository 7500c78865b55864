"""What is rehearsed: a configuration, the device that it is for, and the number of processes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ml_train.checkpoint.ownership.saved_state import saved_state
from ml_train.checkpoint.run_state import RunState
from ml_train.config.load import LoadedConfig
from ml_train.errors import CheckpointError, LayoutError
from ml_train.parallel.layout import Layout
from ml_train.planning.legality import layout_of

if TYPE_CHECKING:
    from ml_models.platforms.devices import Device


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the job will run."""

    device: "Device"
    num_nodes: int
    processes_per_node: int
    package_lists: tuple[Path, ...] = ()
    """What `pip freeze` printed there, a file for each kind of node."""

    @property
    def num_processes(self) -> int:
        """Of the whole job."""
        return self.num_nodes * self.processes_per_node


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run as its start on the cluster sees it."""

    loaded: LoadedConfig
    cluster: Cluster
    progress: Callable[[str], None] = field(compare=False)

    @functools.cached_property
    def layout(self) -> Layout | None:
        """None where it is not legal: the check of layouts tells why."""
        try:
            return layout_of(self.loaded.config, self.loaded.model, self.cluster.num_processes)
        except LayoutError:
            return None

    @functools.cached_property
    def state(self) -> RunState | None:
        """Where the run goes on; None on a fresh start, and where the check of resumes tells why
        it cannot go on."""
        try:
            return saved_state(self.loaded)
        except (CheckpointError, OSError):
            return None

    @property
    def global_batch_size(self) -> int:
        """Sequences of a step; an illegal layout leaves what the flags say."""
        training = self.loaded.config.training
        if self.layout is not None:
            return self.layout.global_batch_size
        return training.global_batch_size or training.micro_batch_size
