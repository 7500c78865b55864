"""Drawing tokens from logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml_train.errors import ConfigError
from ml_train.generation.next_token import generate, next_token
from ml_train.generation.sampling import Sampling


def draws(sampling: Sampling, logits: list[float], count: int = 400) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    return [next_token(torch.tensor(logits), sampling, generator) for _ in range(count)]


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    counts = np.bincount(draws(Sampling(), logits, 2000), minlength=4) / 2000
    assert counts == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert set(draws(Sampling(temperature=0), logits)) == {0}
    assert set(draws(Sampling(top_k=2), logits)) == {0, 1}
    assert set(draws(Sampling(top_p=0.5), logits)) == {0}
    assert set(draws(Sampling(top_p=0.51), logits)) == {0, 1}
    assert set(draws(Sampling(top_p=1.0, top_k=4), logits)) == {0, 1, 2, 3}
    sharp = np.bincount(draws(Sampling(temperature=0.5), logits, 2000), minlength=4) / 2000
    assert sharp[0] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"top_k": 0}, "--top-k is 0"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"temperature": 0.0, "top_k": 3}, "no effect with --temperature 0"),
    ],
)
def test_settings_of_sampling_are_checked(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sampling(**settings)


def test_generation_stops_and_slides() -> None:
    seen: list[list[int]] = []

    def successor(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens[0].tolist())
        return torch.nn.functional.one_hot((tokens + 1) % 10, 10).float() * 50

    def run(prompt: list[int], **changes) -> list[int]:
        settings = {"max_new_tokens": 5, "max_length": 3, "seed": 1, "eod_id": 9}
        sampling = Sampling(temperature=0)
        return list(generate(successor, prompt, sampling=sampling, **{**settings, **changes}))

    assert run([1, 2]) == [3, 4, 5, 6, 7]
    assert seen[-1] == [4, 5, 6]
    assert run([6]) == [7, 8, 9]
    assert run([6], eod_id=None) == [7, 8, 9, 0, 1]
