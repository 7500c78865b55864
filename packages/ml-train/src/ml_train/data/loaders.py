"""Batches in one global order that does not depend on the number of data-parallel ranks.

Sample i of the order belongs to global batch i // global_batch_size. Inside it, slices of
micro_batch_size go to the ranks in turn, so the same sequences make up the same global batch
(and, at equal micro batch size, the same micro batches) for any number of ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ml_train.data.config import DataConfig
from ml_train.data.indexes import ensure_indexes, together
from ml_train.data.manifest import check_manifests
from ml_train.data.mock import NUM_SEQUENCES, MockSequences
from ml_train.data.spec import IndexSpec, build_datasets, make_spec
from ml_train.errors import DataError

Batch = dict[str, torch.Tensor]
"""tokens, labels, position_ids: int64; loss_mask: float32; all [micro_batch, sequence]."""

_KEYS = ("tokens", "labels", "loss_mask", "position_ids")


@dataclass(frozen=True, kw_only=True)
class DataLoaders:
    """Endless streams; None where no samples were asked for."""

    train: "SampleStream | None"
    valid: "SampleStream | None"
    test: "SampleStream | None"


class GlobalOrder:
    """Yields lists of sample numbers, one list per micro batch of this rank; wraps at the end."""

    def __init__(
        self,
        *,
        num_samples: int,
        consumed: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
    ):
        self._num_samples = num_samples
        self._next = consumed + dp_rank * micro_batch_size
        self._micro_batch_size = micro_batch_size
        self._stride = micro_batch_size * dp_size

    def __iter__(self) -> Iterator[list[int]]:
        start = self._next
        while True:
            yield [(start + i) % self._num_samples for i in range(self._micro_batch_size)]
            start += self._stride


class _Samples(torch.utils.data.Dataset[Batch]):
    """megatron-core's dataset, reduced to the tensors that a step reads."""

    def __init__(self, dataset: Any):
        self._dataset = dataset

    def __getitem__(self, index: int) -> Batch:
        sample = self._dataset[index]
        return {key: sample[key] for key in _KEYS}


class SampleStream:
    """Endless micro batches of one split for this rank, from any position of the global order."""

    def __init__(
        self,
        dataset: Any,
        *,
        num_samples: int,
        num_workers: int,
        consumed: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_size: int,
    ):
        self.dataset = dataset
        """megatron-core's."""
        self._num_workers = num_workers
        self._order = {
            "num_samples": num_samples,
            "micro_batch_size": micro_batch_size,
            "dp_rank": dp_rank,
            "dp_size": dp_size,
        }
        self._batches: Iterator[Batch]
        self.seek(consumed)

    def __iter__(self) -> "SampleStream":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def seek(self, consumed: int) -> None:
        """Go on as if this many samples had been taken, by all ranks together."""
        loader: torch.utils.data.DataLoader[Batch] = torch.utils.data.DataLoader(
            _Samples(self.dataset),
            batch_sampler=GlobalOrder(consumed=consumed, **self._order),  # type: ignore[arg-type]
            num_workers=self._num_workers,
            # An own generator: the loader draws a base seed, which must not move the global state.
            generator=torch.Generator().manual_seed(0),
            multiprocessing_context="spawn" if self._num_workers else None,
            persistent_workers=self._num_workers > 0,
        )
        self._batches = iter(loader)

    def numbers(self, consumed: int, num_microbatches: int) -> list[list[int]]:
        """Numbers in the dataset of this rank's samples, per micro batch, from a position on."""
        return list(islice(GlobalOrder(consumed=consumed, **self._order), num_microbatches))


