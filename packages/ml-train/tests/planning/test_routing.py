"""The choice of experts that a plan makes."""

from __future__ import annotations

import pytest
import torch

from ml_train.planning.routing import choose


@pytest.mark.parametrize(("tokens", "experts", "topk"), [(64, 8, 2), (50, 6, 1), (7, 5, 3)])
def test_a_balanced_choice_gives_every_token_topk_experts(
    tokens: int, experts: int, topk: int
) -> None:
    chosen = choose(tokens, experts, topk, None)
    assert chosen.shape == (tokens, experts)
    assert chosen.sum(dim=1).tolist() == [topk] * tokens
    sizes = chosen.sum(dim=0)
    assert int(sizes.max() - sizes.min()) <= 1


def test_recorded_counts_decide_the_sizes() -> None:
    chosen = choose(100, 4, 2, [50, 30, 20, 0])
    assert chosen.sum(dim=0).tolist() == [100, 60, 40, 0]
    assert bool((chosen.sum(dim=1) == 2).all())


def test_a_share_that_no_choice_can_reach_is_cut_down() -> None:
    chosen = choose(10, 3, 2, [1.0, 0.0, 0.0])
    assert torch.equal(chosen.sum(dim=1), torch.full((10,), 2))
    assert int(chosen[:, 0].sum()) == 10
