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
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of one section."""

    section: str
    name: str
    kind: type
    """int, float, str or bool: the type of the value, or of each element of a tuple."""
    is_tuple: bool
    optional: bool
    default: Any
    text: str

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
        if value is None and self.optional:
            return None
        good = isinstance(value, self.kind) and not (
            isinstance(value, bool) and self.kind is not bool
        )
        if not good and self.kind is float and type(value) is int:
            return float(value)
        if not good:
            raise ConfigError(f"{source}: {value!r} is not of type {self.kind.__name__}.")
        return value


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
        hints = typing.get_type_hints(cls)
        texts = field_texts(cls)
        for item in dataclasses.fields(cls):
            assert item.name not in found, f"{item.name} is in two sections"
            kind, is_tuple, optional = _kind(hints[item.name])
            default = item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            found[item.name] = Setting(
                section=section.name,
                name=item.name,
                kind=kind,
                is_tuple=is_tuple,
                optional=optional,
                default=default,
                text=texts.get(item.name, ""),
            )
    return types.MappingProxyType(found)


def _kind(hint: Any) -> tuple[type, bool, bool]:
    """(scalar type, is a tuple, may be None) of a field's type hint."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [item for item in typing.get_args(hint) if item is not type(None)]
        optional = len(rest) < len(typing.get_args(hint))
        assert len(rest) == 1, f"{hint} is not a flag's type"
        hint = rest[0]
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True, optional
    if typing.get_origin(hint) is typing.Literal:
        return str, False, optional
    assert hint in (int, float, str, bool), f"{hint} is not a flag's type"
    return hint, False, optional
