"""How many passes of a rank wait for their backward pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searched_runs import loaded, space_of

from ml_train.planning.search.activations import chunks_in_flight


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
