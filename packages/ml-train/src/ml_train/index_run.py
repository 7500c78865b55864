"""The sample indexes of a run, built ahead of it on a CPU.

This module imports torch and parts of megatron-core that need no device. ml_train.commands.index
imports it after ml_models.platforms.make_core_importable.
"""

from ml_train import terminal
from ml_train.checkpoint.ownership.saved_state import saved_state
from ml_train.config.load import LoadedConfig
from ml_train.data.index_build import ensure_indexes
from ml_train.data.index_cache import cache_directory, pieces_of, read_stamps
from ml_train.data.request import DataRequest
from ml_train.data.settle import settle_orders


def build_indexes(loaded: LoadedConfig, global_batch_size: int) -> None:
    """Build what the cache lacks and say where it is. Raises CheckpointError and DataError."""
    config = loaded.config
    request = DataRequest.of(config, loaded.model, global_batch_size, saved_state(loaded))
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
    were_there = read_stamps(pieces, cache) is not None
    ensure_indexes(pieces, cache, shared=True)
    files = read_stamps(pieces, cache) or {}
    terminal.result(f"{len(files)} files {'were' if were_there else 'are now'} in {cache}")
    for name, digest in files.items():
        terminal.result(f"{digest[:16]}  {name}")
