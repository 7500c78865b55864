"""ml-train pretrain: train a model; start it with torchrun."""

import argparse
import signal
from typing import TYPE_CHECKING

from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.errors import DONE
from ml_train.launch.launcher_watch import end_with_launcher
from ml_train.pretrain import pretrain

if TYPE_CHECKING:
    from ml_train.training.trainer import Trainer

DESCRIPTION = (
    "Train a model. Start one process per device with torchrun: "
    "torchrun --nproc-per-node 8 -m ml_train.cli pretrain FLAGS."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every setting of a run."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Train to the end, or until something asks the run to stop."""
    end_with_launcher()
    loaded = load_config(given_flags(args))

    trainer = pretrain(loaded)
    if trainer is None:
        return DONE
    if trainer.stop_reason is not None:
        terminal.notice(
            f"stopped after step {trainer.iteration}: {trainer.stop_reason}; "
            f"{_what_is_kept(trainer)}"
        )
    return _exit_code(trainer)


def _what_is_kept(trainer: "Trainer") -> str:
    if trainer.config.checkpoint.save is None:
        return "nothing is saved, as there is no --save"
    if trainer.saved is None:
        return "no step was made since the start, so there is nothing to save"
    return f"saved to {trainer.saved}; the same command goes on from there"


def _exit_code(trainer: "Trainer") -> int:
    """0 where a scheduler's signal ended in a save, which is what it asked for.

    After another signal 128 and its number, as in a shell: 130 for Ctrl-C, saved or not.
    """
    number = trainer.stop_signal
    if number is None:
        return DONE
    asked_for = number in (signal.SIGTERM, signal.SIGUSR1) and trainer.saved is not None
    return DONE if asked_for else 128 + number
