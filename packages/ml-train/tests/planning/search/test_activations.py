"""The estimate of activations against built ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searched_runs import MODELS, loaded, planning, space_of

from ml_train.planning.long_pipeline import plan_any_rank
from ml_train.planning.plan import stages_to_build
from ml_train.planning.search.activations import Activations, chunks_in_flight

CHOSEN = {
    "grok1": (
        "TP2 PP2 EP2 ETP1 DP1 MBS2",
        "TP1 PP2 VP2 EP1 ETP2 DP2 MBS1",
        "TP2 PP1 EP4 ETP1 DP2 MBS4 full",
    ),
    "mixtral": ("TP1 PP4 EP1 ETP1 DP1 MBS3", "TP2 PP2 EP1 ETP2 DP1 MBS2 full"),
    "grok2": ("TP4 PP1 EP2 ETP1 DP1 MBS2 selective", "TP2 PP2 VP2 EP2 ETP1 DP1 MBS2 full"),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_estimate_is_within_a_tenth_of_built_ranks(model: str) -> None:
    run = loaded(model, "--bf16", "--use-distributed-optimizer")
    layouts = {item.title: item for item in space_of(run, 4)}
    with planning() as platform:
        activations = Activations(run.config, run.model, platform)
        for title in CHOSEN[model]:
            candidate = layouts[title]
            layout = candidate.layout
            for _, stage, _ in stages_to_build(layout):
                rank = stage * layout.world // layout.pp
                built = plan_any_rank(
                    candidate.config, run.model, layout, rank, platform=platform
                ).activations
                estimate = activations.estimate(candidate, stage)
                assert estimate == pytest.approx(built, rel=0.1), (title, stage)
                assert activations.at_least(candidate, stage) <= 1.02 * built, (title, stage)


@pytest.mark.parametrize(
    ("title", "stage", "number"),
    [
        ("TP1 PP4 EP1 ETP1 DP1 MBS1", 0, 4),
        ("TP1 PP4 EP1 ETP1 DP1 MBS1", 3, 1),
        # A step of a single micro batch holds no more than that.
        ("TP1 PP4 EP1 ETP1 DP1 MBS48", 0, 1),
        # Megatron's interleaved schedule on the first of two stages: 2 * 1 + 1 * 2 passes ahead.
        ("TP1 PP2 VP2 EP1 ETP1 DP2 MBS1", 0, 5),
    ],
)
def test_passes_that_wait_for_their_backward_pass(title: str, stage: int, number: int) -> None:
    layouts = {item.title: item.layout for item in space_of(loaded("grok1"), 4)}
    assert chunks_in_flight(layouts[title], stage) == number
