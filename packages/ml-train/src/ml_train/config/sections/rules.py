"""The rule of a setting's value, declared in the type of its field, and the check of all fields.

    micro_batch_size: Annotated[int, Range(at_least=1)] = 1
    adam_beta1: Annotated[float, Range(at_least=0, below=1)] = 0.9
    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"

A section is a dataclass derived from Section, which checks every field when it is made: by flags,
by a TOML file, or by a recipe. Three rules need no declaration: a number is finite, a whole number
fits into 32 bits, and a text is not empty.
"""

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass

from ml_models.command_line import empty_value
from ml_train.errors import ConfigError

SettingValue = bool | int | float | str | tuple[bool | int | float | str, ...] | None
"""What a field of a section may hold."""

LARGEST_INT = 2**31 - 1
"""Limit of a whole number without a limit of its own: products of counts must fit 64 bits."""

LARGEST_FLOAT = 3.4028234663852886e38
"""Limit of float32, in which devices compute: a larger number is infinite there."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a field may hold. Each limit may be absent."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    text: str = ""
    """The rule in words, after "it must be". Unset, it is made from the limits."""

    def admits(self, value: float) -> bool:
        """Whether the value keeps all limits; NaN and infinities do not."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def words(self) -> str:
        """The rule, after "it must be"."""
        if self.text:
            return self.text
        if self.above is not None:
            return f"above {self.above}" + (f" and at most {self.at_most}" if self.at_most else "")
        if self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        if self.below is not None:
            return f"from {self.at_least} to less than {self.below}"
        return f"{self.at_least} or more"


COUNT = Range(at_least=1)
"""For counts of what a run has at least 1 of."""

NUMBER_OR_NONE = Range(at_least=0)
"""For counts that may be 0, and for amounts that 0 turns off."""

POSITIVE = Range(above=0)
"""For amounts that divide or scale something."""


@dataclass(frozen=True, kw_only=True)
class PerNode:
    """Marks a field that may differ between the nodes of a run; config/facts.py leaves it out."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FieldType:
    """What the type of a field declares."""

    kind: type
    """int, float, str or bool: the type of the value, or of each element of a tuple."""
    is_tuple: bool
    optional: bool
    choices: tuple[str, ...]
    """The texts that a Literal allows; empty for other types."""
    range: Range | None
    per_node: PerNode | None

    def fault(self, value: object) -> str | None:
        """What is wrong with a value, after "it must be"; None for a good value."""
        if value is None and self.optional:
            return None
        if not self.is_tuple:
            return self._fault_of_scalar(value)
        if not isinstance(value, tuple):
            return "a tuple"
        return next((text for item in value if (text := self._fault_of_scalar(item))), None)

    def _fault_of_scalar(self, value: object) -> str | None:
        if not is_of_kind(value, self.kind):
            return f"of type {self.kind.__name__}"
        if self.choices and value not in self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(value, str):
            return None if value.strip() else "a text that is not empty"
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._fault_of_number(value)
        return None

    def _fault_of_number(self, value: float) -> str | None:
        if self.range is not None and not self.range.admits(value):
            return self.range.words()
        # Written so that NaN is a fault as well.
        if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
            return "a finite number"
        limited = self.range is not None and self.range.at_most is not None
        if isinstance(value, int) and abs(value) > LARGEST_INT and not limited:
            return f"at most {LARGEST_INT}"
        return None


def is_of_kind(value: object, kind: type) -> bool:
    """Whether a value has the type of a field; whole numbers are floats, True is no number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every section. A subclass with rules between fields calls super().__post_init__()."""

    def __post_init__(self) -> None:
        section: type = type(self)
        for name, declared in field_types(section).items():
            value = getattr(self, name)
            rule = declared.fault(value)
            if rule is not None:
                raise ConfigError(_sentence(flag_of(name), value, rule))


def check_number(flag: str, value: float | None, rule: Range) -> None:
    """Check a command's own flag, which is no setting; None is absent. Raises ConfigError.

    The limits of settings apply as well.
    """
    # The limit of whole numbers holds for an int only.
    kind = type(value) if isinstance(value, int) else float
    declared = FieldType(
        kind=kind, is_tuple=False, optional=True, choices=(), range=rule, per_node=None
    )
    fault = declared.fault(value)
    if fault is not None:
        raise ConfigError(_sentence(flag, value, fault))


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def _sentence(flag: str, value: object, rule: str) -> str:
    items = value if isinstance(value, tuple) else (value,)
    if any(isinstance(item, str) and not item.strip() for item in items):
        return empty_value(flag)
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    return f"{flag} is {shown}; it must be {rule}."


@functools.cache
def field_types(section: type) -> dict[str, FieldType]:
    """Field name -> what its type declares, for a dataclass."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: _read(hints[field.name]) for field in dataclasses.fields(section)}


def _read(hint: object) -> FieldType:
    """The declaration in a type hint: Annotated, then None as an option, then tuple or Literal."""
    marks: list[object] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *marks = typing.get_args(hint)
    optional = is_tuple = False
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [item for item in typing.get_args(hint) if item is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        assert len(members) == 1, f"{hint} is not a setting's type"
        hint = members[0]
    if typing.get_origin(hint) is tuple:
        hint, is_tuple = typing.get_args(hint)[0], True
    if typing.get_origin(hint) is typing.Literal:
        choices, hint = typing.get_args(hint), str
    assert hint in (int, float, str, bool), f"{hint} is not a setting's type"
    return FieldType(
        kind=hint,
        is_tuple=is_tuple,
        optional=optional,
        choices=choices,
        range=next((mark for mark in marks if isinstance(mark, Range)), None),
        per_node=next((mark for mark in marks if isinstance(mark, PerNode)), None),
    )
