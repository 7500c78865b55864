"""Measures this machine with rising numbers of processes, and writes the device file."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ml_train.errors import MlTrainError
from ml_train.launch.launcher_watch import LAUNCHER
from ml_train.planning.calibration import device_file
from ml_train.planning.calibration.checked import number as number_of
from ml_train.planning.calibration.checked import table
from ml_train.planning.calibration.figures import figures_of
from ml_train.planning.calibration.mean import mean_table
from ml_train.planning.calibration.measured import Measured, counted, from_table

_WORKER = "ml_train.planning.calibration.worker"
_PATIENCE_SECONDS = 10
"""How long a launcher has to end its processes before it is killed."""


def calibrate(
    path: Path, *, platform: str, numbers: Sequence[int], progress: Callable[[str], None]
) -> tuple[Measured, ...]:
    """Measure with each of `numbers` of processes, which rise; write the device file.

    platform: a name of ml_models.platforms, not auto. Raises ConfigError where `path` may not be
    written, and MlTrainError where a measurement fails; the file then is as before.
    """
    device_file.check_target(path)
    measured = []
    memory_bytes = 0.0
    for number in numbers:
        progress(f"measuring with {counted(number)} at once")
        report = _measure(platform, number)
        measured.append(from_table(report["measured"], device_file.KEY))
        memory_bytes = number_of(report["memory_bytes"], "memory_bytes")
    figures = figures_of(measured, platform=platform, memory_bytes=memory_bytes)
    device_file.write(path, figures, measured)
    return tuple(measured)


def numbers_up_to(processes: int) -> list[int]:
    """Powers of two below a number, and the number."""
    powers = [2**power for power in range(processes.bit_length()) if 2**power < processes]
    return [*powers, processes]


def _measure(platform: str, processes: int) -> Mapping[str, object]:
    """What worker.py writes, as a mean over the processes."""
    with tempfile.TemporaryDirectory(prefix="ml-train-calibrate-") as folder:
        _start([platform, folder], processes)
        tables = [
            json.loads((Path(folder) / f"{rank}.json").read_text(encoding="utf-8"))
            for rank in range(processes)
        ]
    return table(mean_table(tables), "the mean of the workers")


def _start(words: Sequence[str], processes: int) -> None:
    """The workers under ml-train-launch, with the threads that it gives those of a run."""
    command = [sys.executable, "-m", "ml_train.launch", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", _WORKER, *words]
    variables = {**os.environ, LAUNCHER: str(os.getpid())}
    if processes > 1:
        # torchrun does so as well, but with a warning.
        variables.setdefault("OMP_NUM_THREADS", "1")
    launcher = subprocess.Popen(command, env=variables)
    try:
        code = launcher.wait()
    except BaseException:
        # Ctrl-C and SIGTERM: the launcher passes SIGTERM on to the workers.
        launcher.terminate()
        try:
            launcher.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            launcher.kill()
        raise
    if code:
        raise MlTrainError(
            f"The calibration with {counted(processes)} failed with exit code {code}; the "
            "reason is above. No file was written."
        )
