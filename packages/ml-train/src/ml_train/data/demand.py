"""How many sequences a run takes of each split, from its first step to its last.

Validation runs every eval_interval steps and once at the end, as in Megatron, and every round goes
on with the sequences after those of the round before. The final test takes eval_iters batches where
--test-data-path is given. A resume counts what is left from the step of its checkpoint, so that
another batch size, interval or length goes on with unseen sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_train.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Sequences of train, valid and test."""

    total: tuple[int, int, int]
    """From the first step of the run to its last."""
    consumed: tuple[int, int, int] = (0, 0, 0)
    """Taken before this start."""
    begun_with: tuple[int, int, int] | None = None
    """What the run wanted at its first start, where its checkpoint does not say; unset: total."""


class ValidationPosition:
    """Validation sequences taken before a step, which depends on where this start began."""

    def __init__(self, config: RunConfig, batch_size: int, *, iteration: int = 0, taken: int = 0):
        training = config.training
        self._interval = training.eval_interval
        self._per_round = training.eval_iters * batch_size
        self._rounds = iteration // self._interval
        self._taken = taken

    def at(self, iteration: int) -> int:
        """Sequences of all rounds up to this step, the step's own round included."""
        rounds = iteration // self._interval - self._rounds
        return max(self._taken + rounds * self._per_round, 0)


def validation_position(
    config: RunConfig, batch_size: int, iteration: int, saved: Mapping[str, Any] | None
) -> ValidationPosition:
    """Where validation goes on after `iteration`; saved: the data state of the checkpoint."""
    if saved is None:
        return ValidationPosition(config, batch_size)
    taken = int(saved.get("consumed_valid_samples", 0))
    return ValidationPosition(config, batch_size, iteration=iteration, taken=taken)


def demand_of(
    config: RunConfig,
    batch_size: int,
    *,
    iteration: int = 0,
    consumed: int = 0,
    validation: ValidationPosition | None = None,
) -> Demand:
    """What a run wants that stands after `iteration` steps and `consumed` training sequences."""
    training = config.training
    validation = validation or ValidationPosition(config, batch_size)
    left = max(training.train_iters - iteration, 0)
    # begun_with is read only where the checkpoint keeps no order (ml-train 1.0). The batch size of
    # the run's first start follows from the steps and sequences so far.
    first_batch_size = batch_size
    if iteration and consumed % iteration == 0:
        first_batch_size = consumed // iteration
    # The last step has a round of its own, beside those of the interval.
    valid = validation.at(training.train_iters) + training.eval_iters * batch_size
    first_rounds = training.train_iters // training.eval_interval + 1
    test = training.eval_iters * batch_size if config.data.test_data_path else 0
    return Demand(
        total=(consumed + left * batch_size, valid if training.eval_iters else 0, test),
        consumed=(consumed, validation.at(iteration), 0),
        begun_with=(
            training.train_iters * first_batch_size,
            first_rounds * training.eval_iters * first_batch_size,
            test,
        ),
    )
