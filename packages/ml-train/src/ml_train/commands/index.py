"""ml-train index: build the sample indexes of a run ahead of time, on a CPU, without the job."""

import argparse

from ml_models.platforms import make_core_importable
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.errors import DONE, ConfigError

DESCRIPTION = (
    "Build the sample indexes that a run will want, so that its start need not wait. With the "
    "run's --save and --load, those that it will want when it goes on from its last checkpoint."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Build what the cache lacks and say where it is."""
    loaded = load_config(given_flags(args))
    config = loaded.config
    if config.data.mock_data:
        raise ConfigError("--mock-data reads no files, so there are no sample indexes to build.")
    if config.training.global_batch_size is None:
        raise ConfigError(
            "--global-batch-size is unset: without it the number of samples depends on the number "
            "of processes of the later run. Give it here and there."
        )
    make_core_importable()

    # This import brings megatron-core, which make_core_importable() has to prepare.
    from ml_train.index_run import build_indexes

    build_indexes(loaded, config.training.global_batch_size)
    return DONE
