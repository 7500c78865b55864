"""Seconds of real steps of the runs in runs.py: started by calibrate.py under torchrun.

    python -m torch.distributed.run ... steps.py REPEATS

Rank 0 prints a JSON object per run with the seconds of each step. A process counts its tokens as
equally spread over the experts, as a plan does.
"""

# ruff: noqa: E402 (megatron-core is imported once it can be)

import json
import os
import sys
import time
import warnings
from pathlib import Path

import torch.distributed as dist

from ml_models.platforms import make_core_importable

make_core_importable()

from ml_models.bring_up import import_model_code
from ml_train.bring_up import start_platform
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.parallel.groups import process_groups
from ml_train.parallel.layout import World
from ml_train.planning.legality import layout_of
from ml_train.planning.rank_plan import made_up_batches
from ml_train.planning.routing import choose_in
from ml_train.training.train_module import TrainModule

sys.path.insert(0, str(Path(__file__).parent))
from runs import RUNS

UNTIMED_STEPS = 2
"""Adam makes its moments in the first step, and libraries choose their kernels."""


def main() -> None:
    """Run the runs of as many processes as there are."""
    warnings.simplefilter("ignore")
    world = World.from_environment(os.environ)
    platform = start_platform("cpu")
    for name, words in RUNS[world.size].items():
        seconds = step_seconds(list(words), int(sys.argv[1]), world, platform)
        if world.rank == 0:
            print(json.dumps({"name": name, "seconds": seconds}), flush=True)


def step_seconds(words: list[str], repeats: int, world: World, platform: object) -> list[float]:
    """Of `repeats` steps."""
    loaded = load_config(parse(words))
    config, model = loaded.config, loaded.model
    import_model_code(model)
    layout = layout_of(config, model, world.size)
    seconds = []
    with platform.context(), process_groups(layout, world, platform, config.parallel, seed=1):
        module = TrainModule.build(config, model, layout, platform)
        choose_in(module.model_chunks)
        batches = made_up_batches(module, layout.num_microbatches)
        for number in range(UNTIMED_STEPS + repeats):
            dist.barrier()
            start = time.perf_counter()
            module.train_step(batches)
            if number >= UNTIMED_STEPS:
                seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
