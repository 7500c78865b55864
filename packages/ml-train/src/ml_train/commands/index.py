"""ml-train index: build the sample indexes of a run ahead of time, on a CPU, without the job."""

import argparse
import json
from typing import TYPE_CHECKING

from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import LoadedConfig, load_config
from ml_train.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ml_train.checkpoint.run_state import RunState

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
    from ml_models.platforms import make_core_importable

    make_core_importable()
    from ml_train.data.index_build import ensure_indexes
    from ml_train.data.index_cache import cache_directory, pieces_of, read_stamps
    from ml_train.data.request import DataRequest
    from ml_train.data.settle import settle_orders

    request = DataRequest.of(
        config, loaded.model, config.training.global_batch_size, _stands_at(loaded)
    )
    settled = settle_orders(request)
    for text in settled.warnings:
        terminal.warning(text)
    for text in settled.notes:
        terminal.notice(text)
    cache = cache_directory(config.data, settled.first_prefix)
    pieces = [
        piece
        for order, total in zip(settled.orders, request.demand.total, strict=True)
        for piece in pieces_of(order, total)
    ]
    there = read_stamps(pieces, cache) is not None
    ensure_indexes(pieces, cache, shared=True)
    files = read_stamps(pieces, cache) or {}
    terminal.result(f"{len(files)} files {'were' if there else 'are now'} in {cache}")
    for name, digest in files.items():
        terminal.result(f"{digest[:16]}  {name}")
    return 0


def _stands_at(loaded: LoadedConfig) -> "RunState | None":
    """What the checkpoint says that the run will go on from; None for a fresh start."""
    from ml_train.checkpoint.run_state import RunState
    from ml_train.checkpoint.start import decide

    config = loaded.config.checkpoint
    start = decide(config, {key: value for key, value, _ in loaded.table()})
    counts_anew = start.weights_only or (config.no_load_optim and not start.own)
    if not start.candidates or counts_anew:
        return None
    path = start.candidates[0] / "run_state.json"
    try:
        return RunState.of(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
