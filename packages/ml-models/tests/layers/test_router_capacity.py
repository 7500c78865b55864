"""Token dropping: each expert keeps its likeliest tokens, no more than it has room for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ml_models.layers.router import FusedRouter


@pytest.mark.parametrize(("factor", "room"), [(0.5, 3), (1.0, 5), (1.1, 6), (9.0, 10)])
def test_an_expert_keeps_its_likeliest_tokens(factor: float, room: int) -> None:
    probs = torch.rand(10, 4, generator=torch.Generator().manual_seed(1))
    router = SimpleNamespace(topk=2, config=SimpleNamespace(moe_expert_capacity_factor=factor))
    kept = FusedRouter._within_capacity(router, probs)
    assert kept.sum(dim=0).tolist() == [room] * 4
    for expert in range(4):
        inside, outside = probs[kept[:, expert], expert], probs[~kept[:, expert], expert]
        assert not outside.numel() or inside.min() > outside.max()
