"""A configuration as text that is read back: TOML for --config and --recipe, or flags."""

import json
from itertools import groupby

from ml_train.config.fields import Setting, settings
from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import SettingValue


def toml_value(value: SettingValue) -> str:
    """A setting's value in TOML; None has no form there."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return repr(value)


def as_toml(config: RunConfig) -> str:
    """The settings that differ from their defaults, a table per section."""
    tables = []
    for section, group in groupby(_changed(config), key=lambda item: item[0].section):
        lines = [f"{setting.name} = {toml_value(value)}" for setting, value in group]
        tables.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(tables) + "\n"


def as_flags(config: RunConfig) -> list[list[str]]:
    """The same settings as flags: the words of a flag and of its values."""
    flags = []
    for setting, value in _changed(config):
        if isinstance(value, bool):
            flags.append([setting.flag if value else f"--no-{setting.flag[2:]}"])
        elif isinstance(value, tuple):
            flags.append([setting.flag, *map(str, value)])
        else:
            flags.append([setting.flag, str(value)])
    return flags


def _changed(config: RunConfig) -> list[tuple[Setting, SettingValue]]:
    values = [(setting, setting.value_in(config)) for setting in settings().values()]
    # A value of None is the default of every setting that admits it.
    return [(setting, value) for setting, value in values if value not in (setting.default, None)]
