"""The callbacks of a run, from its configuration."""

from pathlib import Path

from ml_train.config.run import RunConfig
from ml_train.training.callbacks.base import Callback
from ml_train.training.callbacks.console import console_sink
from ml_train.training.callbacks.files import JsonLinesSink, TensorBoardSink, WandbSink
from ml_train.training.callbacks.profile import Profiler
from ml_train.training.callbacks.reporter import Reporter, Sink
from ml_train.training.callbacks.router_logits import RouterLogits


def default_callbacks(config: RunConfig, *, warnings: list[str] | None = None) -> list[Callback]:
    """What the logging section asks for; warnings are LoadedConfig.warnings."""
    logging = config.logging
    save = Path(config.checkpoint.save) if config.checkpoint.save else None
    sinks: list[Sink] = [console_sink(tells_of_saves=False)]
    if logging.metrics_file or save:
        sinks.append(JsonLinesSink(metrics_path(config)))
    if logging.tensorboard_dir or save:
        directory = logging.tensorboard_dir or f"{save}/tensorboard"
        sinks.append(TensorBoardSink(Path(directory)))
    if logging.wandb_project and save:
        sinks.append(
            WandbSink(project=logging.wandb_project, name=logging.wandb_exp_name, directory=save)
        )
    callbacks: list[Callback] = [
        Reporter(log_interval=logging.log_interval, sinks=sinks, warnings=warnings)
    ]
    if logging.profile:
        callbacks.append(
            Profiler(
                directory=(save or Path()) / "profile",
                start=logging.profile_step_start,
                end=logging.profile_step_end,
                ranks=logging.profile_ranks,
            )
        )
    if logging.router_logits_dir:
        callbacks.append(RouterLogits(Path(logging.router_logits_dir)))
    return callbacks


def metrics_path(config: RunConfig) -> Path:
    """Where the JSON lines go; only where the run has a --metrics-file or a --save."""
    return Path(config.logging.metrics_file or f"{config.checkpoint.save}/metrics.jsonl")
