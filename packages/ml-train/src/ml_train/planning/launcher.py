"""The planned run as a file that starts it: a launcher FILE.sh, or a recipe FILE.toml.

The launcher has the variables of examples/grok1, so that a job script written for those serves this
file as well. The recipe is what `--recipe FILE.toml` reads.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_models.files.durable import write_durably
from ml_train.config.written import as_flags, as_toml
from ml_train.errors import ConfigError, MlTrainError

if TYPE_CHECKING:
    from ml_train.config.run import RunConfig

MARK = "# Written by ml-train plan"
"""How a file of ours begins, behind the line that names the shell."""

_SHELL = "#!/usr/bin/env bash"

_VARIABLES = """\
set -euo pipefail

GPUS_PER_NODE=${{GPUS_PER_NODE:-{per_node}}}
NNODES=${{NNODES:-{nodes}}}
NODE_RANK=${{NODE_RANK:-0}}
# Where the nodes meet: node 0, and a port that is the same on every node.
MASTER_ADDR=${{MASTER_ADDR:-localhost}}
MEETING_ARGS=(--master-addr "$MASTER_ADDR" --master-port "${{MASTER_PORT:-6000}}")
# A single node finds a free port by itself.
if [ "$NNODES" -eq 1 ] && [ -z "${{MASTER_PORT:-}}" ]; then MEETING_ARGS=(--standalone); fi

exec ml-train-launch --nproc-per-node "$GPUS_PER_NODE" --nnodes "$NNODES" \\
    --node-rank "$NODE_RANK" "${{MEETING_ARGS[@]}}" \\
    -m ml_train.cli pretrain \\
"""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What a file is written of."""

    config: "RunConfig"
    nodes: int
    devices_per_node: int
    figures: str
    """The plan in a line or two, for the head of the file."""


def check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is planned. Raises ConfigError."""
    if path.suffix not in (".sh", ".toml"):
        raise ConfigError(
            f"--write is {path}; rule: a launcher FILE.sh or a recipe FILE.toml. Give one of the "
            "two endings."
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"--write is {path}, but {path.parent} is no folder; rule: the folder is there. Make "
            "it first."
        )
    if os.path.lexists(path) and not _is_ours(path):
        raise ConfigError(
            f"--write is {path}, which ml-train plan did not write; rule: no other file is "
            "replaced. Choose another name or move the file away."
        )


def write_run(path: Path, run: PlannedRun) -> None:
    """Write the file, which has its old or its new content. Raises MlTrainError if it cannot."""
    # Time has passed since the plan began: somebody may have put a file there.
    check_target(path)
    text = _launcher(run) if path.suffix == ".sh" else _recipe(run)
    try:
        write_durably(path, text)
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | 0o111)
    except OSError as error:
        raise MlTrainError(
            f"--write {path} cannot be written: {error.strerror}; rule: a folder that can be "
            "written to, with room. Choose another."
        ) from error


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.read(200)
    except OSError:
        return False
    return any(line.startswith(MARK.encode()) for line in head.splitlines()[:2])


def _launcher(run: PlannedRun) -> str:
    variables = _VARIABLES.format(per_node=run.devices_per_node, nodes=run.nodes)
    # Every flag on a line of its own, and behind `--` what the caller adds: it wins.
    flags = [f"    {shlex.join(words)} \\" for words in as_flags(run.config)]
    return "\n".join(
        [
            _SHELL,
            *_head(run),
            "# Run it on every node, NODE_RANK counting up. Arguments are passed on and win over",
            "# this file: give --data-path, --save and the tokenizer there.",
            variables + "\n".join(flags),
            '    -- "$@"',
            "",
        ]
    )


def _recipe(run: PlannedRun) -> str:
    use = f"# On {run.nodes} x {run.devices_per_node} devices: ml-train pretrain --recipe FILE.toml"
    return "\n".join([*_head(run), use, "", as_toml(run.config)])


def _head(run: PlannedRun) -> list[str]:
    return [MARK, *(f"# {line}" for line in run.figures.splitlines())]
