"""Command line -> values: the flags of all settings, and Megatron's statements and refused flags.

Abbreviations are off: `--lr` must never be read as `--lr-warmup-iters`, and a flag that a later
version adds must not change what a script means. An unknown flag is an error that names the
nearest known flag. All refused flags come in one message, so that a script needs a single edit.
"""

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ml_models.command_line import fault_of_words, unknown_flag
from ml_train.config.fields import Setting, settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS
from ml_train.config.sections.rules import SettingValue, flag_of
from ml_train.errors import ConfigError

OVERRIDES = "--"
"""Flags behind it win over the same flags in front of it."""
_NEGATIVE_NUMBER = re.compile(r"-(inf|nan|(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GivenFlags:
    """What a command line says about the configuration."""

    values: Mapping[str, SettingValue]
    """Field name -> value, only for flags that were given."""
    origins: Mapping[str, str]
    """Field name -> the flag as it was written."""
    statements: Mapping[str, str | bool]
    """Megatron flag -> its value, for flags that state a fact about the model."""
    recipe: str | None
    config_file: str | None


class FlagParser(argparse.ArgumentParser):
    """argparse that raises ConfigError where the original prints usage and exits."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.HelpFormatter,
        )
        # argparse's own pattern takes -1e-3 and -inf for flags and reports a missing value.
        self._negative_number_matcher = _NEGATIVE_NUMBER

    def error(self, message: str) -> NoReturn:
        """Called by argparse for a malformed or missing value."""
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Like argparse's, with an error where argparse would drop a value without a word.

        A script that passes its arguments on writes `--` between its own flags and them; the flags
        behind it win. Raises ConfigError for an unknown flag, an empty value, and a flag given
        twice on the same side.
        """
        words = list(sys.argv[1:] if args is None else args)
        # The sides are checked apart, as a flag may be on both; argparse then takes the last value.
        end = words.index(OVERRIDES) if OVERRIDES in words else len(words)
        sides = (words[:end], words[end + 1 :])
        for side in sides:
            fault = fault_of_words(self, side, ignored=REFUSED)
            if fault is not None:
                raise ConfigError(fault)
        words = [*sides[0], *sides[1]]
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise ConfigError(unknown_flag(unknown[0], known))
        return parsed


def add_config_flags(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add --recipe, --config, every flag of RunConfig, and Megatron's other flags.

    without: fields whose flags a command gives another meaning.
    """
    parser.add_argument(
        "--recipe",
        default=None,
        help="A built-in recipe's name, module:function returning a RunConfig, or a FILE.toml such "
        "as ml-train plan --write makes.",
    )
    parser.add_argument("--config", default=None, help="A TOML file with the same settings.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in settings().values():
        if setting.name in without:
            continue
        if setting.section not in groups:
            groups[setting.section] = parser.add_argument_group(setting.section)
        _add(groups[setting.section], setting)
    stated = parser.add_argument_group(
        "statements", "Megatron flags that are checked against the model or the product"
    )
    for flag, statement in STATEMENTS.items():
        text = statement.text.replace("%", "%%")
        if statement.takes_value:
            stated.add_argument(flag, default=argparse.SUPPRESS, help=text)
        else:
            stated.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
    for flag in REFUSED:
        parser.add_argument(flag, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = setting.text
    if setting.default is not None and not (setting.is_tuple and not setting.default):
        text += f" (default: {setting.default})"
    text = text.replace("%", "%%")
    if setting.kind is bool and not setting.is_tuple:
        # Megatron has --no-save-optim alone, and neither --save-optim nor --no-no-save-optim.
        plain = setting.name.startswith("no_")
        group.add_argument(
            setting.flag,
            action="store_true" if plain else argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=text,
        )
        return
    metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else None
    group.add_argument(
        setting.flag,
        type=setting.kind,
        nargs="+" if setting.is_tuple else None,
        metavar=metavar or setting.kind.__name__.upper(),
        default=argparse.SUPPRESS,
        help=text,
    )


def given_flags(namespace: argparse.Namespace) -> GivenFlags:
    """What a parsed command line says about the configuration. Raises ConfigError."""
    # Absent flags have no attribute, and attributes are in the order of the command line.
    refused = [flag for name in vars(namespace) if (flag := flag_of(name)) in REFUSED]
    if refused:
        lines = [f"{flag}: {REFUSED[flag]}" for flag in refused]
        raise ConfigError("\n".join(["Not supported here:", *lines]))
    given, known = vars(namespace), settings()
    values = {
        name: setting.parse(given[name], setting.flag)
        for name, setting in known.items()
        if name in given
    }
    statements = {
        flag: given[name] for flag in STATEMENTS if (name := flag[2:].replace("-", "_")) in given
    }
    return GivenFlags(
        values=values,
        origins={name: f"flag {_written(known[name], value)}" for name, value in values.items()},
        statements=statements,
        recipe=given.get("recipe"),
        config_file=given.get("config"),
    )


def parse(arguments: Sequence[str], *, prog: str = "ml-train") -> GivenFlags:
    """Read a command line that has nothing but configuration flags. Raises ConfigError."""
    parser = FlagParser(prog, "")
    add_config_flags(parser)
    return given_flags(parser.parse_args(arguments))


def _written(setting: Setting, value: SettingValue) -> str:
    if value is False and setting.kind is bool:
        return "--no-" + setting.flag[2:]
    return setting.flag
