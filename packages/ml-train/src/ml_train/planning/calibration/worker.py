"""A process that measures, among as many as compute at once: started by run.py under torchrun.

    python -m ml_train.planning.calibration.worker PLATFORM FOLDER

It writes FOLDER/RANK.json. An error ends it with one sentence.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from ml_models.bring_up import import_model_code
from ml_models.command_line import run_command
from ml_models.files.durable import write_durably
from ml_models.megatron_core import notices, requirements
from ml_models.platforms.base import Platform
from ml_train import terminal
from ml_train.bring_up import start_platform
from ml_train.errors import DONE, EXIT_CODES
from ml_train.launch.launcher_watch import end_with_launcher
from ml_train.parallel.layout import World
from ml_train.planning.calibration import computing, messages
from ml_train.planning.calibration.measured import Measured, counted, to_table
from ml_train.planning.calibration.timing import Stopwatch

TIMEOUT = timedelta(minutes=5)
"""A process that waits longer for its peers has lost one of them."""


def main() -> int:
    """Measure; the exit code."""
    platform, folder = sys.argv[1:]
    # torch and megatron-core advise on the speed of steps that are not the user's.
    warnings.simplefilter("ignore")
    with terminal.speaking():
        return run_command(
            lambda: _run(platform, Path(folder)),
            tell=terminal.error,
            detail=terminal.detail,
            codes=EXIT_CODES,
        )


def _run(platform_name: str, folder: Path) -> int:
    end_with_launcher()
    world = World.from_environment(os.environ)
    with requirements.explained(), notices.hidden():
        platform = start_platform(platform_name, local_rank=world.local_rank)

        # This brings megatron-core, which comes after the platform.
        from ml_train.planning.calibration import reference_steps

        def say(what: str) -> None:
            terminal.notice(f"{counted(world.size)}: {what}")

        import_model_code(reference_steps.SMALL_RUN.model.resolve())
        measured = _measure(world, platform, say)
        say("steps of a small and of a large model")
        measured = reference_steps.with_step_figures(measured, platform)
    report = {
        "measured": to_table(measured),
        "memory_bytes": float(_memory_bytes(platform.device, world)),
    }
    write_durably(folder / f"{world.rank}.json", json.dumps(report))
    return DONE


def _measure(world: World, platform: Platform, say: Callable[[str], None]) -> Measured:
    """All but the figures of a step, with the process groups that torchrun's variables name."""
    device = platform.device
    dist.init_process_group(platform.backend, timeout=TIMEOUT)
    try:
        watch = Stopwatch(platform)
        products, batched, operations = {}, {}, {}
        for dtype in computing.DTYPES:
            name = str(dtype).removeprefix("torch.")
            say(f"matrix products of {name}")
            products[name], batched[name] = computing.measure_products(watch, device, dtype)
            say(f"memory with {name}")
            operations[name] = computing.measure_operations(watch, device, dtype)
        if world.size > 1:
            say("messages")
        return Measured(
            processes=world.size,
            host_seconds_per_kernel=0.0,
            in_step_factor=1.0,
            asynchronous=computing.is_asynchronous(watch, device),
            products=products,
            batched_products=batched,
            operations=operations,
            messages=messages.measure_messages(watch, device),
        )
    finally:
        dist.destroy_process_group()


def _memory_bytes(device: torch.device, world: World) -> float:
    """Of the device of this process; on the CPU its share of the machine's."""
    if device.type == "cpu":
        return psutil.virtual_memory().total / world.size
    # torch's modules of devices, torch.cuda and those of plug-ins, share this function.
    _, total = torch.get_device_module(device).mem_get_info()
    return float(total)


if __name__ == "__main__":
    raise SystemExit(main())
