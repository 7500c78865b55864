"""The text of a hang report: which rank waits in which collective, and which rank is missing."""

from dataclasses import dataclass
from typing import TypedDict


class SignOfLife(TypedDict):
    """What a rank writes about itself into the key-value store, as JSON."""

    beat: int
    """Counts the signs of this rank."""
    host: str
    pid: int
    step: int
    text: str
    """Where the main thread stands."""
    waits: bool
    """For other ranks."""
    group: str | None
    ranks: list[int]
    """Members of the group."""
    seconds: float
    """How long it has stood there."""


@dataclass(frozen=True, kw_only=True)
class RankState:
    """A rank as the report shows it."""

    rank: int
    alive: bool
    """It gave a sign of life while the report was made."""
    sign: SignOfLife | None
    """Its last sign of life; None where it never gave any."""

    @property
    def waits(self) -> bool:
        """In a collective or for a message."""
        return self.alive and self.sign is not None and self.sign["waits"]


def compose(reason: str, states: list[RankState]) -> str:
    """The whole report, without a newline at its end."""
    missing = [state.rank for state in states if not state.alive]
    elsewhere = [state.rank for state in states if state.alive and not state.waits]
    verdict = f"{_ranks_are(missing)} missing." if missing else "No rank is missing."
    if elsewhere:
        verdict += f" {_ranks_are(elsewhere)} alive and in no collective."
    lines = [f"ml-train: hang report: {reason}", verdict]
    lines += [f"  {_line(state)}" for state in states]
    return "\n".join([*lines, *(f"  {text}" for text in _waiting_groups(states))])


def _line(state: RankState) -> str:
    sign = state.sign
    if sign is None:
        return f"rank {state.rank}: MISSING, never seen"
    head = f"rank {state.rank} ({sign['host']}, pid {sign['pid']}, step {sign['step']})"
    if not state.alive:
        return f"{head}: MISSING, no sign of life any more; was last at {sign['text']}"
    verb = "waits" if sign["waits"] else "stands"
    preposition = "in" if sign["group"] and sign["waits"] else "at"
    return f"{head}: {verb} {preposition} {sign['text']}, for {sign['seconds']:.1f} s"


def _waiting_groups(states: list[RankState]) -> list[str]:
    """A line for each group that ranks wait in: which members are not there."""
    waiting: dict[tuple[str, tuple[int, ...]], set[int]] = {}
    for state in states:
        if state.waits and state.sign is not None and state.sign["ranks"]:
            key = (str(state.sign["group"]), tuple(state.sign["ranks"]))
            waiting.setdefault(key, set()).add(state.rank)
    lines = []
    for (group, members), present in waiting.items():
        absent = [rank for rank in members if rank not in present]
        if absent:
            verb = "waits" if len(present) == 1 else "wait"
            line = f"{_names(sorted(present))} {verb} for {_names(absent)}"
            lines.append(f"{group} (ranks {', '.join(map(str, members))}): {line}")
    return lines


def _names(ranks: list[int]) -> str:
    """rank 3; ranks 1, 3."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


def _ranks_are(ranks: list[int]) -> str:
    """Rank 3 is; Ranks 1, 3 are: the beginning of a sentence."""
    name = _names(ranks)
    return f"{name[:1].upper()}{name[1:]} {'is' if len(ranks) == 1 else 'are'}"
