"""What ml-train-launch gives the processes of a run: variables, and files for what they say.

The platform of --device has the table of variables (ml_models/platforms/variables.py). What the
user has set wins. The command of the run is read for the facts that the rows depend on; a mistake
in it is left to the run, which tells it.
"""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ml_models import platforms
from ml_models.errors import MlModelsError
from ml_models.platforms.variables import Run, for_run
from ml_train.config.flags import FlagParser, add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.errors import MlTrainError

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform
    from ml_train.config.run import RunConfig

NO_LOGS = "none"
"""--log-dir none: no files, where the platform would have them."""

_BOTH_STREAMS = "3"
_PREFIX = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A run of ml-train pretrain that torchrun is about to start."""

    config: "RunConfig"
    platform: "type[Platform]"

    def facts(self) -> Run:
        numbers = re.findall(r"\d+", torch.__version__)
        return Run(
            tensor_model_parallel_size=self.config.parallel.tensor_model_parallel_size,
            timeout_seconds=self.config.parallel.timeout.total_seconds(),
            compiled=self.config.model.execution == "compiled",
            torch=(int(numbers[0]), int(numbers[1])),
        )


def prepare(flags: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Set the variables in this process, which its children inherit, and torchrun's log flags.

    `flags` are torchrun's, parsed. Where they start something else than ml-train pretrain, only
    --log-dir is looked at.
    """
    job = _job(flags)
    if job is not None:
        _export(job, say)
    if flags.log_dir == NO_LOGS:
        flags.log_dir = None
        return
    folder = flags.log_dir or (_folder(job) if job else None)
    if folder is not None:
        _keep_logs(flags, Path(folder), say)


def _job(flags: argparse.Namespace) -> _Job | None:
    words = list(flags.training_script_args)
    module = flags.training_script if flags.module else ""
    program = Path(flags.training_script).name if flags.no_python else ""
    if not (module in ("ml_train", "ml_train.cli") or program == "ml-train"):
        return None
    if words[:1] != ["pretrain"]:
        return None
    parser = FlagParser("ml-train pretrain", "")
    add_config_flags(parser)
    parser.add_argument("--logging-level")
    try:
        config = load_config(given_flags(parser.parse_args(words[1:]))).config
        return _Job(config=config, platform=platforms.platform_class(config.training.device))
    except (MlTrainError, MlModelsError, OSError):
        # Every rank meets the same mistake, and rank 0 tells it.
        return None


def _export(job: _Job, say: Callable[[str], None]) -> None:
    # A plug-in may be older than this attribute of the protocol.
    table = getattr(job.platform, "variables", ())
    decided = for_run(table, job.facts(), os.environ)
    os.environ.update(decided.values)
    for what, values in (("set", decided.values), ("kept as you set it", decided.kept)):
        if values:
            pairs = ", ".join(f"{name}={value}" for name, value in values.items())
            say(f"launch: {what} for {job.platform.name}: {pairs}")


def _folder(job: _Job) -> Path | None:
    """SAVE/logs on devices of a cluster, where nobody watches every process."""
    save = job.config.checkpoint.save
    return Path(save) / "logs" if save and getattr(job.platform, "keeps_logs", False) else None


def _keep_logs(flags: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> None:
    """torchrun writes FOLDER/node_N/JOB/attempt_A/LOCAL_RANK/stdout.log and stderr.log.

    The screen shows the same lines, each with its rank in front.
    """
    node = flags.node_rank if flags.rdzv_backend == "static" else os.uname().nodename
    flags.log_dir = str(folder / f"node_{node}")
    if flags.redirects == "0" and flags.tee == "0":
        flags.redirects = flags.tee = _BOTH_STREAMS
    os.environ.setdefault(_PREFIX, "[rank ${rank}] ")
    say(f"launch: what every process of this node says is kept in {flags.log_dir}")
