"""Counts, per training step, at which lines of code the host waits for the simulated device."""

import collections
import json
import sys
from pathlib import Path
from typing import Any

_ROOTS = ("/ml_models/", "/ml_train/", "/megatron/core/")


def count_into(path: Path) -> None:
    """Append a line per step to `path`: {"KIND at FILE:LINE": COUNT, ...}."""
    from device_names import library

    from ml_train.training.train_module import TrainModule

    train_step = TrainModule.train_step

    def counted(self: TrainModule, *arguments: Any, **named: Any) -> Any:
        counts: collections.Counter[str] = collections.Counter()
        library.listen_to_waits(lambda kind: counts.update([f"{kind} at {_caller()}"]))
        try:
            return train_step(self, *arguments, **named)
        finally:
            library.listen_to_waits(None)
            with path.open("a", encoding="utf-8") as stream:
                print(json.dumps(counts), file=stream)

    TrainModule.train_step = counted  # type: ignore[method-assign]


def _caller() -> str:
    """The innermost line of the packages or of megatron-core."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if any(root in name for root in _ROOTS):
            return f"{'/'.join(Path(name).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
