"""ml-train with faults that depend on the data, in forks of one process that has imported all.

`python poisoned_run.py` reads one JSON object per line, {"words", "ranks", "log", "faults"}, and
answers each with the exit code of the run. Tokens of the test's data count up, so a token says
which part of which document a batch has. Faults:
    {"loss": {"TOKEN": FACTOR}}      the loss of a micro batch with that token is multiplied
    {"after": COUNT}                 every loss is NaN after that many micro batches
    {"gradient": [TOKEN]}            a gradient on one rank becomes Inf after such a batch
    {"adam": KIND}                   megatron-core takes an Adam of group_step_adam.py
    {"move": [STEP, SAMPLES]}        a run that resumes after STEP goes on at this data position
"""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "invariance"))
import forks
import group_step_adam

import ml_train.checkpoint.load


def move(step: int, samples: int) -> None:
    """A checkpoint of `step` says that `samples` samples were consumed."""
    load = ml_train.checkpoint.load.load

    def moved(*arguments: Any, **named: Any) -> Any:
        state = load(*arguments, **named)
        assert state.iteration == step
        return dataclasses.replace(state, consumed_samples=samples)

    ml_train.checkpoint.load.load = moved


def inject(faults: dict[str, Any]) -> None:
    # This imports megatron-core, which forks._import_everything() prepares for that.
    from ml_train.training.train_module import TrainModule

    factors = {int(token): float(factor) for token, factor in faults.get("loss", {}).items()}
    forward, finite = TrainModule._forward_step, TrainModule._gradients_finite
    seen: list[int] = []
    calls: list[None] = []

    def _forward_step(self: Any, batches: Any, chunk: Any) -> Any:
        kept: list[Any] = []

        def noting() -> Any:
            for batch in batches:
                kept.append(batch)
                yield batch

        output, loss = forward(self, noting(), chunk)
        tokens = [] if kept[0] is None else kept[0]["tokens"].flatten().tolist()
        seen.extend(tokens)
        calls.append(None)
        factor = next((factors[token] for token in tokens if token in factors), None)
        if len(calls) > faults.get("after", math.inf):
            factor = math.nan
        if factor is None:
            return output, loss

        def spoiled(values: Any) -> Any:
            mean, report = loss(values)
            return mean * factor, {"loss": report["loss"] * factor}

        return output, spoiled

    def _gradients_finite(self: Any) -> bool:
        if set(seen) & set(faults.get("gradient", [])):
            self.model_chunks[0].buffers[0].grad_data[7] = float("inf")
        seen.clear()
        return finite(self)

    TrainModule._forward_step = _forward_step  # type: ignore[method-assign]
    TrainModule._gradients_finite = _gradients_finite  # type: ignore[method-assign]
    if "move" in faults:
        move(*faults["move"])


def serve() -> None:
    """Answer orders until the input ends."""
    child = forks._child
    forks._import_everything()
    for line in sys.stdin:
        order = json.loads(line)

        def poisoned(*arguments: Any, faults: Any = order["faults"]) -> None:
            inject(faults)
            if "adam" in faults:
                group_step_adam.use(faults["adam"])
            child(*arguments)

        forks._child = poisoned
        words = ["pretrain", *order["words"]]
        print(forks.run(words, order["ranks"], order["log"]), flush=True)


if __name__ == "__main__":
    serve()
