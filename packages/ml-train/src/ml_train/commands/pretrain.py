"""ml-train pretrain: train a model; start it with torchrun."""

import argparse
import os

from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config

DESCRIPTION = (
    "Train a model. Start one process per device with torchrun: "
    "torchrun --nproc-per-node 8 -m ml_train.cli pretrain FLAGS."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every setting of a run."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Train to the end, or until something asks the run to stop."""
    loaded = load_config(given_flags(args))

    from ml_train.pretrain import pretrain

    trainer = pretrain(loaded)
    if trainer is None:
        return 0
    if trainer.stop_reason is not None and os.environ.get("RANK", "0") == "0":
        print(f"stopped after step {trainer.iteration}: {trainer.stop_reason}", flush=True)
    return 0
