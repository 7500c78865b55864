"""Live bytes and the traffic of collectives."""

from __future__ import annotations

import pytest
import torch

from ml_train.planning.meter import Collective, Meter


def test_a_storage_counts_until_it_is_let_go() -> None:
    with Meter() as meter:
        meter.phase = "forward"
        first = torch.empty(10, device="meta")
        view = first[2:]
        second = torch.empty(100, device="meta")
        assert meter.live_bytes == 440
        del second
        assert meter.live_bytes == 40
        del first
        assert meter.live_bytes == 40, "the view keeps the storage"
        del view
    assert meter.live_bytes == 0
    assert meter.peaks == {"forward": 440}


@pytest.mark.parametrize(
    ("kind", "sent"),
    # nccl-tests' factors for 4 ranks: 2 (n - 1) / n and (n - 1) / n of the whole message.
    [
        ("all-reduce", 150.0),
        ("all-gather", 75.0),
        ("reduce-scatter", 75.0),
        ("all-to-all", 75.0),
        ("send", 100.0),
        ("receive", 0.0),
    ],
)
def test_what_a_rank_sends(kind: str, sent: float) -> None:
    call = Collective(kind=kind, num_bytes=100, group="g", ranks=(0, 1, 2, 3), phase="forward")
    assert call.sent_bytes == sent