def build_dataloaders(
    *,
    data: DataConfig,
    sequence_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    train_samples: int,
    valid_samples: int,
    test_samples: int,
    dp_rank: int,
    dp_size: int,
    consumed_train_samples: int,
    consumed_valid_samples: int = 0,
    seed: int,
    vocab_size: int | None = None,
    eod_id: int | None = None,
    tokenizer_fingerprint: str | None = None,
) -> DataLoaders:
    """Check the files, get the sample indexes built, and open the loaders. Collective.

    The *_samples count sequences over the whole run, all ranks together. vocab_size is the
    model's unpadded vocabulary. eod_id defaults to the manifest's. Raises DataError.
    """
    if global_batch_size % (micro_batch_size * dp_size):
        raise DataError(
            f"--global-batch-size {global_batch_size} is not divisible by micro batch size "
            f"{micro_batch_size} x data-parallel size {dp_size}."
        )

    def check() -> IndexSpec:
        return checked_spec(
            data,
            samples=(train_samples, valid_samples, test_samples),
            sequence_length=sequence_length,
            seed=seed,
            vocab_size=vocab_size,
            eod_id=eod_id,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )

    if data.mock_data:
        return _mock_loaders(
            data,
            samples=(train_samples, valid_samples, test_samples),
            consumed=(consumed_train_samples, consumed_valid_samples, 0),
            sequence_length=sequence_length,
            seed=seed,
            vocab_size=vocab_size,
            eod_id=eod_id,
            order=(micro_batch_size, dp_rank, dp_size),
        )
    spec = together(check)
    cache = cache_directory(data, spec.files[0][0])
    ensure_indexes(spec, cache, shared=data.shared_storage)
    consumed = (consumed_train_samples, consumed_valid_samples, 0)
    loaders = [
        _loader(dataset, data, wanted, done, micro_batch_size, dp_rank, dp_size)
        for dataset, wanted, done in zip(
            build_datasets(spec, cache), spec.samples, consumed, strict=True
        )
    ]
    return DataLoaders(train=loaders[0], valid=loaders[1], test=loaders[2])


def _mock_loaders(
    data: DataConfig,
    *,
    samples: tuple[int, int, int],
    consumed: tuple[int, int, int],
    sequence_length: int,
    seed: int,
    vocab_size: int | None,
    eod_id: int | None,
    order: tuple[int, int, int],
) -> DataLoaders:
    if vocab_size is None or (data.eod_mask_loss and eod_id is None):
        raise DataError(
            "--mock-data with --eod-mask-loss needs the end-of-document id: give "
            "--tokenizer-name-or-path."
        )
    loaders = [
        _loader(
            MockSequences(
                vocab_size=vocab_size,
                sequence_length=sequence_length,
                seed=seed,
                split=split,
                masked_id=eod_id if data.eod_mask_loss else None,
            ),
            data,
            NUM_SEQUENCES if wanted else 0,
            done,
            *order,
        )
        for split, (wanted, done) in enumerate(zip(samples, consumed, strict=True))
    ]
    return DataLoaders(train=loaders[0], valid=loaders[1], test=loaders[2])


def checked_spec(
    data: DataConfig,
    *,
    samples: tuple[int, int, int],
    sequence_length: int,
    seed: int,
    vocab_size: int | None = None,
    eod_id: int | None = None,
    tokenizer_fingerprint: str | None = None,
) -> IndexSpec:
    """The spec of a run after its manifests were checked. Raises DataError."""
    found = check_manifests(
        data, vocab_size=vocab_size, eod_id=eod_id, fingerprint=tokenizer_fingerprint
    )
    return make_spec(
        data,
        samples=samples,
        sequence_length=sequence_length,
        seed=seed,
        eod_id=eod_id if eod_id is not None else found,
    )


def cache_directory(data: DataConfig, first_prefix: str) -> Path:
    """Where the sample indexes are."""
    if data.data_cache_path is not None:
        return Path(data.data_cache_path)
    return Path(first_prefix).parent / "index_cache"


def _loader(
    dataset: Any,
    data: DataConfig,
    wanted: int,
    consumed: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
) -> SampleStream | None:
    if dataset is None or not wanted:
        return None
    return SampleStream(
        dataset,
        num_samples=min(wanted, len(dataset)),
        num_workers=data.num_workers,
        consumed=consumed,
        micro_batch_size=micro_batch_size,
        dp_rank=dp_rank,
        dp_size=dp_size,
    )
