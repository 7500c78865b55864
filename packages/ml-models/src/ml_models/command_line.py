"""What the command lines of ml-models and ml-train share: checks of the words, and exit codes.

argparse takes the last of two values and says nothing, and takes "" (a shell variable that is not
set) for a file name, which is the current folder. The command lines of ml-models and ml-train both
check the words here before argparse reads them.
"""

import argparse
import os
import signal
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType

from ml_models.errors import FAILED, Terminated, exit_code
from ml_models.nearest import nearest_name

_MAY_BE_REPEATED = (argparse._AppendAction, argparse._ExtendAction, argparse._CountAction)


def fault_of_words(
    parser: argparse.ArgumentParser, words: Sequence[str], ignored: Collection[str] = ()
) -> str | None:
    """A sentence on the first flag that is empty or is given twice with different values.

    A flag repeated with the same value is no fault, since nothing is lost. ignored: flags that are
    not looked at.
    """
    given: dict[argparse.Action, tuple[str, list[str]]] = {}
    for action, flag, values in _flags_of(parser, words):
        if flag in ignored:
            continue
        # A flag whose default is the empty text may be given it.
        if action.default != "" and any(not value.strip() for value in values):
            return empty_value(flag)
        if isinstance(action, _MAY_BE_REPEATED):
            continue
        if action in given and given[action] != (flag, values):
            return _given_twice(given[action], (flag, values))
        given[action] = (flag, values)
    return None


def empty_value(flag: str) -> str:
    """The sentence on a flag whose value is an empty text."""
    return (
        f"{flag} is empty; give a value or leave the flag out. A shell variable that is not set "
        "gives an empty value."
    )


def unknown_flag(word: str, known: Sequence[str]) -> str:
    """The sentence on a word that no flag takes; it names the nearest known flag."""
    flag = word.partition("=")[0]
    nearest = nearest_name(flag, known)
    hint = f" Did you mean {nearest}?" if nearest else ""
    what = "flag" if flag.startswith("-") else "argument"
    return f"Unknown {what} {flag or repr(flag)}.{hint}"


def _flags_of(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> Iterator[tuple[argparse.Action, str, list[str]]]:
    """(action, flag as written, its values) of every known flag, in the order of the words."""
    known = {option: action for action in parser._actions for option in action.option_strings}
    current: tuple[argparse.Action, str, list[str]] | None = None
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in known or flag.startswith("--"):
            if current is not None:
                yield current
            current = (known[flag], flag, [value] if equals else []) if flag in known else None
        elif current is not None:
            current[2].append(word)
    if current is not None:
        yield current


def _given_twice(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> str:
    if first[0] != second[0]:
        return f"{first[0]} and {second[0]} contradict each other; give one of them."
    return (
        f"{first[0]} is given twice, as {' '.join(first[1])} and as {' '.join(second[1])}; "
        "give it once."
    )


def run_command(
    command: Callable[[], int],
    *,
    tell: Callable[[str], None],
    detail: Callable[[str], None],
    codes: Mapping[type[BaseException], int],
    sigterm_raises: bool = True,
) -> int:
    """The exit code of a command. An error that a user or a machine causes becomes one sentence.

    tell and detail: where the sentence and the traceback go. codes: the package's table of exit
    codes; other errors are faults of the program and are raised. sigterm_raises: SIGTERM ends the
    command in order, as Ctrl-C does; otherwise the process keeps its own handler.
    """
    try:
        with _sigterm_as_exception() if sigterm_raises else nullcontext():
            return command()
    except BrokenPipeError:
        # The reader of stdout (head, a pager) has left. Python's own flush at the end would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except tuple(codes) as error:
        detail("".join(traceback.format_exception(error)).rstrip())
        tell(_sentence(error))
        return exit_code(error, codes)


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by Ctrl-C."
    if isinstance(error, Terminated):
        return "ended by SIGTERM."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Raise Terminated on SIGTERM, unless the process has a handler of its own."""

    def raise_terminated(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    # Python allows signal handlers in the main thread only.
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
