"""The console command `ml-data`. A command's module is imported when the command is used."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import NoReturn

from ml_data import terminal
from ml_data.errors import ExitCode, MlDataError, Terminated, UsageError
from ml_data.flags import FlagParser, refuse_unknown_flags
from ml_data.version import __version__

_OBJECTS_PER_COLLECTION = 50_000
# Python has no exception of its own for a thread that the system refuses.
_NO_THREAD = "can't start new thread"
# SentencePiece and others give Python no exception where they get no memory.
_LIBRARY_FAILED = "error return without exception set"

COMMANDS = {
    "tokenize": "parquet or JSON lines to .bin/.idx",
    "inspect": "what is in a token file",
    "verify": "is a token file whole, and what its manifest says",
    "merge": "token files, or the tasks of one run, into one",
    "split": "a token file into several",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, as `errors.ExitCode` lists them."""
    terminal.prepare_streams()
    with _signals_as_exceptions(), _fewer_collections():
        try:
            return _guarded(lambda: _run(argv))
        finally:
            terminal.drop_unwritten()


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = FlagParser(
        prog="ml-data", description="Text to token files for training, and tools around them."
    )
    parser.add_argument("--version", action="version", version=f"ml-data {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module: ModuleType | None = None
    chosen: argparse.ArgumentParser = parser
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Only the command that is used: importing all of them would make --help slow.
        if name in arguments[:1]:
            module = importlib.import_module(f"ml_data.commands.{name}")
            module.add_arguments(sub)
            chosen = sub
    refuse_unknown_flags(chosen, arguments)
    args = parser.parse_args(arguments)
    if module is None:
        parser.error("name a command first")
    run: Callable[[argparse.Namespace], int] = module.run
    return run(args)


def _guarded(run: Callable[[], int]) -> int:
    """Call `run`. A fault of the user, the machine or a signal ends in a line and an exit code."""
    try:
        try:
            return run()
        finally:
            # Also after --help, whose exit is an exception, and before the exit code is decided.
            terminal.end_results()
    except UsageError as error:
        terminal.error(str(error))
        return ExitCode.USAGE
    except MlDataError as error:
        terminal.error(str(error))
    except KeyboardInterrupt:
        terminal.error("interrupted")
        return ExitCode.INTERRUPTED
    except Terminated:
        terminal.error("ended by SIGTERM")
        return ExitCode.TERMINATED
    except BrokenPipeError:
        pass  # the reader of the results closed the pipe, as `head` does: nothing to tell
    except (MemoryError, ImportError, RuntimeError, SystemError, OSError) as error:
        text = _fault_of_machine(error)
        if text is None:
            raise
        terminal.error(text)
    return ExitCode.FAILED


def _fault_of_machine(error: Exception) -> str | None:
    """What the machine lacks, where an exception stands for that; None for a mistake of ours."""
    if isinstance(error, MemoryError):
        return "out of memory: close other programs, or run on a larger machine"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, ImportError):
        # A limit on memory (ulimit -v) fails here first, as libraries are mapped one by one.
        return (
            f"a library cannot be loaded: {error}. Install ml-data again, or give the process more "
            "memory"
        )
    if str(error) == _LIBRARY_FAILED:
        return (
            "out of memory: a library failed without saying why, as it does where memory is short"
        )
    if str(error) == _NO_THREAD:
        return (
            "the system starts no further thread: raise its limits on memory or processes "
            "(ulimit -v, ulimit -u), or use fewer --workers"
        )
    return None


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Python's cyclic garbage collector looks less often.

    Nearly all objects of a command live to its end, and what a batch leaves behind holds no cycles.
    At Python's own thresholds the collector takes 70 ms of a run over 29 MB, 6 % of it.
    """
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_PER_COLLECTION, *before[1:])
    # The interpreter's end looks for cycles among all objects, which takes 20 ms and frees nothing
    # that the end of the process would not free. It passes over what is frozen.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into exceptions, so that the command cleans up; a second ends it.

    A signal that the caller had ignored stays ignored, as under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.getsignal(number)
        for number, default in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        )
        if signal.getsignal(number) is default
    }
    for number in before:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    # A second signal ends the process at once, also where cleaning up takes long.
    signal.signal(number, signal.SIG_DFL)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
