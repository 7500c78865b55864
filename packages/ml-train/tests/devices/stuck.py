"""A rank that never comes: what the others have queued on their devices never ends."""

import time
from typing import Any


def stop_rank(rank: int, step: int, *, is_this_rank: bool) -> None:
    """Stop rank `rank` at the beginning of step `step`; called on every rank.

    Collectives of a device are queued: the host goes on, and stands where it first needs a value.
    The simulated device's queue is stuck from that step on, as a collective in it never completes.
    """
    import simulated_npu

    from ml_train.training.train_module import TrainModule

    train_step = TrainModule.train_step
    steps: list[None] = []

    def stopped(self: TrainModule, *arguments: Any, **named: Any) -> Any:
        steps.append(None)
        if len(steps) == step:
            if is_this_rank:
                time.sleep(3600)
            simulated_npu.hang()
        return train_step(self, *arguments, **named)

    TrainModule.train_step = stopped  # type: ignore[method-assign]
