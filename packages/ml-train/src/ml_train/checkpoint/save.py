"""A save in two phases behind training's back, and what comes before them.

    save() on every rank  make SAVE/iter_N.tmp, agree who writes what, copy tensors to the host
    SaveJob.write         this rank's tensors, without a collective: no rank waits for a slow disk
    SaveJob.close         once all have written: metadata, integrity.json, COMPLETE, rename

`close` talks to the other ranks over a gloo group of its own, so that it never gets between
collectives of training. An error on any rank (a full disk, say) costs this save only: all ranks
learn of it and rank 0 removes the .tmp folder.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist

from ml_models.files import durable
from ml_models.files.integrity import write_integrity
from ml_models.platforms.host_copies import HostCopier, WaitingCopier
from ml_train.checkpoint.directory import store
from ml_train.checkpoint.directory.identity import RunIdentity
from ml_train.checkpoint.random_states import RandomState
from ml_train.checkpoint.run_state import RunDocument
from ml_train.checkpoint.tensors import torch_dist


@dataclass(frozen=True, kw_only=True)
class SaveOutcome:
    """How a save ended. It is the same on every rank, but for the times, which are this rank's."""

    iteration: int
    path: Path | None
    """The whole checkpoint; None if the save failed."""
    error: str | None = None
    stall_seconds: float
    """How long training stood still on this rank."""
    total_seconds: float
    """From the call to the final name."""
    num_bytes: int = 0
    """Tensors of all ranks."""
    deleted: tuple[Path, ...] = ()
    """Older checkpoints that the policy let go."""


