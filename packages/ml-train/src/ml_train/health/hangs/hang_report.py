"""The words of a hang report: which rank waits in which collective, and who is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RankState:
    """What one rank last said of itself."""

    rank: int
    alive: bool
    """It gave a sign of life while the report was made."""
    said: Mapping[str, Any] | None
    """host, pid, step, text, waits, group, ranks, seconds; None: it never said anything."""

    @property
    def waits(self) -> bool:
        """In a collective or for a message."""
        return self.alive and self.said is not None and bool(self.said["waits"])


def compose(reason: str, states: list[RankState]) -> str:
    """The whole report, without a newline at its end."""
    missing = [state.rank for state in states if not state.alive]
    elsewhere = [state.rank for state in states if state.alive and not state.waits]
    verdict = f"{_ranks(missing)} missing." if missing else "No rank is missing."
    if elsewhere:
        verdict += f" {_ranks(elsewhere)} alive and in no collective."
    lines = [f"ml-train: hang report: {reason}", verdict]
    lines += [f"  {_line(state)}" for state in states]
    return "\n".join([*lines, *(f"  {text}" for text in _groups(states))])


def _line(state: RankState) -> str:
    said = state.said
    if said is None:
        return f"rank {state.rank}: MISSING, never seen"
    head = f"rank {state.rank} ({said['host']}, pid {said['pid']}, step {said['step']})"
    if not state.alive:
        return f"{head}: MISSING, no sign of life any more; was last at {said['text']}"
    verb = "waits" if said["waits"] else "stands"
    preposition = "in" if said["group"] and said["waits"] else "at"
    return f"{head}: {verb} {preposition} {said['text']}, for {said['seconds']:.1f} s"


def _groups(states: list[RankState]) -> list[str]:
    """For each group that is waited in: who of its members is not there."""
    waited: dict[tuple[str, tuple[int, ...]], set[int]] = {}
    for state in states:
        if state.waits and state.said is not None and state.said["ranks"]:
            key = (str(state.said["group"]), tuple(state.said["ranks"]))
            waited.setdefault(key, set()).add(state.rank)
    lines = []
    for (group, ranks), present in waited.items():
        absent = [rank for rank in ranks if rank not in present]
        if absent:
            text = f"{group} (ranks {', '.join(map(str, ranks))})"
            lines.append(f"{text}: {_ranks(sorted(present), 'wait')} for {_names(absent)}")
    return lines


def _names(ranks: list[int]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


def _ranks(ranks: list[int], verb: str = "is") -> str:
    single = len(ranks) == 1
    words = {"is": ("is", "are"), "wait": ("waits", "wait")}[verb]
    name = _names(ranks)
    return f"{name[:1].upper() if verb == 'is' else name[:1]}{name[1:]} {words[0 if single else 1]}"
