"""What an interpreted pickle consists of beside plain values: names, calls and spans.

None of them imports, runs or holds what the stream talks about.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Name:
    """A global that the stream mentions, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """What a call of a global would have given: its arguments, and the state set afterwards."""

    function: Name
    arguments: tuple[object, ...]
    state: object = None
    items: list[object] = field(default_factory=list)
    """What the stream added to it: values, or (key, value) pairs."""

    def append(self, value: object) -> None:
        """The stream appends to list-like objects."""
        self.items.append(value)

    def extend(self, values: Iterable[object]) -> None:
        """The stream extends list-like objects."""
        self.items.extend(values)

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))


@dataclass(frozen=True)
class Span:
    """A byte string left where it is: `length` bytes at `offset` of the file."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


def mapping_of(value: object) -> Mapping[object, object] | None:
    """A dict, or the inert form of an OrderedDict; None for anything else."""
    if isinstance(value, Call) and str(value.function) == "collections.OrderedDict":
        pairs = [pair for pair in value.items if isinstance(pair, tuple) and len(pair) == 2]
        good = len(pairs) == len(value.items) and all(isinstance(key, str) for key, _ in pairs)
        return dict(pairs) if good else None
    return value if isinstance(value, Mapping) else None
