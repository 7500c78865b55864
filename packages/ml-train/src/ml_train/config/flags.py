"""Command line -> values: flags of our fields, and Megatron's flags that say or ask something else.

Abbreviations are off: `--lr` must never be read as `--lr-warmup-iters`, and a flag that a later
version adds must not change what a script means. An unknown flag is an error that names the
nearest known one; all refused flags come in one message, so that a script needs one edit only.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ml_models.command_line import fault_of_words, unknown_flag
from ml_train.config.fields import Setting, settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS
from ml_train.errors import ConfigError

OVERRIDES = "--"
_NEGATIVE_NUMBER = re.compile(r"-(inf|nan|(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GivenFlags:
    """What a command line said about the configuration."""

    values: Mapping[str, Any]
    """Field name -> value, only for flags that were given."""
    origins: Mapping[str, str]
    """Field name -> the flag as it was written."""
    statements: Mapping[str, Any]
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
        # argparse takes -1e-3 and -inf for flags, and would say that the value is missing.
        self._negative_number_matcher = _NEGATIVE_NUMBER

    def error(self, message: str) -> NoReturn:
        """A malformed value or a missing one."""
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Like argparse's, but nothing is lost in silence.

        A script that passes its arguments on separates its own flags from them by `--`: the flags
        behind it win. Raises ConfigError for an unknown flag, an empty value, and a flag given
        twice on one side.
        """
        words = list(sys.argv[1:] if args is None else args)
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


class _Refuse(argparse.Action):
    """Notes that a refused flag was given; given_flags raises for all of them at once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.refused_flags = [*getattr(namespace, "refused_flags", []), option_string]


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add --recipe, --config, every flag of RunConfig, and Megatron's other flags."""
    parser.add_argument(
        "--recipe",
        default=None,
        help="A built-in recipe's name, or module:function returning a RunConfig.",
    )
    parser.add_argument("--config", default=None, help="A TOML file with the same settings.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in settings().values():
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
        parser.add_argument(
            flag, nargs="*", action=_Refuse, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = setting.text
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": setting.name}
    if setting.default is not None and not (setting.is_tuple and not setting.default):
        text += f" (default: {setting.default})"
    options["help"] = text.replace("%", "%%")
    if setting.kind is bool and not setting.is_tuple:
        plain = setting.name.startswith("no_")
        action = "store_true" if plain else argparse.BooleanOptionalAction
        group.add_argument(setting.flag, action=action, **options)  # type: ignore[arg-type]
        return
    options["metavar"] = setting.kind.__name__.upper()
    if setting.choices:
        options["metavar"] = "{" + ",".join(setting.choices) + "}"
    if setting.is_tuple:
        options["nargs"] = "+"
    group.add_argument(setting.flag, type=setting.kind, **options)


def given_flags(namespace: argparse.Namespace) -> GivenFlags:
    """What a parsed command line says about the configuration. Raises ConfigError."""
    refused = dict.fromkeys(getattr(namespace, "refused_flags", []))
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


def _written(setting: Setting, value: Any) -> str:
    if value is False and setting.kind is bool:
        return "--no-" + setting.flag[2:]
    return setting.flag
