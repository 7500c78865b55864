"""The data of a run as its Trainer takes it, from the configuration and the checkpoint's state."""

from typing import TYPE_CHECKING

from megatron.core import parallel_state

from ml_train import terminal
from ml_train.config.run import RunConfig
from ml_train.data.loaders import DataLoaders, build_dataloaders, ignore
from ml_train.data.request import DataRequest
from ml_train.data.stream import RankShare
from ml_train.parallel.layout import Layout

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.checkpoint.run_state import RunState


def open_data(
    config: RunConfig, model: "ModelConfig", layout: Layout, state: "RunState | None"
) -> DataLoaders:
    """Streams of the run's data. Collective. Raises DataError.

    state: of the checkpoint that the run goes on from; None on a fresh start. Rank 0 tells changes
    of the order and the epochs of each file.
    """
    share = RankShare(
        micro_batch_size=config.training.micro_batch_size,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=layout.dp,
    )
    speaks = terminal.own_rank() == 0
    return build_dataloaders(
        DataRequest.of(config, model, layout.global_batch_size, state),
        share,
        say=terminal.notice if speaks else ignore,
        warn=terminal.warning if speaks else ignore,
    )
