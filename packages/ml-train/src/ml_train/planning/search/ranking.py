"""How long a step of every layout takes, by the time model in its closed form."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.build import pad_vocab_size
from ml_train.planning.search.space import Candidate
from ml_train.planning.time.closed_form import step_work
from ml_train.planning.time.cluster import Cluster
from ml_train.planning.time.facts import ModelFacts, facts_of
from ml_train.planning.time.job import job_of
from ml_train.planning.time.step_time import StepTime, step_time

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A layout and its step."""

    candidate: Candidate
    time: StepTime
    leaving_node: frozenset[str]
    """Kinds of parallelism whose messages go over the network, as planning/time/work.py names
    them."""


def timed(
    candidates: Iterable[Candidate], model: "ModelConfig", cluster: Cluster
) -> Iterator[Timed]:
    """The step of every candidate, in their order."""
    facts: dict[int, ModelFacts] = {}
    for candidate in candidates:
        config, layout = candidate.config, candidate.layout
        if layout.tp not in facts:
            divisible_by = config.model.make_vocab_size_divisible_by
            padded = pad_vocab_size(model.vocab_size, divisible_by, layout.tp)
            facts[layout.tp] = facts_of(model, padded)
        job = job_of(config, model, layout, cluster.devices_per_node)
        work = step_work(facts[layout.tp], job)
        yield Timed(
            candidate=candidate,
            time=step_time(work, cluster.device, cluster.rates),
            leaving_node=frozenset(
                item.parallelism
                for item in (*work.messages, *work.step_messages)
                if item.leaves_node
            ),
        )
