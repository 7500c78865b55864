"""A command line that loses nothing: flags given twice, flags that do not exist.

argparse keeps the last of two values without a word, so that `--input a --input b` reads b alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

_GIVEN = "flags_given"


class FlagParser(argparse.ArgumentParser):
    """A parser whose flags keep all values that they are given, or refuse the second."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # What add_argument uses where no action is named: every flag with a value.
        self.register("action", None, StoreOnce)
        self.register("action", "store", StoreOnce)


class StoreOnce(argparse.Action):
    """Keep the values of every mention of a flag that takes several; refuse a second value else."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the values of one mention."""
        given = namespace.__dict__.setdefault(_GIVEN, set())
        if self.dest in given:
            before = getattr(namespace, self.dest)
            if self.nargs not in ("+", "*"):
                parser.error(
                    f"{option_string} {values} is given a second time, after {before}: give it once"
                )
            values = [*before, *values]
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def refuse_unknown_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Name the flag that was meant, before argparse says that it is missing; exit code 2."""
    import difflib

    for given in arguments:
        flag = given.split("=", 1)[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag not in parser._option_string_actions:
            near = difflib.get_close_matches(flag, parser._option_string_actions, 1)
            hint = f": did you mean {near[0]}?" if near else ""
            parser.error(f"unknown argument {flag}{hint}")
