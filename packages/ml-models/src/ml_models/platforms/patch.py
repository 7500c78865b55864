"""A table row that replaces one attribute, and the two ways to use a table.

`apply` is for good and idempotent; `temporarily` puts everything back. A replacement is made from
the original, so that a row can wrap as well as replace.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ml_models.errors import PlatformError
from ml_models.megatron_core.lines import Lines, install_command

ABSENT = object()
"""Stands for an attribute that was not there."""

_MARK = "_ml_models_patch"
_ORIGINAL = "_ml_models_original"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An attribute of a module or class, its replacement, and the reason."""

    target: str
    """module:attribute or module:Class.attribute."""
    make: Callable[[Any], object]
    """Original (ABSENT where there is none) -> replacement."""
    reason: str
    """What happens without it."""
    lines: Lines = Lines()
    """Lines of megatron-core that need it; all unless given."""
    link: str = ""
    """Where upstream has the code."""


def apply(patches: Iterable[Patch], line: str) -> list[str]:
    """Replace what `line` needs, for good; returns "target: reason" for every such row."""
    done = []
    for patch in patches:
        if line in patch.lines:
            owner, name, original = _find(patch.target)
            # The mark is on the replacement: a second call finds it and leaves it in place.
            if getattr(_function(original), _MARK, None) != patch.target:
                setattr(owner, name, _made(patch, original))
            done.append(f"{patch.target}: {patch.reason}")
    return done


@contextlib.contextmanager
def temporarily(patches: Iterable[Patch]) -> Iterator[None]:
    """Inside, all replacements are in place, whatever the line is; outside, the originals."""
    undo: list[tuple[object, str, object]] = []
    try:
        for patch in patches:
            owner, name, original = _find(patch.target)
            setattr(owner, name, _made(patch, original))
            undo.append((owner, name, original))
        yield
    finally:
        for owner, name, original in reversed(undo):
            if original is ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def _find(target: str) -> tuple[object, str, object]:
    """The owner, the attribute's name and its value, as the owner stores it, of a target."""
    module_name, _, path = target.partition(":")
    *parents, name = path.split(".")
    try:
        owner: object = importlib.import_module(module_name)
        for parent in parents:
            owner = getattr(owner, parent)
    except (ImportError, AttributeError) as error:
        raise PlatformError(
            f"{target} cannot be adapted: {error}. This version of megatron-core is not one that "
            f"was tested. Run: {install_command()}"
        ) from error
    # Not getattr, which would bind a classmethod: what is put back must be what was stored.
    return owner, name, vars(owner).get(name, ABSENT)


def _made(patch: Patch, original: object) -> object:
    replacement = patch.make(original)
    # A plain value, such as None for a missing kernel, cannot carry the mark and needs none.
    with contextlib.suppress(AttributeError, TypeError):
        setattr(_function(replacement), _MARK, patch.target)
        setattr(_function(replacement), _ORIGINAL, original)
    return replacement


def restored(target: str, reason: str) -> Patch:
    """A row for `temporarily` that puts back what a row with this target has replaced for good."""
    return Patch(
        target=target,
        make=lambda current: getattr(_function(current), _ORIGINAL, current),
        reason=reason,
    )


def _function(value: object) -> object:
    """What can carry a mark: a classmethod is stored as an object around its function."""
    return getattr(value, "__func__", value)
