"""What real ranks hold and send in a step, per layout: run by jobs.run_job with OUTPUT."""

# ruff: noqa: E402 (megatron-core is imported once it can be)

import gc
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from ml_models.platforms import make_core_importable

make_core_importable()

from ml_train.bring_up import start_platform
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.parallel.groups import process_groups
from ml_train.parallel.layout import World
from ml_train.planning.legality import layout_of
from ml_train.planning.meter import Meter
from ml_train.planning.rank_plan import run_rank

sys.path.insert(0, str(Path(__file__).parent))
from planned_runs import PROCESSES, RUNS


def main(output: Path) -> None:
    world = World.from_environment(os.environ)
    platform = start_platform("cpu")
    results = {}
    with platform.context():
        for name, words in RUNS.items():
            loaded = load_config(parse(words))
            config, model = loaded.config, loaded.model
            layout = layout_of(config, model, PROCESSES)
            with process_groups(layout, world, platform, config.parallel, seed=1):
                plan = run_rank(
                    config,
                    model,
                    layout,
                    platform,
                    meter=Meter(platform.device.type),
                    num_microbatches=layout.num_microbatches,
                )
                plans: list[object] = [None] * PROCESSES
                dist.all_gather_object(plans, asdict(plan))
            results[name] = plans
            # A model and its groups refer to each other. Until they are collected, every group
            # keeps threads that poll, and those of a few runs take both cores.
            gc.collect()
    if world.rank == 0:
        output.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
