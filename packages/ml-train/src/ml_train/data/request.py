"""What a run asks of its data: one object that every step of opening the data takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_train.config.run import RunConfig
from ml_train.config.sections.data import DataSection
from ml_train.data.demand import Demand, ValidationPosition, demand_of, validation_position
from ml_train.data.manifest import ExpectedTokens, tokenizer_facts

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.checkpoint.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """The data section, how sequences are cut and shuffled, and how many are wanted."""

    section: DataSection
    sequence_length: int
    seed: int
    global_batch_size: int
    demand: Demand
    expected: ExpectedTokens = field(default_factory=ExpectedTokens)
    saved: Mapping[str, Any] | None = None
    """DataLoaders.state() of the checkpoint that the run goes on from; None on a fresh start."""
    validation: ValidationPosition | None = None
    """Where validation stands at a step; None where no checkpoint is to keep it."""

    @staticmethod
    def of(
        config: RunConfig, model: "ModelConfig", batch_size: int, state: "RunState | None"
    ) -> "DataRequest":
        """batch_size: sequences per step; state: of the checkpoint, None on a fresh start.

        Raises DataError where the tokenizer cannot be read.
        """
        iteration = state.iteration if state else 0
        saved = state.extra.get("data") if state else None
        validation = validation_position(config, batch_size, iteration, saved)
        consumed = state.consumed_samples if state else 0
        tokenizer = tokenizer_facts(config.tokenizer)
        return DataRequest(
            section=config.data,
            sequence_length=model.seq_length,
            seed=config.training.seed,
            global_batch_size=batch_size,
            demand=demand_of(
                config, batch_size, iteration=iteration, consumed=consumed, validation=validation
            ),
            expected=ExpectedTokens(
                vocab_size=model.vocab_size,
                eod_id=tokenizer.eod_id if tokenizer else None,
                tokenizer_fingerprint=tokenizer.fingerprint if tokenizer else None,
            ),
            saved=saved,
            validation=validation,
        )
