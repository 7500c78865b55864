"""Console command of ml-data: one module per command, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ml_data import __version__
from ml_data.errors import MlDataError, UsageError

COMMANDS = {
    "tokenize": "parquet or JSON lines to .bin/.idx",
    "inspect": "what is in a token file",
    "verify": "is a token file whole, and what its manifest says",
    "merge": "token files, or the tasks of one run, into one",
    "split": "a token file into several",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 done, 1 failed, 2 bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ml-data", description="Text to token files for training, and tools around them."
    )
    parser.add_argument("--version", action="version", version=f"ml-data {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module, chosen = None, parser
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name in arguments[:1]:
            module = importlib.import_module(f"ml_data.commands.{name}")
            module.add_arguments(sub)
            chosen = sub
    refuse_unknown_flags(chosen, arguments)
    args = parser.parse_args(arguments)
    if module is None:
        parser.error("name a command first")
    return run_command(module.run, args)


def refuse_unknown_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Name the flag that was meant, before argparse says that it is missing; exit code 2."""
    import difflib

    for given in arguments:
        flag = given.split("=", 1)[0]
        if flag.startswith("--") and flag not in parser._option_string_actions:
            near = difflib.get_close_matches(flag, parser._option_string_actions, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            parser.error(f"unknown argument {flag}{hint}")


def run_command(run: object, args: argparse.Namespace) -> int:
    """Call `run(args)`; errors that a user can cause end in one line and an exit code."""
    try:
        code: int = run(args)  # type: ignore[operator]
        return code
    except UsageError as error:
        print(f"ml-data: error: {error}", file=sys.stderr)
        return 2
    except MlDataError as error:
        print(f"ml-data: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ml-data: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
