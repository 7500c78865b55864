"""Command line -> values: flags of our fields, and Megatron's flags that say or ask something else.

Abbreviations are off: `--lr` must never be read as `--lr-warmup-iters`, and a flag that a later
version adds must not change what a script means. An unknown flag is an error that names the
nearest known one.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ml_train.config.fields import Setting, settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GivenFlags:
    """What a command line said."""

    values: Mapping[str, Any]
    """Field name -> value, only for flags that were given."""
    origins: Mapping[str, str]
    """Field name -> the flag as it was written."""
    statements: Mapping[str, Any]
    """Megatron flag -> its value, for flags that state a fact about the model."""
    recipe: str | None
    config_file: str | None
    rest: Mapping[str, Any]
    """Options that only the command itself reads."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError where the original prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with every flag of RunConfig and of the Megatron table."""
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
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
        if statement.takes_value:
            stated.add_argument(flag, default=argparse.SUPPRESS, help=statement.text)
        else:
            stated.add_argument(
                flag, action="store_true", default=argparse.SUPPRESS, help=statement.text
            )
    return parser


def _add(group: argparse._ArgumentGroup, setting: Setting) -> None:
    text = setting.text.replace("%", "%%")
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": setting.name}
    if setting.kind is bool and not setting.is_tuple:
        if setting.name.startswith("no_"):
            group.add_argument(setting.flag, action="store_true", help=text, **options)
        else:
            group.add_argument(
                setting.flag, action=argparse.BooleanOptionalAction, help=text, **options
            )
        return
    options["help"] = f"{text} (default: {setting.default})".replace("%%", "%").replace("%", "%%")
    options["metavar"] = setting.kind.__name__.upper()
    if setting.is_tuple:
        options["nargs"] = "+"
    group.add_argument(setting.flag, type=setting.kind, **options)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> GivenFlags:
    """Read a command line. Raises ConfigError for refused, unknown and malformed flags."""
    _refuse(arguments)
    namespace, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise ConfigError(_unknown_flag(unknown[0], known_flags(parser)))
    given = dict(vars(namespace))
    recipe, config_file = given.pop("recipe"), given.pop("config")
    known = settings()
    values = {
        name: known[name].parse(value, known[name].flag)
        for name, value in given.items()
        if name in known
    }
    statements = {
        flag: given[_dest(flag)]
        for flag in STATEMENTS
        if _dest(flag) in given and _dest(flag) not in known
    }
    rest = {k: v for k, v in given.items() if k not in known and _flag(k) not in STATEMENTS}
    return GivenFlags(
        values=values,
        origins={name: f"flag {_written(known[name], value)}" for name, value in values.items()},
        statements=statements,
        recipe=recipe,
        config_file=config_file,
        rest=rest,
    )


def known_flags(parser: argparse.ArgumentParser) -> set[str]:
    """Every option string of the parser and every refused flag."""
    return {option for action in parser._actions for option in action.option_strings} | set(REFUSED)


def _refuse(arguments: Sequence[str]) -> None:
    """All refused flags of a command line in one message, so that it needs one edit only."""
    named = [item.partition("=")[0] for item in arguments if item.startswith("--")]
    lines = [f"{flag}: {REFUSED[flag]}" for flag in dict.fromkeys(named) if flag in REFUSED]
    if lines:
        raise ConfigError("\n".join(["Not supported here:", *lines]))


def _unknown_flag(text: str, known: set[str]) -> str:
    flag = text.partition("=")[0]
    nearest = difflib.get_close_matches(flag, sorted(known), n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    what = "flag" if flag.startswith("-") else "argument"
    return f"Unknown {what} {flag}.{hint}"


def _written(setting: Setting, value: Any) -> str:
    if value is False and setting.kind is bool:
        return "--no-" + setting.flag[2:]
    return setting.flag


def _dest(flag: str) -> str:
    return flag[2:].replace("-", "_")


def _flag(dest: str) -> str:
    return "--" + dest.replace("_", "-")
