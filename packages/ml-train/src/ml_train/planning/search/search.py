"""The search: every legal layout is timed, the fastest that should fit are built.

Closed forms decide which layouts are built. What is reported of the best is exact: their ranks are
built and run by the code of `ml-train plan`. A layout whose built ranks do not fit after all gives
its place to the next.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.errors import LayoutError
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.plan import RankClass, plan_ranks, stages_to_build
from ml_train.planning.search import reasons
from ml_train.planning.search.activations import Activations
from ml_train.planning.search.parameters import Catalogue, catalogue
from ml_train.planning.search.ranking import Timed, timed
from ml_train.planning.search.reasons import Reason, TooLarge
from ml_train.planning.search.space import (
    Candidate,
    Space,
    candidates,
    nearest_worlds,
    stage_ends,
)
from ml_train.planning.search.state_bytes import state_bytes
from ml_train.planning.time.cluster import Cluster

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

BEST = 10
"""Layouts that are built."""

Progress = Callable[[str, int, int], None]
"""(what is done, how much of it is done, all of it)."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A layout whose ranks were built."""

    timed: Timed
    classes: Sequence[RankClass]
    memory_bytes: int
    """Of the device."""

    @property
    def peak(self) -> int:
        """Most bytes on any rank."""
        return max(ranks.plan.peak for ranks in self.classes)

    @property
    def margin(self) -> int:
        """The device's memory that is left; negative where the layout does not fit."""
        return self.memory_bytes - self.peak


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What `ml-train plan --search` prints."""

    seen: int
    """Legal layouts."""
    best: Sequence[Built]
    """That fit, the fastest first."""
    nearest: Built | None
    """Where none fits: the layout that lacks least."""
    reasons: Sequence[Reason]


@dataclass(kw_only=True)
class _Losers:
    """Layouts that are not among the best, by what was learned of them."""

    state: list[TooLarge] = field(default_factory=list)
    passes: list[TooLarge] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def search(
    config: RunConfig,
    model: "ModelConfig",
    space: Space,
    cluster: Cluster,
    platform: MetaPlatform,
    *,
    progress: Progress,
) -> SearchResult:
    """Search inside the platform's context. Raises ConfigError, and LayoutError without any."""
    refusals: dict[str, list[str]] = defaultdict(list)

    def refuse(message: str) -> None:
        refusals[reasons.kind_of(message)].append(message)

    every = list(candidates(config, model, space, refused=refuse))
    if not every:
        raise LayoutError(no_layout(config, model, space, refusals))
    builder = _Builder(config, model, cluster, platform)
    losers = _Losers()
    possible = builder.possible(every, losers, progress)
    ranked: list[Timed] = []
    for item in timed(possible, model, cluster):
        ranked.append(item)
        if len(ranked) % 500 == 0:
            progress("timing layouts", len(ranked), len(possible))
    ranked.sort(key=lambda item: item.time.expected)
    best, rest = builder.best(ranked, losers, progress)
    nearest = None if best else builder.nearest(every, progress)
    return SearchResult(
        seen=len(every),
        best=best,
        nearest=nearest,
        reasons=_reasons(best, rest, losers, refusals),
    )


