"""Starts of `ml-train pretrain` under torchrun, as the verify commands make them."""

import dataclasses
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_train.config.fields import settings
from ml_train.config.run import RunConfig
from ml_train.config.sections.data import DataSection
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.diagnosis.environments import own_variables
from ml_train.errors import MlTrainError
from ml_train.launch.launcher_watch import LAUNCHER

CHANGED = frozenset({"save", "load", "save_interval", "keep_last", "keep_every", "metrics_file"})
"""Settings that the verify commands choose themselves."""


class FailedRunError(MlTrainError):
    """A start of ml-train pretrain that ended with an error."""

    def __init__(self, reason: str, log: Path):
        super().__init__(f"A run failed: {reason} (whole log: {log})")
        self.reason = reason
        """Without the path of the log, which may lie in a temporary folder."""


_UNCAUGHT = re.compile(r"^(?:\[[^]]*\]:\s*)?(\w[\w.]*(?:Error|Exception)\b.*)")
"""The last line of a traceback; torch puts the rank before it."""

StartRun = Callable[[list[str], int, Path], None]
"""Runs ml-train pretrain: its flags, the number of processes, the log. Raises MlTrainError."""


def smallest_world(config: RunConfig) -> int:
    """The fewest processes that the layout needs."""
    # The dense layers and the experts divide the same processes, in different ways.
    parallel = config.parallel
    dense = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    etp = parallel.expert_tensor_size
    expert = etp * parallel.expert_model_parallel_size * parallel.pipeline_model_parallel_size
    return math.lcm(dense, expert)


def on_some_data(config: RunConfig) -> RunConfig:
    """config itself; where it names no data, the same run on made-up tokens."""
    if config.data.is_given:
        return config
    data = dataclasses.replace(config.data, mock_data=True, split=DataSection().split)
    return dataclasses.replace(config, data=data, tokenizer=TokenizerSection())


def words_of(config: RunConfig) -> list[str]:
    """The command line that says what a configuration says, without the settings in CHANGED."""
    words: list[str] = []
    for setting in settings().values():
        value = getattr(getattr(config, setting.section), setting.name)
        if value == setting.default or value is None or setting.name in CHANGED:
            continue
        if isinstance(value, bool):
            words.append(setting.flag if value else "--no-" + setting.flag[2:])
        elif setting.is_tuple:
            words += [setting.flag, *(str(item) for item in value)]
        else:
            words += [setting.flag, str(value)]
    return words


def start(words: list[str], num_processes: int, log: Path, *, python: str = sys.executable) -> None:
    """ml-train pretrain under torchrun, its output into a log. Raises MlTrainError if it fails.

    python: another environment's, which runs the ml-train that is installed there.
    """
    with log.open("w", encoding="utf-8") as stream:
        try:
            done = subprocess.run(
                command_of(words, num_processes, python=python),
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=variables(),
                check=False,
            )
        except OSError as error:
            raise MlTrainError(f"{python} cannot be started: {error.strerror}.") from error
    if done.returncode:
        raise FailedRunError(reason_of_failure(log, done.returncode), log)


def command_of(
    words: Sequence[str], num_processes: int, *, python: str = sys.executable
) -> list[str]:
    """The command that starts ml-train pretrain under torchrun on this machine."""
    command = [python, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num_processes), "-m", "ml_train.cli", "pretrain"]
    return [*command, *words]


def variables() -> dict[str, str]:
    """The environment of such a run, whose ranks end with this process."""
    # torchrun sets one thread as well, but with a warning in every log.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return {**own_variables(), "OMP_NUM_THREADS": threads, LAUNCHER: str(os.getpid())}


def reason_of_failure(log: Path, code: int) -> str:
    """The error that a run has told in its log, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace")
    errors = [line for line in text.splitlines() if "ml-train: error:" in line]
    if errors:
        return errors[0].strip()
    uncaught = next(
        (match[1] for line in text.splitlines() if (match := _UNCAUGHT.match(line))), ""
    )
    return f"exit code {code}: {uncaught}" if uncaught else f"exit code {code}"
