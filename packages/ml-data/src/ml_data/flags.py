"""A command line that refuses flags which are given twice, have an empty value, or do not exist.

argparse keeps the last of two values without a word: `--input a --input b` would read b alone. It
takes an empty value, too. That is what `--input "$DATA"` gives where DATA is not set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ml_data.errors import UsageError
from ml_data.nearest import did_you_mean

_GIVEN = "flags_given"


class FlagParser(argparse.ArgumentParser):
    """A parser whose flags keep the values of all mentions, or refuse a second mention."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # What add_argument uses where no action is named: every flag with a value.
        self.register("action", None, StoreOnce)
        self.register("action", "store", StoreOnce)


class StoreOnce(argparse.Action):
    """Add up the values of a flag that takes several; refuse a second mention of any other flag."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the values of one mention."""
        if "" in (values if isinstance(values, list) else [values]):
            raise UsageError(
                f"{option_string or self.dest} '': the value is empty; is a variable of the shell "
                "empty?"
            )
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
    """Name the flag that was probably meant, and end the process with exit code 2.

    argparse itself would complain of a missing flag first.
    """
    for given in arguments:
        flag = given.split("=", 1)[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag not in parser._option_string_actions:
            hint = did_you_mean(flag, parser._option_string_actions)
            parser.error(f"unknown argument {flag}{hint and f': {hint}'}")