class _Builder:
    """Knows what layouts need, by closed forms and by building them."""

    def __init__(
        self, config: RunConfig, model: "ModelConfig", cluster: Cluster, platform: MetaPlatform
    ) -> None:
        self._model, self._cluster, self._platform = model, cluster, platform
        self._memory = int(cluster.device.memory_bytes)
        self._parameters: Catalogue = catalogue(config, model, platform)
        self._activations = Activations(config, model, platform)
        self._states: dict[tuple[object, ...], int] = {}

    def possible(
        self, every: Sequence[Candidate], losers: _Losers, progress: Progress
    ) -> list[Candidate]:
        """The layouts that fit by their states and by lower bounds of their activations."""
        left = []
        for number, candidate in enumerate(every):
            if number % 500 == 0:
                progress("memory of layouts", number, len(every))
            missing = self.state(candidate) - self._memory
            if missing > 0:
                losers.state.append(TooLarge(title=candidate.title, missing_bytes=missing))
                continue
            missing = self._largest(candidate, self._activations.at_least) - self._memory
            if missing > 0:
                losers.passes.append(TooLarge(title=candidate.title, missing_bytes=missing))
                continue
            left.append(candidate)
        return left

    def best(
        self, ranked: Sequence[Timed], losers: _Losers, progress: Progress
    ) -> tuple[list[Built], Sequence[Timed]]:
        """Build from the fastest on until BEST fit; the layouts that were not asked come second."""
        best: list[Built] = []
        met: set[tuple[str, int]] = set()
        for number, item in enumerate(ranked):
            if len(best) == BEST:
                return best, ranked[number:]
            progress(f"{number:,} layouts looked at, building the best", len(best), BEST)
            title, peak = item.candidate.title, self.peak(item.candidate)
            # Of two layouts with equal memory the faster came first.
            figures = (title.removesuffix(" selective"), peak)
            if figures in met:
                losers.repeated.append(title)
                continue
            met.add(figures)
            if peak <= self._memory:
                built = self.build(item)
                if built.margin >= 0:
                    best.append(built)
                    continue
                peak = built.peak
            losers.passes.append(TooLarge(title=title, missing_bytes=peak - self._memory))
        return best, []

    def nearest(self, every: Sequence[Candidate], progress: Progress) -> Built:
        """The layout that lacks least, by closed forms; built."""
        # The lightest states come first: activations are asked for where they could still matter.
        lightest = sorted(every, key=self.state)
        least = lightest[0]
        for number, candidate in enumerate(lightest):
            if self.state(candidate) >= self.peak(least):
                break
            progress("looking for the layout that lacks least", number, len(lightest))
            if self._largest(candidate, self._activations.at_least) < self.peak(least):
                least = min(least, candidate, key=self.peak)
        (item,) = timed([least], self._model, self._cluster)
        return self.build(item)

    def state(self, candidate: Candidate) -> int:
        """Bytes between steps on the fullest rank, in closed form."""
        return self._largest(candidate, lambda _candidate, _stage: 0)

    def peak(self, candidate: Candidate) -> int:
        """Most bytes on the fullest rank, in closed form."""
        return self._largest(candidate, self._activations.estimate)

    def _largest(self, candidate: Candidate, passes: Callable[[Candidate, int], int]) -> int:
        """The largest sum of state and of what the passes need over the stages that differ."""
        return max(
            self._state_of(candidate, stage) + passes(candidate, stage)
            for _, stage, _ in stages_to_build(candidate.layout)
        )

    def _state_of(self, candidate: Candidate, stage: int) -> int:
        config, layout = candidate.config, candidate.layout
        # What the state depends on: micro batches and recomputation are not in it.
        sizes = (layout.tp, layout.pp, layout.vp, layout.ep, layout.etp)
        key = (*sizes, *stage_ends(config.parallel), stage)
        if key not in self._states:
            figures = state_bytes(self._parameters, config, self._model, layout, stage)
            self._states[key] = figures.total
        return self._states[key]

    def build(self, item: Timed) -> Built:
        """Build a rank of every class and run a step of it."""
        candidate = item.candidate
        classes = plan_ranks(
            candidate.config,
            self._model,
            candidate.layout,
            self._platform,
            progress=lambda _: None,
        )
        return Built(timed=item, classes=classes, memory_bytes=self._memory)


def _reasons(
    best: Sequence[Built],
    rest: Sequence[Timed],
    losers: _Losers,
    refusals: dict[str, list[str]],
) -> list[Reason]:
    lines = reasons.too_large(losers.state, "do not fit by parameters and optimizer state alone")
    lines += reasons.too_large(losers.passes, "do not fit with their activations")
    if losers.repeated:
        text = "have the figures of another, as selective recomputation frees nothing here"
        lines.append(Reason(text=text, number=len(losers.repeated), example=losers.repeated[0]))
    if best:
        lines += reasons.slower(rest, best[0].timed)
    return [*lines, *reasons.not_legal(refusals)]


def no_layout(
    config: RunConfig, model: "ModelConfig", space: Space, refusals: dict[str, list[str]]
) -> str:
    """The message where no combination is legal."""
    worlds = nearest_worlds(config, model, space)
    numbers = " or ".join(map(str, worlds)) or "another number of"
    cause = next(iter(refusals.values()))[0] if refusals else "no size divides it."
    return (
        f"--search: {space.world} devices have no legal layout of this model, for example: {cause} "
        f"Take {numbers} devices."
    )
