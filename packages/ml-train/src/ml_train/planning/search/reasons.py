"""Why the other layouts lose to the best: a line for each reason."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_train.planning.report import gigabytes
from ml_train.planning.search.ranking import Timed

_COMMUNICATION = {
    "tp": "tensor parallelism",
    "etp": "tensor parallelism of experts",
    "ep": "expert parallelism",
    "pp": "the pipeline",
    "dp": "gradients and parameters",
}
"""Part of a step -> whose messages it waits for."""

_EXPERT_GRADIENTS = "edp"
"""Messages of experts' gradients, whose time is in the part dp."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason that some layouts share."""

    text: str
    number: int
    example: str
    """The layout among them that came nearest."""

    def line(self) -> str:
        """For people."""
        return f"{self.number:,} {self.text}: {self.example}"


@dataclass(frozen=True, kw_only=True)
class TooLarge:
    """A layout that does not fit."""

    title: str
    missing_bytes: int


def too_large(layouts: Sequence[TooLarge], text: str) -> list[Reason]:
    """A reason for layouts that do not fit; none without any."""
    if not layouts:
        return []
    nearest = min(layouts, key=lambda item: item.missing_bytes)
    return [
        Reason(
            text=text,
            number=len(layouts),
            example=f"{nearest.title} lacks {gigabytes(nearest.missing_bytes)}",
        )
    ]


def slower(losers: Sequence[Timed], winner: Timed) -> list[Reason]:
    """Reasons of layouts that fit or were not asked, the most frequent first."""
    groups: dict[str, list[Timed]] = defaultdict(list)
    for loser in losers:
        groups[_why(loser, winner)].append(loser)
    reasons = []
    for text, members in groups.items():
        fastest = min(members, key=lambda item: item.time.expected)
        ratio = fastest.time.expected / winner.time.expected
        reasons.append(
            Reason(
                text=f"take longer, mostly by {text}",
                number=len(members),
                example=f"{fastest.candidate.title} takes {ratio:.2f} times as long",
            )
        )
    return sorted(reasons, key=lambda reason: -reason.number)


def not_legal(refusals: Mapping[str, Sequence[str]]) -> list[Reason]:
    """Reasons of combinations that are no layout, by the message of the rule."""
    return [
        Reason(text="combinations are not legal", number=len(messages), example=messages[0])
        for messages in refusals.values()
    ]


def kind_of(message: str) -> str:
    """A message of a rule without its numbers: equal for every breach of that rule."""
    return re.sub(r"\d+(, \d+)*", "N", message)


def _why(loser: Timed, winner: Timed) -> str:
    """The part of the step that grew most."""
    before, after = winner.time.parts, loser.time.parts
    grown = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in {*before, *after}}
    part = max(sorted(grown), key=lambda name: grown[name])
    if part in _COMMUNICATION:
        kinds = {part, _EXPERT_GRADIENTS} if part == "dp" else {part}
        leaves = " that leave the node" if kinds & loser.leaving_node else ""
        return f"messages of {_COMMUNICATION[part]}{leaves}"
    if part == "bubble":
        return "the pipeline's bubble"
    if part == "update":
        return "the optimizer's update"
    if part == "host":
        return "starting kernels"
    recomputed = loser.candidate.config.training.recompute_granularity == "full"
    if recomputed and winner.candidate.config.training.recompute_granularity != "full":
        return "computing the forward pass again"
    return "products and memory traffic of smaller parts"
