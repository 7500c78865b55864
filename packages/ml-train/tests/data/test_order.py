"""The order of a run: megatron-core's for one length, and whole epochs where it grows longer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_loaders import loaders, sequences
from token_files import write_tokens

from ml_models.process_groups import destroy_process_groups
from ml_train.config.sections.data import DataSection
from ml_train.data.blend import blend_index
from ml_train.data.epochs import MOST_LINES, describe_epochs
from ml_train.data.order import Leg, Order, Part

SEQUENCE = 16


@pytest.fixture
def prefixes(tmp_path: Path) -> list[str]:
    first = write_tokens(tmp_path / "one", lengths=[17, 40, 3, 25, 60, 9] * 6)
    second = write_tokens(tmp_path / "two", lengths=[31, 12] * 6, first=1000)
    third = write_tokens(tmp_path / "three", lengths=[50] * 3, first=2000)
    return [first, second, third]


def megatron(words: list[str], samples: int, cache: Path) -> list[tuple[int, ...]]:
    """The training sequences of megatron-core's own builder."""
    import torch
    import torch.distributed as dist
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.utils import get_blend_from_list

    from ml_train.data.index_cache import _Tokenizer

    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        config = GPTDatasetConfig(
            random_seed=7, sequence_length=SEQUENCE, path_to_cache=str(cache),
            blend=get_blend_from_list(words), split="8,2,0", tokenizer=_Tokenizer(-1),
            reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
            create_attention_mask=False,
        )  # fmt: skip
        sizes = [samples, 8, 0]
        config.split_matrix[2] = None
        train, *_ = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()
    finally:
        destroy_process_groups()
    return [tuple(train[n]["tokens"].tolist()) for n in range(samples)]


@pytest.mark.parametrize("samples", [8, 48, 72, 130, 400])
@pytest.mark.parametrize("blend", ["one file", "equal", "thirds", "uneven"])
def test_a_run_of_one_length_has_the_order_of_megatron(
    prefixes: list[str], tmp_path: Path, samples: int, blend: str
) -> None:
    weights = {"equal": (1, 1, 1), "thirds": (1, 2), "uneven": (0.61, 0.07, 0.32)}.get(blend)
    words = prefixes[:1]
    if weights is not None:
        pairs = zip(weights, prefixes, strict=False)
        words = [word for weight, prefix in pairs for word in (str(weight), prefix)]
    data = DataSection(data_path=tuple(words), split="8,2,0")
    taken = sequences(loaders(data, samples=(samples, 8, 0)).train, samples)
    assert taken == megatron(words, samples, tmp_path / "megatron")


def part(num_tokens: int, *, weight: float = 1.0, **changes) -> Part:
    values = {"prefix": "p", "idx_sha256": "a", "bin_sha256": "b", "first": 0, "end": 10}
    values |= {"sequence_length": SEQUENCE, "seed": 7, **changes}
    return Part(weight=weight, num_tokens=num_tokens, **values)


def test_a_longer_run_keeps_its_legs_and_appends_one() -> None:
    order = Order.start([part(1000)], 48)
    assert order.parts[0].legs == (Leg(samples=48, seed=7),)
    assert order.parts[0].covered == 999 // 16 == 62
    assert order.reaching(62) == order
    longer = order.reaching(63)
    first, second = longer.parts[0].legs
    assert first == order.parts[0].legs[0]
    assert second.samples == 1 and 0 <= second.seed < 2**32 and second.seed != 7
    # Asking again for what is there, or for less, changes nothing.
    assert longer.reaching(100) == longer.reaching(48) == longer
    assert Order.from_dict(json.loads(json.dumps(longer.to_dict()))) == longer
    third = longer.reaching(125)
    assert third.parts[0].legs[:2] == (first, second)
    assert len({leg.seed for leg in third.parts[0].legs}) == 3


def test_a_part_needs_no_more_than_its_share_of_a_blend() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        weights = rng.random(int(rng.integers(2, 9))) + 1e-3
        samples = int(rng.integers(1, 400))
        which, number = blend_index(weights.tolist(), samples)
        counts = np.bincount(which, minlength=len(weights))
        # The bound that Order.reaching relies on.
        assert (counts <= np.ceil(samples * weights / weights.sum()) + 1).all()
        longer, _ = blend_index(weights.tolist(), samples + 50)
        assert (longer[:samples] == which).all()
        for index, count in enumerate(counts):
            assert number[which == index].tolist() == list(range(count))
        parts = [part(int(rng.integers(20, 500)), weight=float(w)) for w in weights]
        order = Order.start(parts, samples)
        assert order.taken(samples) == counts.tolist()
        for total in (samples, samples + 7, samples * 3):
            reached = order.reaching(total)
            needed = reached.taken(total)
            assert all(p.covered >= n for p, n in zip(reached.parts, needed, strict=True))


def test_each_epoch_brings_every_sequence_once(tmp_path: Path) -> None:
    # 40 documents of 16 tokens: each sequence is a document, and the last one lacks its label.
    prefix = write_tokens(tmp_path / "tokens", lengths=[16] * 40)
    data = DataSection(data_path=(prefix,), split="1,0,0")
    state = loaders(data, samples=(24, 0, 0)).state(3)
    grown = loaders(data, samples=(39 * 3, 0, 0), saved=state)
    order = grown.orders[0]
    assert [order.parts[0].length(leg) for leg in order.parts[0].legs] == [39, 79]
    rows = sequences(grown.train, 116) + sequences(grown.train, 2)[:1]
    assert rows[:24] == sequences(loaders(data, samples=(24, 0, 0)).train, 24)
    assert len(set(rows[:39])) == 39
    # The second leg has two whole epochs but for its last sequence, and one is not taken yet.
    counts = Counter(row[0] // 16 for row in rows[39:])
    assert sorted(counts.values()) in ([1, 1] + [2] * 38, [2] * 39)


def test_how_often_each_file_is_repeated(tmp_path: Path) -> None:
    first = write_tokens(tmp_path / "one", lengths=[40] * 20)
    second = write_tokens(tmp_path / "two", lengths=[40] * 2)
    notes: list[str] = []
    data = DataSection(data_path=("3", first, "1", second), split="1,0,0")
    loaders(data, samples=(40, 0, 0), say=notes.append)
    assert notes == [
        f"train data: {second}: 2.00 epochs (10 sequences of 16 tokens, 5 an epoch)",
        f"train data: {first}: 0.60 epochs (30 sequences of 16 tokens, 50 an epoch)",
    ]
    twice: list[str] = []
    again = DataSection(data_path=("3", first, "1", first), split="1,0,0")
    loaders(again, samples=(40, 0, 0), warn=twice.append)
    assert twice[0].startswith(f"{first}: the same documents are 2 times in the blend")
    many = [part(100 + n, weight=1.0, idx_sha256=str(n)) for n in range(100)]
    lines = describe_epochs("train", Order.start(many, 300), 300)
    assert len(lines) == MOST_LINES + 1
    assert lines[MOST_LINES // 2] == "train data: 88 more files lie between these"
