"""What the flags and the TOML keys are derived from: the fields of RunConfig's sections.

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
from typing import Any

from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import FieldType, field_types, is_of_kind
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of one section."""

    section: str
    name: str
    declared: FieldType
    """What the type of the field says; config/sections/rules.py checks values against it."""
    default: Any
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
        return "--" + self.name.replace("_", "-")

    def parse(self, value: Any, source: str) -> Any:
        """value as this field's type; numbers may widen (1 -> 1.0). Raises ConfigError."""
        if self.is_tuple:
            items = value if isinstance(value, list | tuple) else [value]
            return tuple(self._scalar(item, source) for item in items)
        return self._scalar(value, source)

    def _scalar(self, value: Any, source: str) -> Any:
        if value is None and self.declared.optional:
            return None
        if not is_of_kind(value, self.kind):
            raise ConfigError(f"{source}: {value!r} is not of type {self.kind.__name__}.")
        try:
            return self.kind(value)
        except OverflowError as error:
            raise ConfigError(f"{source}: {value} is too large for a number.") from error


def field_texts(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, as one line; {} where the source is absent."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:
        return {}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    texts: dict[str, str] = {}
    for first, second in zip(body, body[1:], strict=False):
        if not (isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)):
            continue
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant):
            texts[first.target.id] = " ".join(str(second.value.value).split())
    return texts


@functools.cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its field name, which is unique over all sections."""
    found: dict[str, Setting] = {}
    for section in dataclasses.fields(RunConfig):
        cls = typing.cast(type, section.type)
        types_of_fields = field_types(cls)
        texts = field_texts(cls)
        for item in dataclasses.fields(cls):
            assert item.name not in found, f"{item.name} is in two sections"
            default = item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            found[item.name] = Setting(
                section=section.name,
                name=item.name,
                declared=types_of_fields[item.name],
                default=default,
                text=texts.get(item.name, ""),
            )
    return types.MappingProxyType(found)
