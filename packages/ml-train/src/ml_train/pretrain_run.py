"""A run in a straight line: groups, checkpoint, model, data, trainer.

This module imports torch and megatron-core. ml_train.pretrain imports it once the platform has
adapted megatron-core.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ml_models.platforms.determinism import make_deterministic
from ml_train import terminal
from ml_train.checkpoint.manager import CheckpointManager
from ml_train.checkpoint.run_state import RunState
from ml_train.config.facts import facts_of_run
from ml_train.config.load import LoadedConfig
from ml_train.config.run import RunConfig
from ml_train.data.facts import facts_of_files
from ml_train.data.open import open_data
from ml_train.health.bad_steps.callback import BadStepCallback
from ml_train.health.hangs.callback import WatchCallback
from ml_train.health.hangs.watch import Watch, watching
from ml_train.parallel.groups import process_groups
from ml_train.parallel.layout import Layout, World
from ml_train.training.callbacks.base import Callback
from ml_train.training.callbacks.checkpoint import CheckpointCallback
from ml_train.training.callbacks.defaults import default_callbacks
from ml_train.training.callbacks.signals import SignalCallback
from ml_train.training.timing import StepTimers
from ml_train.training.train_module import TrainModule
from ml_train.training.trainer import Trainer

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform


def run(loaded: LoadedConfig, layout: Layout, world: World, platform: "Platform") -> Trainer | None:
    """Train to the last step; None where none is left. Collective."""
    config, model = loaded.config, loaded.model
    timeout = config.parallel.timeout
    if config.training.deterministic_mode:
        # Libraries read their switches when they make their first handle or group.
        make_deterministic(platform.name, getattr(platform, "deterministic_switches", None))
    with contextlib.ExitStack() as stack:
        stack.enter_context(platform.context())
        groups = process_groups(
            layout,
            world,
            platform,
            config.parallel,
            seed=config.training.seed,
            facts=_facts(loaded, world, platform),
        )
        start = stack.enter_context(groups)
        reports = _folder(config, "hang_reports")
        watch = stack.enter_context(watching(world, start, timeout=timeout, folder=reports))
        checkpoints = CheckpointManager(config.checkpoint, platform=platform, timeout=timeout)
        stack.enter_context(checkpoints.owning_save())
        # Before the model is built, which takes long: a start that is refused ends at once.
        checkpoint = checkpoints.start(model, loaded.values())
        if checkpoint and is_finished(
            checkpoint, checkpoints.iteration_of_start(checkpoint), config
        ):
            return None
        timers = StepTimers()
        train_module = TrainModule.build(config, model, layout, platform, timers=timers)
        state = checkpoints.load(train_module, checkpoint) if checkpoint else None
        trainer = Trainer(
            config=config,
            train_module=train_module,
            loaders=open_data(config, model, layout, state),
            platform=platform,
            timers=timers,
            callbacks=_callbacks(loaded, watch, checkpoints, state),
            state=state,
        )
        trainer.fit()
    return trainer


def is_finished(checkpoint: Path, iteration: int, config: RunConfig) -> bool:
    """Whether a run that goes on after step `iteration` has no step left. Then rank 0 says so."""
    total = config.training.train_iters
    if iteration < max(total, 1):
        return False
    reached = "the last" if iteration == total else "already beyond the last"
    terminal.notice(
        f"finished: nothing is left to train. {checkpoint} holds step {iteration}, {reached} of "
        f"--train-iters {total}. To go on, raise --train-iters; ml-train evaluate gives its loss "
        "on other data."
    )
    return True


def _callbacks(
    loaded: LoadedConfig,
    watch: Watch | None,
    checkpoints: CheckpointManager,
    state: RunState | None,
) -> list[Callback]:
    """The callbacks of a run, in the order in which each hook calls them."""
    config = loaded.config
    # The watch comes first: it notes a step before another callback may wait in that step.
    callbacks: list[Callback] = [WatchCallback(watch)] if watch else []
    callbacks += default_callbacks(config, warnings=loaded.warnings)
    bad_steps = BadStepCallback(
        config.health,
        folder=_folder(config, "bad_batches"),
        state=state.extra.get("health") if state else None,
    )
    callbacks += [bad_steps, CheckpointCallback(checkpoints)]
    if config.training.exit_signal_handler:
        callbacks.append(
            SignalCallback(
                limit_seconds=config.checkpoint.signal_limit_seconds,
                timeout=config.parallel.timeout,
            )
        )
    return callbacks


def _folder(config: RunConfig, name: str) -> Path | None:
    """A folder beside the checkpoints; None where the run saves none."""
    return Path(config.checkpoint.save) / name if config.checkpoint.save else None


def _facts(loaded: LoadedConfig, world: World, platform: "Platform") -> dict[str, str]:
    """What this rank compares with rank 0. Facts of files come from the first rank of each node."""
    if world.size == 1:
        return {}
    facts = facts_of_run(loaded, platform.name)
    return {**facts, **facts_of_files(loaded.config)} if world.local_rank == 0 else facts
