"""A run in a straight line: configuration, layout, platform, groups, model, data, trainer."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_train import terminal
from ml_train.config.facts import facts_of_run
from ml_train.config.load import LoadedConfig
from ml_train.config.run import RunConfig
from ml_train.data.facts import facts_of_files
from ml_train.errors import ConfigError
from ml_train.parallel.layout import World, make_layout

if TYPE_CHECKING:
    from ml_train.training.trainer import Trainer


def pretrain(loaded: LoadedConfig) -> "Trainer | None":
    """Train what the configuration says; returns the trainer after its last step.

    None: the run has done all its steps already, which has been said.
    """
    config, model = loaded.config, loaded.model
    world = World.from_environment(os.environ)
    layout = make_layout(
        config.parallel,
        model,
        world_size=world.size,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=config.training.global_batch_size,
    )

    platform = start_platform(config.training.device, world)
    _refuse_for_the_core_line(config)

    from ml_train.checkpoint.manager import CheckpointManager
    from ml_train.data.open import open_data
    from ml_train.health.bad_steps.callback import BadStepCallback
    from ml_train.health.hangs.callback import WatchCallback
    from ml_train.health.hangs.watch import watching
    from ml_train.parallel.groups import process_groups
    from ml_train.training.callbacks.base import Callback
    from ml_train.training.callbacks.checkpoint import CheckpointCallback
    from ml_train.training.callbacks.defaults import default_callbacks
    from ml_train.training.callbacks.signals import SignalCallback
    from ml_train.training.timing import StepTimers
    from ml_train.training.train_module import TrainModule
    from ml_train.training.trainer import Trainer

    with contextlib.ExitStack() as stack:
        stack.enter_context(platform.context())
        start = stack.enter_context(
            process_groups(
                layout,
                world,
                platform,
                config.parallel,
                seed=config.training.seed,
                facts=_facts(loaded, world, platform),
            )
        )
        folder = Path(config.checkpoint.save) if config.checkpoint.save else None
        watch = stack.enter_context(
            watching(
                world,
                start,
                timeout=config.parallel.timeout,
                folder=folder / "hang_reports" if folder else None,
            )
        )
        timers = StepTimers()
        checkpoints = CheckpointManager(
            config.checkpoint, platform=platform, timeout=config.parallel.timeout
        )
        stack.enter_context(checkpoints.owning_save())
        checkpoint = checkpoints.start(model, {key: value for key, value, _ in loaded.table()})
        if checkpoint and is_finished(
            checkpoint, checkpoints.iteration_of_start(checkpoint), config
        ):
            return None
        train_module = TrainModule.build(config, model, layout, platform, timers=timers)
        state = checkpoints.load(train_module, checkpoint) if checkpoint else None
        iteration = state.iteration if state else 0
        consumed = state.consumed_samples if state else 0
        callbacks: list[Callback] = [WatchCallback(watch)] if watch else []
        callbacks += default_callbacks(config, warnings=loaded.warnings)
        bad_steps = BadStepCallback(
            config.health,
            folder=folder / "bad_batches" if folder else None,
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
        trainer = Trainer(
            config=config,
            train_module=train_module,
            loaders=open_data(config, model, layout, state),
            platform=platform,
            timers=timers,
            callbacks=callbacks,
            iteration=iteration,
            consumed_samples=consumed,
        )
        trainer.fit()
    return trainer


def is_finished(checkpoint: Path, iteration: int, config: RunConfig) -> bool:
    """Whether a run that goes on after step `iteration` has no step left; then rank 0 says so."""
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


def _facts(loaded: LoadedConfig, world: World, platform: Any) -> dict[str, str]:
    """What this rank compares with rank 0; the files of a node are looked at by its first rank."""
    if world.size == 1:
        return {}
    facts = facts_of_run(loaded, platform.name)
    return {**facts, **facts_of_files(loaded.config)} if world.local_rank == 0 else facts


def _refuse_for_the_core_line(config: RunConfig) -> None:
    """megatron-core 0.12 trains with the distributed optimizer, but saves no state of it."""
    from ml_models.megatron_core import differences, lines

    kept = (config.checkpoint.save is not None and not config.checkpoint.no_save_optim) or (
        config.checkpoint.load is not None and not config.checkpoint.no_load_optim
    )
    distributed = config.optimizer.use_distributed_optimizer
    if distributed and kept and not differences.saves_distributed_optimizer():
        raise ConfigError(
            f"--use-distributed-optimizer on megatron-core {lines.installed_version()}: its "
            "state cannot be saved or loaded on that line. Use megatron-core 0.16.1 or newer, drop "
            "the flag, or add --no-save-optim (and --no-load-optim with --load)."
        )


def start_platform(name: str, world: World) -> Any:
    """The run's platform, with megatron-core adapted to it."""
    from ml_models.megatron_core.check import check_unknown_line
    from ml_models.platforms import get_platform

    platform = get_platform(name)
    platform.set_device(world.local_rank)
    platform.apply()
    check_unknown_line("ml_models", "ml_train")
    # Imported before the platform's context is entered: torch.compile records the names of
    # torch.cuda at import, and must see the real ones.
    import ml_models.layers.block
    import ml_models.layers.model  # noqa: F401

    return platform
