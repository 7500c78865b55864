"""A run up to the import of torch: configuration, layout and platform.

The import of torch takes seconds. What the configuration and the layout have wrong ends the
command here, before it. The rest of the run is in ml_train.pretrain_run.
"""

import os
from typing import TYPE_CHECKING

from ml_models.bring_up import import_model_code
from ml_models.kernels.table import choices
from ml_models.megatron_core import differences, lines
from ml_models.platforms import known_device_type
from ml_train.bring_up import start_platform
from ml_train.config.load import LoadedConfig
from ml_train.config.run import RunConfig
from ml_train.errors import ConfigError
from ml_train.parallel.layout import World, make_layout

if TYPE_CHECKING:
    from ml_train.training.trainer import Trainer


def pretrain(loaded: LoadedConfig) -> "Trainer | None":
    """Train what the configuration says. Returns the trainer after its last step.

    Returns None, after a message, where the run has done all its steps already.
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
    refuse_for_the_core_line(config)
    # A form that cannot serve ends the start before torch is imported, where the device is known.
    settings, device = config.kernels.settings(), known_device_type(config.training.device)
    if device is not None:
        choices(settings, loaded.situation(device))
    platform = start_platform(config.training.device, local_rank=world.local_rank)
    import_model_code(model)
    choices(settings, loaded.situation(platform.device.type))

    # This import brings megatron-core, which must come after the platform's apply().
    from ml_train.pretrain_run import run

    return run(loaded, layout, world, platform)


def refuse_for_the_core_line(config: RunConfig) -> None:
    """Refuse to save the distributed optimizer's state on a line that cannot save it."""
    keeps_optimizer = (
        config.checkpoint.save is not None and not config.checkpoint.no_save_optim
    ) or (config.checkpoint.load is not None and not config.checkpoint.no_load_optim)
    distributed = config.optimizer.use_distributed_optimizer
    if distributed and keeps_optimizer and not differences.saves_distributed_optimizer():
        raise ConfigError(
            f"--use-distributed-optimizer on megatron-core {lines.installed_version()}: its "
            "state cannot be saved or loaded on that line. Use megatron-core "
            f"{differences.first_release_of_optimizer_state()} or newer, drop the flag, or add "
            "--no-save-optim (and --no-load-optim with --load)."
        )
