"""Made-up tokens: the same on every rank, never twice, and in every command that needs no data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import small_loaders
import torch
from small_loaders import sequences

from ml_train.config import flags
from ml_train.config.load import load_config
from ml_train.config.sections.data import DataSection
from ml_train.data.mock import MockSequences
from ml_train.diagnosis import layouts, runs, verify_resume
from ml_train.errors import ConfigError, DataError

MOCK = DataSection(mock_data=True)


def loaders(data: DataSection = MOCK, **changes):
    return small_loaders.loaders(data, **{"samples": (64, 8, 0), "vocab_size": 500, **changes})


def test_sequences_are_made_alike_everywhere_and_never_come_twice() -> None:
    alone = sequences(loaders().train, 64)
    assert len(set(alone)) == 64
    parts = [iter(loaders(dp_rank=rank, dp_size=2).train) for rank in (0, 1)]
    assert [row for _ in range(16) for part in parts for row in sequences(part, 2)] == alone
    assert sequences(loaders(consumed=24).train, 40) == alone[24:]
    assert set(sequences(loaders().valid, 8)).isdisjoint(alone)
    assert set(sequences(loaders(seed=8).train, 8)).isdisjoint(alone)


def test_a_sequence_has_labels_one_ahead_and_covers_the_vocabulary() -> None:
    sample = MockSequences(vocab_size=5, sequence_length=400, seed=1, split=0, masked_id=3)[9]
    assert sample["tokens"][1:].equal(sample["labels"][:-1])
    assert set(sample["tokens"].tolist()) == set(range(5))
    assert sample["loss_mask"].eq(0).equal(sample["tokens"] == 3)
    assert sample["position_ids"].tolist() == list(range(400))
    plain = MockSequences(vocab_size=5, sequence_length=400, seed=1, split=0)[9]
    assert plain["tokens"].equal(sample["tokens"]) and plain["loss_mask"].eq(1).all()


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    next(loaders().train)
    assert torch.get_rng_state().equal(before)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="--mock-data makes tokens up"):
        DataSection(mock_data=True, data_path=("x",))
    with pytest.raises(DataError, match="--eod-mask-loss needs the end-of-document id"):
        loaders(dataclasses.replace(MOCK, eod_mask_loss=True))


def test_the_verify_commands_use_the_same_tokens() -> None:
    config = load_config(flags.parse(["--recipe", "grok1-tiny", "--seq-length", "32"])).config
    started: list[list[str]] = []

    def start(words, _num_processes, _log) -> None:
        started.append(words)
        raise ConfigError("enough")

    with pytest.raises(ConfigError, match="enough"):
        verify_resume.verify_resume(
            config, steps=1, num_processes=8, folder=Path("unused"), start_run=start
        )
    assert "--mock-data" in started[0]
    plans, _ = layouts.plan(config, config.model.resolve(), ["tp2"], skip_illegal=False)
    assert all("--mock-data" in runs.words_of(plan.config) for plan in plans)
    named = load_config(flags.parse(["--recipe", "grok1-tiny", "--data-path", "x"])).config
    assert runs.on_some_data(named) == named