@dataclass(frozen=True, kw_only=True)
class _Closed:
    """What rank 0 tells the others at the end of a save."""

    path: Path | None
    error: str | None = None
    num_bytes: int
    deleted: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The JSON files of a checkpoint, which rank 0 writes."""

    model_config: dict[str, object]
    run_state: RunDocument
    random_states: list[RandomState]
    """By rank; empty except on rank 0."""

    def by_name(self) -> dict[str, object]:
        """File name -> content."""
        return {
            "model_config.json": self.model_config,
            "run_state.json": self.run_state,
            "random_states.json": self.random_states,
        }


@dataclass(kw_only=True)
class SaveJob:
    """The part of a save that needs nothing from training: write, then close."""

    iteration: int
    partial: Path
    """SAVE/iter_N.tmp."""
    plan: torch_dist.Plan[RandomState]
    documents: Documents
    identity: RunIdentity
    """The run whose checkpoint it is."""
    policy: dict[str, int | None]
    """--keep-last and --keep-every, by the names of store.apply_policy."""
    group: dist.ProcessGroup | None
    """gloo, all ranks; nobody else uses it while the job runs."""
    started: float = field(default_factory=time.perf_counter)
    stall_seconds: float = 0.0
    outcome: SaveOutcome | None = None
    _written: tuple[torch_dist.Written | None, str | None] | None = None
    """(this rank's file, what went wrong); None before write() has ended."""
    _crash: BaseException | None = None
    _copier: HostCopier = field(default_factory=WaitingCopier)
    _thread: threading.Thread | None = None

    def stage(self, copier: HostCopier, *, gathered_prefix: str | None) -> None:
        """Copy to the host what training is going to change.

        The copies may be whole only after finish_copies(), which must come before the next update.
        gathered_prefix: keys whose tensors have memory of their own already, as the distributed
        optimizer's have, which arrive gathered.
        """
        self._copier = copier
        self.plan.items = [
            (
                index,
                tensor
                if self._is_copy(index.fqn, tensor, gathered_prefix)
                else copier.copy(tensor),
            )
            for index, tensor in self.plan.items
        ]

    def host_bytes(self, copier: HostCopier, *, gathered_prefix: str | None) -> int:
        """Host memory that the copies of this rank will take."""
        return sum(
            copier.num_bytes(tensor)
            for index, tensor in self.plan.items
            if not self._is_copy(index.fqn, tensor, gathered_prefix)
        )

    @staticmethod
    def _is_copy(key: str, tensor: torch.Tensor, gathered_prefix: str | None) -> bool:
        return tensor.device.type == "cpu" and _starts_with(key, gathered_prefix)

    def finish_copies(self) -> None:
        """Wait until what was staged is whole; cheap afterwards."""
        self._copier.finish()

    def start(self) -> None:
        """Run the next phase in a thread: the first call writes, the second closes."""
        phase = self.write if self._written is None else self.close
        self._thread = threading.Thread(
            target=self._run_quietly, args=(phase,), daemon=True, name="checkpoint"
        )
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether no phase runs at the moment on this rank."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> SaveOutcome:
        """Wait for the phase that runs, and do here what is left of the save. Collective."""
        if self._thread is not None:
            self._thread.join()
        if self._crash is not None:
            raise self._crash
        if self.outcome is None:
            self.run()
        assert self.outcome is not None
        return replace(self.outcome, stall_seconds=self.stall_seconds)

    def run(self) -> None:
        """Do what is left of the save in this thread. Collective."""
        if self._written is None:
            self.write()
        self.close()

    def write(self) -> None:
        """Write this rank's tensors. An error is kept for close(), which tells all ranks."""
        written, error = None, None
        try:
            self.finish_copies()
            written = torch_dist.write_tensors(self.plan, self.partial, dist.get_rank())
        except OSError as reason:
            error = f"rank {dist.get_rank()}: {reason}"
        except Exception as reason:  # noqa: BLE001 (the other ranks wait for this one's answer)
            error = f"rank {dist.get_rank()}: {type(reason).__name__}: {reason}"
        self.plan.items = []
        self._written = (written, error)

    def close(self) -> None:
        """Make the folder a checkpoint; all ranks end with the same outcome. Collective."""
        rank = dist.get_rank()
        assert self._written is not None
        # gather_object() replaces the entries of the list.
        gathered = [self._written] * dist.get_world_size() if rank == 0 else None
        dist.gather_object(self._written, gathered, dst=0, group=self.group)
        result: list[_Closed | None] = [None]
        if gathered is not None:
            files = [file for file, _ in gathered if file]
            errors = [error for _, error in gathered if error]
            result[0] = self._close(files, errors)
        dist.broadcast_object_list(result, src=0, group=self.group)
        closed = result[0]
        assert closed is not None
        self.outcome = SaveOutcome(
            iteration=self.iteration,
            path=closed.path,
            error=closed.error,
            stall_seconds=0.0,
            total_seconds=time.perf_counter() - self.started,
            num_bytes=closed.num_bytes,
            deleted=closed.deleted,
        )

    def _close(self, files: list[torch_dist.Written], errors: list[str]) -> "_Closed":
        """Rank 0 makes the folder a checkpoint. The marker and the name come last."""
        num_bytes = sum(file.size for file in files)
        if not errors:
            try:
                assert self.plan.metadata is not None  # rank 0 has it
                torch_dist.write_metadata(self.plan.metadata, files, self.partial, self.iteration)
                number = store.next_save_number(self.partial.parent)
                self.documents.run_state["identity"] = self.identity.to_dict(number)
                for name, document in self.documents.by_name().items():
                    content = json.dumps(document, indent=1).encode()
                    durable.write_flushed(self.partial / name, content)
                write_integrity(self.partial, {file.name: file.sha256 for file in files})
                path = store.publish(self.partial)
            except OSError as reason:
                errors = [f"rank 0: {reason}"]
        if errors:
            store.discard(self.partial)
            return _Closed(path=None, error="; ".join(errors), num_bytes=num_bytes)
        return _Closed(path=path, num_bytes=num_bytes, deleted=self._after(path))

    def _after(self, path: Path) -> tuple[Path, ...]:
        """Point to the whole checkpoint and delete older ones; a failure leaves it whole."""
        with contextlib.suppress(OSError):
            store.point_to(path)
            return tuple(
                store.apply_policy(path.parent, run_id=self.identity.run_id, **self.policy)
            )
        return ()

    def _run_quietly(self, phase: Callable[[], None]) -> None:
        # A high niceness: training's threads come first, this thread gets what they leave.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            phase()
        except BaseException as error:  # noqa: BLE001 (raised again by wait())
            self._crash = error


def _starts_with(key: str, prefix: str | None) -> bool:
    return prefix is not None and key.startswith(prefix)
