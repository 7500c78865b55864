"""How many sequences a run takes of each split, from its first step to its last.

Validation runs every eval_interval steps and once at the end, as in Megatron, and each time goes
on with the sequences after those of the last time; the final test takes eval_iters batches where
--test-data-path is given. A resume counts what is left from where the checkpoint stands, so that
another batch size, interval or length goes on with unseen sequences.
"""

from collections.abc import Mapping
from typing import Any

from ml_train.config.run import RunConfig
from ml_train.data.resume import Demand


class ValidationPosition:
    """Validation sequences taken before a step, which depends on where this start began."""

    def __init__(self, config: RunConfig, batch_size: int, *, iteration: int = 0, taken: int = 0):
        training = config.training
        self._interval = training.eval_interval
        self._per_round = training.eval_iters * batch_size
        self._rounds = iteration // self._interval
        self._taken = taken

    def at(self, iteration: int) -> int:
        """Of all rounds up to and including that of this step."""
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


def demand(
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
    begun = batch_size
    if iteration and consumed % iteration == 0:
        # Of the steps so far. Asked for only where the checkpoint does not say.
        begun = consumed // iteration
    # One round more than those of the interval: the last step has one of its own.
    valid = validation.at(training.train_iters) + training.eval_iters * batch_size
    test = training.eval_iters * batch_size if config.data.test_data_path else 0
    return Demand(
        total=(consumed + left * batch_size, valid if training.eval_iters else 0, test),
        consumed=(consumed, validation.at(iteration), 0),
        begun_with=(
            training.train_iters * begun,
            (training.train_iters // training.eval_interval + 1) * training.eval_iters * begun,
            test,
        ),
    )
