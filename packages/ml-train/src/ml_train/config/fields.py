"""Settings: the fields of RunConfig's sections, from which flags and TOML keys are derived.

A field `train_iters: int` in the section `training` is the flag `--train-iters` and the key
`train_iters` of the table `[training]`. A bool has `--x` and `--no-x` (only `--no-x` when the
field's own name starts with no_). A tuple takes several values. The text under a field is the
flag's help.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import (
    FieldType,
    SettingValue,
    field_types,
    flag_of,
    is_of_kind,
)
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of one section."""

    section: str
    name: str
    declared: FieldType
    """What the type of the field declares; config/sections/rules.py checks values against it."""
    default: SettingValue
    text: str

    @property
    def kind(self) -> type:
        """int, float, str or bool: the type of the value, or of each element of a tuple."""
        return self.declared.kind

    @property
    def is_tuple(self) -> bool:
        """Whether the flag takes several values."""
        return self.declared.is_tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The only texts that are allowed; empty where any text is."""
        return self.declared.choices

    @property
    def key(self) -> str:
        """section.name, as show-config prints it."""
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return flag_of(self.name)

    def value_in(self, config: RunConfig) -> SettingValue:
        """The setting's value in a configuration."""
        value: SettingValue = getattr(getattr(config, self.section), self.name)
        return value

    def parse(self, value: object, source: str) -> SettingValue:
        """value as this field's type; numbers may widen (1 -> 1.0). Raises ConfigError.

        Only the type is checked here. The section checks the rule of the value when it is made.
        """
        if self.is_tuple:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(self._scalar(item, source) for item in items)
        if value is None and self.declared.optional:
            return None
        return self._scalar(value, source)

    def _scalar(self, value: object, source: str) -> bool | int | float | str:
        if not is_of_kind(value, self.kind):
            raise ConfigError(f"{source}: {value!r} is not of type {self.kind.__name__}.")
        try:
            scalar: bool | int | float | str = self.kind(value)
            return scalar
        except OverflowError as error:
            raise ConfigError(f"{source}: {value} is too large for a number.") from error


def field_texts(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, as one line; {} where the source is absent."""
    # Python keeps no docstrings of fields, so they are read from the source.
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:
        return {}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    texts: dict[str, str] = {}
    for field, text in zip(body, body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


@functools.cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its field name, which is unique over all sections."""
    by_name: dict[str, Setting] = {}
    for section in dataclasses.fields(RunConfig):
        cls = typing.cast(type, section.type)
        defaults, declarations, texts = cls(), field_types(cls), field_texts(cls)
        for field in dataclasses.fields(cls):
            assert field.name not in by_name, f"{field.name} is in two sections"
            by_name[field.name] = Setting(
                section=section.name,
                name=field.name,
                declared=declarations[field.name],
                default=getattr(defaults, field.name),
                text=texts.get(field.name, ""),
            )
    return types.MappingProxyType(by_name)
