"""The data of a run: files checked, orders settled, indexes built, streams opened."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_train.config.sections.data import DataSection
from ml_train.data.datasets import OrderedSequences
from ml_train.data.epochs import describe_epochs
from ml_train.data.indexes import by_leaders, compare_nodes, ensure_indexes
from ml_train.data.manifest import check_manifests
from ml_train.data.mock import MockSequences
from ml_train.data.order import Order
from ml_train.data.pieces import pieces_of
from ml_train.data.resume import Demand, plan_orders, state_of
from ml_train.data.samples import ValidationPosition
from ml_train.data.selection import SPLITS, repeated, selected_parts
from ml_train.data.stream import SampleStream
from ml_train.errors import DataError


def ignore(text: str) -> None:
    """For ranks that say nothing."""


@dataclass(kw_only=True)
class DataLoaders:
    """Endless streams of a run; None where no samples were asked for."""

    train: SampleStream | None
    valid: SampleStream | None
    test: SampleStream | None
    orders: list[Order] = field(default_factory=list)
    """Of train, valid and test, as far as this run reaches."""
    global_batch_size: int = 1
    validation: ValidationPosition | None = None
    _open: Callable[[int, Order, int], Any] | None = None

    def state(self, iteration: int) -> dict[str, Any]:
        """What a checkpoint keeps of the data, besides the training sequences taken."""
        kept = dict(zip(SPLITS[:2], self.orders, strict=False))
        valid = self.validation.at(iteration) if self.validation else 0
        return state_of(kept, global_batch_size=self.global_batch_size, valid=valid)

    def go_back(self, iteration: int, *, consumed: int, total: int) -> None:
        """After a rollback: training data from `consumed` on, up to `total`. Collective.

        Validation takes the sequences of that step again.
        """
        assert self.train is not None
        self.reserve(total)
        self.train.seek(consumed)
        if self.valid is not None and self.validation is not None:
            self.valid.seek(self.validation.at(iteration))

    def reserve(self, total: int) -> None:
        """See that the training data reaches to sequence `total` of the run. Collective.

        A rollback takes more sequences than the run was planned with.
        """
        order = self.orders[0].reaching(total)
        if self.train is not None and self._open is not None and order.parts:
            self.orders[0] = order
            self.train.dataset = self._open(0, order, total)


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What the files are held against; None where nothing is known."""

    vocab_size: int | None = None
    """The model's, without padding."""
    eod_id: int | None = None
    """Of the tokenizer; unset: the manifests'."""
    tokenizer_fingerprint: str | None = None


def build_dataloaders(
    *,
    data: DataSection,
    sequence_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    demand: Demand,
    dp_rank: int,
    dp_size: int,
    seed: int,
    facts: TokenFacts | None = None,
    saved: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = ignore,
    warn: Callable[[str], None] = ignore,
) -> DataLoaders:
    """Check the files, get the sample indexes built, and open the streams. Collective.

    saved: DataLoaders.state() of the checkpoint that the run goes on from. say, warn: called on
    every rank with each sentence for the user. Raises DataError.
    """
    if global_batch_size % (micro_batch_size * dp_size):
        raise DataError(
            f"--global-batch-size {global_batch_size} is not divisible by micro batch size "
            f"{micro_batch_size} x data-parallel size {dp_size}."
        )
    facts = facts or TokenFacts()
    settled = settle_orders(
        data,
        demand,
        sequence_length=sequence_length,
        seed=seed,
        global_batch_size=global_batch_size,
        facts=facts,
        saved=saved,
    )
    for text in settled.warnings:
        warn(text)
    for text in settled.notes:
        say(text)

    def open_split(split: int, order: Order, total: int) -> Any:
        if data.mock_data:
            return _mock_sequences(data, sequence_length, seed, split, facts)
        cache = cache_directory(data, settled.first_prefix)
        ensure_indexes(pieces_of(order, total), cache, shared=data.shared_storage)
        return OrderedSequences(
            order,
            total,
            cache,
            mmap=not data.no_mmap_bin_files,
            eod_id=settled.eod_id,
            eod_mask_loss=data.eod_mask_loss,
        )

    streams = [
        SampleStream(
            open_split(split, order, total),
            num_workers=data.num_workers,
            consumed=consumed,
            micro_batch_size=micro_batch_size,
            dp_rank=dp_rank,
            dp_size=dp_size,
            vocab_size=facts.vocab_size,
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
        orders=settled.orders,
        global_batch_size=global_batch_size,
        _open=open_split,
    )


@dataclass(frozen=True, kw_only=True)
class SettledOrders:
    """What the leading ranks have found out about the data."""

    orders: list[Order]
    notes: list[str]
    warnings: list[str]
    first_prefix: str
    """Beside which the index cache is."""
    eod_id: int | None


def settle_orders(
    data: DataSection,
    demand: Demand,
    *,
    sequence_length: int,
    seed: int,
    global_batch_size: int,
    facts: TokenFacts,
    saved: Mapping[str, Any] | None = None,
) -> SettledOrders:
    """Check and hash the files, once a node, and settle the order of each split. Collective.

    Raises DataError on every rank.
    """

    def work() -> dict[str, Any]:
        eod_id = facts.eod_id
        selected: Sequence[Any] = ([], [], [])
        if not data.mock_data:
            manifest_eod_id = check_manifests(
                data,
                vocab_size=facts.vocab_size,
                eod_id=facts.eod_id,
                fingerprint=facts.tokenizer_fingerprint,
            )
            eod_id = eod_id if eod_id is not None else manifest_eod_id
            selected = selected_parts(
                data,
                samples=demand.total,
                sequence_length=sequence_length,
                seed=seed,
                vocab_size=facts.vocab_size,
            )
        if eod_id is None and data.eod_mask_loss:
            raise DataError(
                "--eod-mask-loss needs the end-of-document id, which neither a manifest nor a "
                "tokenizer tells: give --tokenizer-name-or-path."
            )
        plan = plan_orders(
            selected,
            demand,
            saved=saved,
            global_batch_size=global_batch_size,
            new_data_order=data.new_data_order,
        )
        for order, name, total in zip(plan.orders, SPLITS, demand.total, strict=True):
            plan.warnings.extend(repeated(order.parts))
            plan.notes.extend(describe_epochs(name, order, total))
        return {
            "orders": [order.to_dict() for order in plan.orders],
            "content": [[(part.identity, part.weight) for part in o.parts] for o in plan.orders],
            "notes": plan.notes,
            "warnings": plan.warnings,
            "eod_id": eod_id,
        }

    own, answers = by_leaders(work, purpose="to check the token files", shared=False)
    compare_nodes(answers, "content", "token files")
    orders = [Order.from_dict(raw) for raw in own["orders"]]
    prefixes = [part.prefix for order in orders for part in order.parts]
    return SettledOrders(
        orders=orders,
        notes=own["notes"],
        warnings=own["warnings"],
        first_prefix=prefixes[0] if prefixes else "",
        eod_id=own["eod_id"],
    )


def cache_directory(data: DataSection, first_prefix: str) -> Path:
    """Where the sample indexes are."""
    if data.data_cache_path is not None:
        return Path(data.data_cache_path)
    return Path(first_prefix).parent / "index_cache"


def _mock_sequences(
    data: DataSection, sequence_length: int, seed: int, split: int, facts: TokenFacts
) -> MockSequences:
    assert facts.vocab_size is not None  # the model's, which every run has
    return MockSequences(
        vocab_size=facts.vocab_size,
        sequence_length=sequence_length,
        seed=seed,
        split=split,
        masked_id=facts.eod_id if data.eod_mask_loss else None,
    )
