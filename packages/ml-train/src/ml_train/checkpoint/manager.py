"""CheckpointManager: the object through which a run saves and resumes.

Every method is collective: all ranks call it at the same step. It has process groups of its own;
training's groups are used only where the distributed optimizer gathers its shards.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import megatron.core
import torch
import torch.distributed as dist

from ml_models.platforms.host_copies import HostCopier, WaitingCopier
from ml_train import terminal
from ml_train.checkpoint import host_memory, load, random_states, run_state
from ml_train.checkpoint.directory import store
from ml_train.checkpoint.directory.identity import RunIdentity
from ml_train.checkpoint.load import Loading
from ml_train.checkpoint.ownership import find
from ml_train.checkpoint.ownership.save_ownership import SaveOwnership
from ml_train.checkpoint.ownership.start import Start
from ml_train.checkpoint.run_state import RunState
from ml_train.checkpoint.save import Documents, SaveJob, SaveOutcome
from ml_train.checkpoint.tensors import adam, sharded_state, torch_dist
from ml_train.checkpoint.tensors.sharded_state import TrainedModel
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.parallel import DEFAULT_TIMEOUT
from ml_train.errors import CheckpointError
from ml_train.parallel.coordinates import layout_sizes
from ml_train.parallel.groups import host_group

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform

_ASK_EVERY_SECONDS = 0.2
"""Between two questions whether all ranks have written; a question is a collective of 8 bytes."""


def say_on_rank_0(text: str) -> None:
    """Where messages go by default."""
    if dist.get_rank() == 0:
        is_warning = text.startswith("WARNING: ")
        tell = terminal.warning if is_warning else terminal.notice
        tell(f"checkpoint: {text.removeprefix('WARNING: ')}")


class CheckpointManager:
    """Saves and loads; at most one save is being written at a time."""

    def __init__(
        self,
        config: CheckpointSection,
        *,
        platform: "Platform | None" = None,
        say: Callable[[str], None] = say_on_rank_0,
        timeout: timedelta = DEFAULT_TIMEOUT,
    ):
        """platform: for the random state of its device.

        timeout: of every collective, as for all groups of the run. Writing itself has none: a slow
        disk delays a save, but no rank waits for another's disk in a collective.
        """
        self.config = config
        self._say = say
        # Two groups: the thread that closes a save talks over the first while training asks over
        # the second, and the collectives of a group must come in the same order on all ranks.
        self._writing_group = host_group(timeout, "checkpoint writing")
        self._asking_group = host_group(timeout, "checkpoint asking")
        self._loading = Loading(platform=platform, group=self._asking_group, say=say)
        self._job: SaveJob | None = None
        self._closing = False
        self._checked_sharding = False
        self.copies_overlap = False
        """Whether the caller calls finish_copies() before every update, so that a save need not."""
        self._identity = RunIdentity.new()
        self._start: Start | None = None
        self._ownership: SaveOwnership | None = None

    def save(
        self,
        train_module: TrainedModel,
        state_of_run: RunState | Mapping[str, Any],
        *,
        in_background: bool | None = None,
    ) -> SaveOutcome | None:
        """Write SAVE/iter_N. Returns None while it is written in the background.

        A save that is still running is waited for first. A disk that fails costs this save only:
        the outcome says so and nothing is raised.
        """
        if self.config.save is None:
            raise CheckpointError("There is no --save DIRECTORY to write a checkpoint to.")
        started = time.perf_counter()
        self.wait()
        in_background = self.config.async_save if in_background is None else in_background
        now = RunState.of(state_of_run)
        partial, error = self._begin(Path(self.config.save), now.iteration)
        if partial is None:
            return self._tell(
                SaveOutcome(
                    iteration=now.iteration,
                    path=None,
                    error=error,
                    stall_seconds=time.perf_counter() - started,
                    total_seconds=time.perf_counter() - started,
                )
            )
        job = self._prepare(train_module, now, partial, started)
        if not in_background:
            return self._write_now(job, started)
        prefix = sharded_state.gathered_prefix(train_module.optimizer)
        copier = self._copier_that_fits(job, prefix)
        if copier is None:
            return self._write_now(job, started)
        job.stage(copier, gathered_prefix=prefix)
        if not self.copies_overlap:
            job.finish_copies()
        job.stall_seconds = time.perf_counter() - started
        self._job = job
        job.start()
        return None

    def finish_copies(self) -> None:
        """Wait until the copies of a save in the background are whole, before an update."""
        if self._job is not None:
            self._job.finish_copies()

    def _write_now(self, job: SaveJob, started: float) -> SaveOutcome:
        """Write while training waits. Collective."""
        self._job = job
        job.start()
        self._until_written()
        job.stall_seconds = time.perf_counter() - started
        return self._finish()

    def _copier_that_fits(self, job: SaveJob, prefix: str | None) -> HostCopier | None:
        """The best copier whose copies fit the node's memory on every rank; None where none does.

        Collective: all ranks must take the same way.
        """
        # A plug-in may be older than this method of the protocol.
        make = getattr(self._loading.platform, "host_copier", WaitingCopier)
        room = host_memory.room_of_process()
        for copier in (make(), WaitingCopier()):
            needed = job.host_bytes(copier, gathered_prefix=prefix)
            missing = torch.tensor([max(needed - room, 0)])
            dist.all_reduce(missing, op=dist.ReduceOp.MAX, group=self._asking_group)
            if not int(missing):
                return copier
        self._say(
            f"checkpoint: step {job.iteration} is written while training waits: a copy for the "
            f"background needs {int(missing) / 1e9:.1f} GB more host memory on a rank than a node "
            "has to spare"
        )
        return None

    def poll(self) -> SaveOutcome | None:
        """The outcome of a background save once all ranks have it; cheap without one running."""
        if self._job is None or not self._all_ended(self._job):
            return None
        # All ranks have written and have just agreed on that: now all start to close.
        if self._job.outcome is None and not self._closing:
            self._closing = True
            self._job.start()
            return None
        return self._finish()

    def wait(self) -> SaveOutcome | None:
        """Wait until nothing is being written any more."""
        if self._job is None:
            return None
        self._until_written()
        return self._finish()

    def _until_written(self) -> None:
        """Ask again and again: no rank may wait in a collective for as long as a disk takes."""
        assert self._job is not None
        while not self._all_ended(self._job):
            time.sleep(_ASK_EVERY_SECONDS)

    def _all_ended(self, job: SaveJob) -> bool:
        done = torch.tensor([int(job.ended)])
        dist.all_reduce(done, op=dist.ReduceOp.MIN, group=self._asking_group)
        return bool(done)

    @contextlib.contextmanager
    def owning_save(self) -> Iterator[None]:
        """Make --save and keep other jobs from writing to it inside the block. Collective.

        Raises CheckpointError, the same on every rank: another job writes there, or it cannot be
        made, or a node does not see it.
        """
        if self.config.save is None:
            yield
            return
        directory = Path(self.config.save)
        with SaveOwnership(directory, group=self._asking_group, say=self._say) as ownership:
            self._ownership = ownership
            yield

    def start(self, model: "ModelConfig", settings: Mapping[str, object]) -> Path | None:
        """The checkpoint that this start of the run loads; None where the run starts fresh.

        Decides which run it is, by the rule of ml_train.checkpoint.ownership.start. Needs no model
        built.

        settings: section.name -> value. Raises CheckpointError, the same on every rank, also for
        another model's checkpoint.
        """
        checked = find.choose_start(self.config, settings, group=self._asking_group, say=self._say)
        self._start, self._identity = checked.start, checked.start.identity
        return self._agreed(checked.folder, model)

    def iteration_of_start(self, folder: Path | None) -> int:
        """The step that a start from `folder` goes on after; 0 where it counts anew."""
        own = self._start is not None and self._start.own
        if folder is None or not (own or self._loads_optimizer()):
            return 0
        return store.record_of(folder).iteration

    def choose(self, model: "ModelConfig") -> Path | None:
        """The last written whole checkpoint of --load, of whichever run; None for a fresh start.

        Raises CheckpointError, the same on every rank, also for another model's checkpoint.
        """
        if self.config.load is None:
            return None
        return self._agreed(
            find.choose(self.config, group=self._asking_group, say=self._say), model
        )

    def load(self, train_module: TrainedModel, folder: Path | None = None) -> RunState | None:
        """Bring the model and the run back to `folder`, which start() or choose() gave.

        folder: unset, choose() is asked. None: there is nothing to resume from, the run starts
        fresh. Raises CheckpointError, the same on every rank.
        """
        folder = folder or self.choose(train_module.model_config)
        if folder is None:
            return None
        config, save = self.config, self.config.save
        if (
            self._start is None
            and save is not None
            and folder.parent.resolve() == Path(save).resolve()
        ):
            self._identity = store.record_of(folder).identity or self._identity
        if self._start is not None and self._start.weights_only:
            config = replace(config, no_load_optim=True, no_load_rng=True)
        own = self._start is not None and self._start.own
        return load.load(train_module, folder, config, self._loading, own=own)

    def roll_back(self, train_module: TrainedModel) -> RunState:
        """Load the last whole checkpoint of this run in --save, with all that it holds.

        Raises CheckpointError where there is none.
        """
        config = replace(self.config, load=self.config.save, no_load_optim=False, no_load_rng=False)
        paths: list[list[Path]] = [[]]
        if dist.get_rank() == 0 and self.config.save is not None:
            known = store.records(Path(self.config.save))
            paths[0] = [record.path for record in store.lineage(known, self._identity)]
        dist.broadcast_object_list(paths, src=0, group=self._asking_group)
        if not paths[0]:
            raise CheckpointError("No checkpoint was saved yet.")
        folder = find.first_whole(
            paths[0],
            f"--save {self.config.save}",
            config,
            group=self._asking_group,
            say=self._say,
        )
        return load.load(train_module, folder, config, self._loading, own=True)

    def _agreed(self, folder: Path | None, model: "ModelConfig") -> Path | None:
        if folder is not None:
            load.agree(load.fault_of_model(folder, model), self._asking_group, folder)
        return folder

    def _loads_optimizer(self) -> bool:
        weights_only = self._start is not None and self._start.weights_only
        return not (weights_only or self.config.no_load_optim)

    def _begin(self, directory: Path, iteration: int) -> tuple[Path | None, str | None]:
        """(folder under its temporary name, None), or (None, why there is none). Collective.

        Raises CheckpointError, the same on every rank, where another job has the directory.
        """
        answer: list[tuple[Path | None, str | None] | CheckpointError] = [(None, None)]
        if dist.get_rank() == 0:
            try:
                other = self._ownership.other_holder() if self._ownership else None
                if other is not None:
                    answer[0] = CheckpointError(
                        f"--save {directory} was taken over by another job ({other}), so step "
                        f"{iteration} is not saved and this run ends. Earlier checkpoints are "
                        "untouched."
                    )
                else:
                    answer[0] = (store.begin(directory, iteration), None)
            except OSError as error:
                answer[0] = (None, f"rank 0: {error}")
        dist.broadcast_object_list(answer, src=0, group=self._writing_group)
        if isinstance(answer[0], CheckpointError):
            raise answer[0]
        return answer[0]

    def _prepare(
        self, train_module: TrainedModel, now: RunState, partial: Path, started: float
    ) -> SaveJob:
        """Agree who writes what; nothing is copied or written yet. Collective."""
        sharded = sharded_state.model_state(train_module)
        with_optimizer = train_module.optimizer is not None and not self.config.no_save_optim
        if with_optimizer:
            sharded["optimizer"] = sharded_state.optimizer_state(
                train_module.optimizer, sharded_state.model_state(train_module), is_loading=False
            )
        # That every tensor is covered once depends on the layout alone: the first save checks it.
        tensors = torch_dist.tensors_by_key(sharded, check=not self._checked_sharding)
        self._checked_sharding = True
        plan = torch_dist.make_plan(
            sharded_state.without_redundant_params(tensors),
            note=random_states.random_state(self._loading.platform),
            group=self._writing_group,
        )
        return SaveJob(
            iteration=now.iteration,
            partial=partial,
            plan=plan,
            documents=_documents(train_module, now, plan.notes, with_optimizer),
            identity=self._identity,
            policy={"keep_last": self.config.keep_last, "keep_every": self.config.keep_every},
            group=self._writing_group,
            started=started,
        )

    def _finish(self) -> SaveOutcome:
        assert self._job is not None
        job, self._job, self._closing = self._job, None, False
        return self._tell(job.wait())

    def _tell(self, outcome: SaveOutcome) -> SaveOutcome:
        if outcome.path is None:
            self._say(
                f"WARNING: step {outcome.iteration} is NOT saved ({outcome.error}). "
                "Training goes on; earlier checkpoints are untouched."
            )
        else:
            megabytes = outcome.num_bytes / 1e6
            self._say(
                f"step {outcome.iteration} saved to {outcome.path}: {megabytes:.1f} MB in "
                f"{outcome.total_seconds:.2f} s, training stood still for "
                f"{outcome.stall_seconds:.2f} s"
                + "".join(f"; deleted {path.name}" for path in outcome.deleted)
            )
        return outcome


def _documents(
    train_module: TrainedModel,
    now: RunState,
    states: list[random_states.RandomState],
    with_optimizer: bool,
) -> Documents:
    scheduler = train_module.opt_param_scheduler
    adam_step = adam.adam_step(train_module.optimizer) if with_optimizer else None
    return Documents(
        model_config=train_module.model_config.to_dict(),
        run_state={
            "format": run_state.FORMAT_VERSION,
            "run": now.to_dict(),
            "layout": layout_sizes(),
            "optimizer": None if adam_step is None else {"adam_step": adam_step},
            "schedule": None if scheduler is None else {"num_steps": int(scheduler.num_steps)},
            "versions": {"megatron_core": megatron.core.__version__, "torch": torch.__version__},
        },
        random_states=states,
    )
