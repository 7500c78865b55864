"""The data of a run: orders settled, indexes built, streams opened."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ml_train.data.index_build import ensure_indexes
from ml_train.data.index_cache import cache_directory, pieces_of
from ml_train.data.mock import MockSequences
from ml_train.data.order import Order
from ml_train.data.request import DataRequest
from ml_train.data.resume import SavedData, state_of
from ml_train.data.selection import SPLITS
from ml_train.data.sequences import OrderedSequences, Sequences
from ml_train.data.settle import SettledOrders, settle_orders
from ml_train.data.stream import RankShare, SampleStream
from ml_train.errors import DataError


def ignore(_text: str) -> None:
    """For ranks that say nothing."""


@dataclass(kw_only=True)
class DataLoaders:
    """Endless streams of a run; None where no samples were asked for."""

    train: SampleStream | None
    valid: SampleStream | None
    test: SampleStream | None
    request: DataRequest
    orders: list[Order] = field(default_factory=list)
    """Of train, valid and test, as far as this run reaches."""
    open_split: Callable[[int, Order, int], Sequences]
    """(number of the split, order, sequences to reach) -> the sequences, their indexes built."""

    def state(self, iteration: int) -> SavedData:
        """What a checkpoint keeps of the data, besides the training sequences taken."""
        kept = dict(zip(SPLITS[:2], self.orders, strict=False))
        validation = self.request.validation
        return state_of(
            kept,
            global_batch_size=self.request.global_batch_size,
            valid=validation.at(iteration) if validation else 0,
        )

    def go_back(self, iteration: int, *, consumed: int, total: int) -> None:
        """After a rollback: training data from `consumed` on, up to `total`. Collective.

        Validation takes the sequences of that step again.
        """
        assert self.train is not None  # a run that rolls back has trained
        self.reserve(total)
        self.train.seek(consumed)
        if self.valid is not None and self.request.validation is not None:
            self.valid.seek(self.request.validation.at(iteration))

    def reserve(self, total: int) -> None:
        """See that the training data reaches to sequence `total` of the run. Collective.

        A rollback takes more sequences than the run was planned with.
        """
        order = self.orders[0].reaching(total)
        if self.train is not None and order.parts:
            self.orders[0] = order
            self.train.dataset = self.open_split(0, order, total)


def build_dataloaders(
    request: DataRequest,
    share: RankShare,
    *,
    say: Callable[[str], None] = ignore,
    warn: Callable[[str], None] = ignore,
) -> DataLoaders:
    """Check the files, get the sample indexes built, and open the streams. Collective.

    say, warn: called on every rank with each sentence for the user. Raises DataError.
    """
    if request.global_batch_size % (share.micro_batch_size * share.dp_size):
        raise DataError(
            f"--global-batch-size {request.global_batch_size} is not divisible by micro batch size "
            f"{share.micro_batch_size} x data-parallel size {share.dp_size}."
        )
    settled = settle_orders(request)
    for text in settled.warnings:
        warn(text)
    for text in settled.notes:
        say(text)
    open_split = _opener(request, settled)
    demand = request.demand
    streams = [
        SampleStream(
            open_split(split, order, total),
            share,
            consumed=consumed,
            num_workers=request.section.num_workers,
            vocab_size=request.expected.vocab_size,
        )
        if total > consumed
        else None
        for split, (order, total, consumed) in enumerate(
            zip(settled.orders, demand.total, demand.consumed, strict=True)
        )
    ]
    return DataLoaders(
        train=streams[0],
        valid=streams[1],
        test=streams[2],
        request=request,
        orders=settled.orders,
        open_split=open_split,
    )


def _opener(request: DataRequest, settled: SettledOrders) -> Callable[[int, Order, int], Sequences]:
    section = request.section
    masked_id = settled.eod_id if section.eod_mask_loss else None

    def open_split(split: int, order: Order, total: int) -> Sequences:
        if section.mock_data:
            assert request.expected.vocab_size is not None  # the model's, which every run has
            return MockSequences(
                vocab_size=request.expected.vocab_size,
                sequence_length=request.sequence_length,
                seed=request.seed,
                split=split,
                masked_id=masked_id,
            )
        cache = cache_directory(section, settled.first_prefix)
        ensure_indexes(pieces_of(order, total), cache, shared=section.shared_storage)
        mmap = not section.no_mmap_bin_files
        return OrderedSequences(order, total, cache, mmap=mmap, masked_id=masked_id)

    return open_split
