"""Says after each training step how the run's Adam updates its parameters."""

import json
from pathlib import Path
from typing import Any


def write_into(path: Path) -> None:
    """Append a line per step: per group its class and flag, and where its steps are."""
    from ml_train.checkpoint.tensors.adam import inner_optimizers
    from ml_train.training.train_module import TrainModule

    train_step = TrainModule.train_step

    def told(self: TrainModule, *arguments: Any, **named: Any) -> Any:
        result = train_step(self, *arguments, **named)
        rows = [
            [
                type(inner).__name__,
                group["fused"],
                sorted({inner.state[item]["step"].device.type for item in group["params"]}),
            ]
            for inner in inner_optimizers(self.optimizer)
            for group in inner.param_groups
        ]
        with path.open("a", encoding="utf-8") as stream:
            print(json.dumps(rows), file=stream)
        return result

    TrainModule.train_step = told  # type: ignore[method-assign]
