"""Console command ml-train. A command's module is imported only when it is asked for.

Exit codes are those of errors.py. A mistake is one message. Where all ranks make it, rank 0 tells
it.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, cast

import ml_train
from ml_models.command_line import run_command
from ml_models.megatron_core import notices, requirements
from ml_train import terminal
from ml_train.config.flags import FlagParser
from ml_train.errors import BAD_USAGE, DONE, EXIT_CODES, MlTrainError

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "pretrain": "train a model (under torchrun)",
        "generate": "sample text from a checkpoint",
        "evaluate": "loss and perplexity of a checkpoint on a dataset",
        "plan": "memory and traffic of every rank, without a device",
        "rehearse": "a cluster job's start on this machine: what would fail",
        "report": "a run's metrics as one HTML page",
        "show-config": "every setting of a run and where it came from",
        "index": "build a run's sample indexes ahead of time",
        "doctor": "what this installation and its device lack",
        "verify-layouts": "show that layouts give the same numbers",
        "verify-resume": "show that a resumed run equals an uninterrupted one",
        "verify-upgrade": "show that a run goes on under another environment",
    }
)
_USAGE = "usage: ml-train COMMAND [flags]\n\ncommands:\n" + "".join(
    f"  {name:<16}{text}\n" for name, text in COMMANDS.items()
)

_WITHOUT_CORE = frozenset({"doctor", "report", "show-config"})
"""Commands that need neither torch nor megatron-core."""

_RANK_0_SPEAKS_FIRST_SECONDS = 3


class Command(Protocol):
    """A module of ml_train.commands."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        terminal.result(_USAGE, end="")
        return DONE
    if words[:1] == ["--version"]:
        terminal.result(f"ml-train {ml_train.__version__}")
        return DONE
    with terminal.speaking(log_to_stdout=words[:1] == ["pretrain"]):
        if not words or words[0] not in COMMANDS:
            what = f"Unknown command {words[0]!r}." if words else "No command given."
            _tell(f"{what} Known: {', '.join(COMMANDS)}.")
            return BAD_USAGE
        return run_command(
            lambda: _run(words[0], words[1:]),
            tell=_tell,
            detail=terminal.detail,
            codes=EXIT_CODES,
            # A run has a handler of its own while it trains. Before and after that it may wait for
            # other ranks in native code, where no Python handler runs: SIGTERM must end it there.
            sigterm_raises=words[0] != "pretrain",
        )


def _run(name: str, words: list[str]) -> int:
    module = "ml_train.commands." + name.replace("-", "_")
    try:
        command = cast(Command, importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        # The table above names a command whose module this installation lacks.
        raise MlTrainError(f"ml-train {name} is not part of this version.") from error
    parser = FlagParser(f"ml-train {name}", command.DESCRIPTION)
    command.add_arguments(parser)
    parser.add_argument(
        "--logging-level",
        choices=tuple(terminal.LEVELS),
        default=terminal.DEFAULT_LEVEL,
        help="The messages that are shown, from few to many (default: notice).",
    )
    args = parser.parse_args(words)
    terminal.set_level(args.logging_level)
    if name not in _WITHOUT_CORE:
        requirements.require_core()
    with requirements.explained(), notices.hidden():
        return command.run(args)


def _tell(message: str) -> None:
    if terminal.own_rank():
        # Mostly rank 0 has the same message. It tells it and ends, and its end takes this process
        # along before the wait is over. A message of this rank alone is told after the wait.
        time.sleep(_RANK_0_SPEAKS_FIRST_SECONDS)
    terminal.error(message)


if __name__ == "__main__":
    raise SystemExit(main())
