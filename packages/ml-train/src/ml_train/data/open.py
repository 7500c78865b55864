"""The data of a run as its Trainer takes it: from the configuration and where the run stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_train import terminal
from ml_train.config.run import RunConfig
from ml_train.data.loaders import DataLoaders, TokenFacts, build_dataloaders, ignore
from ml_train.data.manifest import tokenizer_facts
from ml_train.data.resume import Demand
from ml_train.data.samples import ValidationPosition, demand, validation_position

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.checkpoint.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class DataPosition:
    """Where a start stands in its data, and what it wants of it."""

    demand: Demand
    validation: ValidationPosition
    saved: Mapping[str, Any] | None
    """DataLoaders.state() of the checkpoint."""

    @staticmethod
    def of(config: RunConfig, batch_size: int, state: "RunState | None") -> "DataPosition":
        """state: what a checkpoint says; None on a fresh start."""
        iteration = state.iteration if state else 0
        saved = state.extra.get("data") if state else None
        validation = validation_position(config, batch_size, iteration, saved)
        wanted = demand(
            config,
            batch_size,
            iteration=iteration,
            consumed=state.consumed_samples if state else 0,
            validation=validation,
        )
        return DataPosition(demand=wanted, validation=validation, saved=saved)


def open_data(
    config: RunConfig,
    model: "ModelConfig",
    layout: Any,
    state: "RunState | None",
) -> DataLoaders:
    """Collective. state: what a checkpoint says; None on a fresh start. Raises DataError.

    Rank 0 says what became of the order, and the epochs of each file.
    """
    from megatron.core import parallel_state

    batch_size = layout.global_batch_size
    position = DataPosition.of(config, batch_size, state)
    loaders = build_dataloaders(
        data=config.data,
        sequence_length=model.seq_length,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=batch_size,
        demand=position.demand,
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=layout.dp,
        seed=config.training.seed,
        facts=token_facts(config, model),
        saved=position.saved,
        say=terminal.notice if terminal.own_rank() == 0 else ignore,
        warn=terminal.warning if terminal.own_rank() == 0 else ignore,
    )
    loaders.validation = position.validation
    return loaders


def token_facts(config: RunConfig, model: "ModelConfig") -> TokenFacts:
    """What the token files are held against. Raises DataError."""
    tokenizer = tokenizer_facts(config.tokenizer)
    return TokenFacts(
        vocab_size=model.vocab_size,
        eod_id=tokenizer.eod_id if tokenizer else None,
        tokenizer_fingerprint=tokenizer.fingerprint if tokenizer else None,
    )
