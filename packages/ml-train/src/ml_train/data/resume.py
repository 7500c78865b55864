"""How a run goes on with its data: the orders of a checkpoint against the data of this start.

The rule: a sequence that was seen comes again only in a later epoch, unless the user accepts a
repetition. A part with the documents, split, sequence length and seed of the checkpoint goes on
where it stood; batch size, layout, weights and the other files do not matter. A start is refused
where a part that was seen is gone and another part comes, as the new part may hold the same
documents. --new-data-order accepts that, and the new part begins at its first sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from ml_train.data.order import Order, Part
from ml_train.data.request import DataRequest
from ml_train.data.selection import SPLITS
from ml_train.errors import DataError

FORMAT_VERSION = 1


class SavedData(TypedDict):
    """What a checkpoint keeps of the data, as JSON values."""

    format: int
    global_batch_size: int
    consumed_valid_samples: int
    orders: dict[str, dict[str, object]]
    """Of train and valid: Order.to_dict()."""


@dataclass(frozen=True, kw_only=True)
class OrderPlan:
    """Orders of train, valid and test, and sentences for the user about them."""

    orders: list[Order]
    notes: list[str]
    warnings: list[str]
    """What the user should look at: data that may be seen again."""


def state_of(orders: Mapping[str, Order], *, global_batch_size: int, valid: int) -> SavedData:
    """What a checkpoint keeps of the data; valid: validation sequences taken."""
    return {
        "format": FORMAT_VERSION,
        "global_batch_size": global_batch_size,
        "consumed_valid_samples": valid,
        "orders": {name: order.to_dict() for name, order in orders.items()},
    }


def orders_of(saved: Mapping[str, Any]) -> dict[str, Order]:
    """The orders that a checkpoint keeps. Raises DataError."""
    try:
        if saved["format"] > FORMAT_VERSION:
            raise DataError(
                f"The checkpoint's data order has format {saved['format']}, newer than this "
                "ml-train reads: install a newer one."
            )
        return {str(name): Order.from_dict(raw) for name, raw in saved["orders"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"The checkpoint's data order cannot be read ({type(error).__name__}: {error}): "
            "resume from another checkpoint."
        ) from error


def plan_orders(selected: Sequence[Sequence[Part]], request: DataRequest) -> OrderPlan:
    """The orders of a start. Raises DataError where a resume is refused.

    selected: parts per split, empty for a split without samples and for made-up tokens.
    """
    demand, saved = request.demand, request.saved
    if saved is None:
        # A fresh start, or a checkpoint of ml-train 1.0.
        begun = demand.begun_with or demand.total
        orders = [
            Order.start(parts, samples).reaching(total) if parts else Order()
            for parts, samples, total in zip(selected, begun, demand.total, strict=True)
        ]
        is_of_1_0 = demand.consumed[0] and selected[0]
        return OrderPlan(orders=orders, notes=[], warnings=[_OF_1_0] if is_of_1_0 else [])
    plan = OrderPlan(
        orders=[],
        notes=_of_batch_size(saved, request.global_batch_size, demand.consumed[0]),
        warnings=[],
    )
    orders_before = orders_of(saved)
    for name, parts, consumed, total in zip(
        SPLITS, selected, demand.consumed, demand.total, strict=True
    ):
        before = orders_before.get(name)
        if before is None:
            plan.orders.append(Order.start(parts, total) if parts else Order())
        elif not total:
            # No sequences of this split are wanted this time: its order is kept for a later start.
            plan.orders.append(before)
        else:
            order = continued(before, parts, consumed)
            if order.blend != before.blend:
                changes = _changes(name, before, order, consumed)
                if name == "train" and changes.refused and not request.section.new_data_order:
                    raise DataError(changes.refusal(consumed))
                (plan.warnings if changes.refused else plan.notes).extend(changes.sentences)
            longer = order.reaching(total)
            plan.notes.extend(_of_length(name, order, longer))
            plan.orders.append(longer)
    return plan


def continued(saved: Order, parts: Sequence[Part], consumed: int) -> Order:
    """The checkpoint's order where the blend is the same; else a new blend from `consumed` on.

    Parts of the checkpoint go on where they stood, others begin at their first sequence.
    """
    if Order(parts=tuple(parts)).blend == saved.blend:
        moved = zip(saved.parts, parts, strict=True)
        return replace(saved, parts=tuple(replace(old, prefix=new.prefix) for old, new in moved))
    counts = zip(saved.parts, saved.taken(consumed), strict=True)
    known = [*(replace(part, begin=count) for part, count in counts), *saved.resting]
    chosen = []
    for part in parts:
        old = next((candidate for candidate in known if candidate.identity == part.identity), None)
        if old is None:
            chosen.append(part)
        else:
            # A blend may name the same documents twice, so a known part is used up.
            known.remove(old)
            chosen.append(replace(old, prefix=part.prefix, weight=part.weight))
    resting = tuple(part for part in known if part.begin)
    return Order(begin=consumed, parts=tuple(chosen), resting=resting)


@dataclass(frozen=True, kw_only=True)
class _Changes:
    """How the blend of a split differs from the checkpoint's."""

    sentences: list[str]
    ways_back: list[str]
    """What the user can give to go on with the checkpoint's order."""
    refused: bool

    def refusal(self, consumed: int) -> str:
        return (
            f"The checkpoint has taken {consumed} sequences of an order of the data that this run "
            f"cannot go on with: {'; '.join(self.sentences)}. A new order would begin with "
            f"documents that may have been seen. Go back to {', '.join(self.ways_back)}, or "
            "accept the repetition with --new-data-order."
        )


def _changes(name: str, old: Order, new: Order, consumed: int) -> _Changes:
    kept = {part.identity for part in new.parts} & {
        part.identity for part in (*old.parts, *old.resting)
    }
    counts = zip(old.parts, old.taken(consumed), strict=True)
    removed = [part for part, count in counts if count and part.identity not in kept]
    added = [part for part in new.parts if part.identity not in kept]
    split = "" if name == "train" else f"{name} data: "
    if removed and added:
        return _replaced(split, removed, added)
    sentences = [f"{split}{part.prefix} is left out from now on" for part in removed]
    sentences += [f"{split}{part.prefix} is new and begins at its first sequence" for part in added]
    sentences.append(
        f"{split}the blend changes after {consumed} sequences; each file goes on with "
        "sequences that were not seen yet"
    )
    return _Changes(sentences=sentences, ways_back=[], refused=False)


def _replaced(split: str, removed: Sequence[Part], added: Sequence[Part]) -> _Changes:
    """Parts in place of parts that were seen: they may hold the same documents."""
    sentences, ways_back = [], []
    for flag, field in (("--seed", "seed"), ("--seq-length", "sequence_length")):
        then, now = getattr(removed[0], field), getattr(added[0], field)
        if then != now:
            sentences.append(f"{split}{flag} is {now} and was {then}")
            ways_back.append(f"{flag} {then}")
    for part in added:
        sentence, way_back = _of_documents(part, removed)
        if sentence:
            sentences.append(split + sentence)
            ways_back.append(way_back)
    return _Changes(
        sentences=list(dict.fromkeys(sentences)),
        ways_back=list(dict.fromkeys(ways_back)),
        refused=True,
    )


def _of_documents(part: Part, removed: Sequence[Part]) -> tuple[str, str]:
    """(how an added part's documents differ from the removed parts', the way back)."""
    content = (part.idx_sha256, part.bin_sha256)
    same_files = [old for old in removed if (old.idx_sha256, old.bin_sha256) == content]
    if any((old.first, old.end) == (part.first, part.end) for old in same_files):
        return "", ""
    if same_files:
        old = same_files[0]
        return (
            f"--split takes the documents {part.first} to {part.end - 1} of {part.prefix} and "
            f"took {old.first} to {old.end - 1}",
            "the --split that was given then",
        )
    same_path = next((old for old in removed if old.prefix == part.prefix), None)
    if same_path is not None:
        return (
            f"the data of {part.prefix} has changed: it had {same_path.num_tokens} tokens for this "
            f"split and has {part.num_tokens}, with other content",
            f"the files that were at {part.prefix} then",
        )
    names = ", ".join(dict.fromkeys(old.prefix for old in removed))
    return (f"the data is {part.prefix} in place of {names}", names)


_OF_1_0 = (
    "the checkpoint is of ml-train 1.0, which kept no order of its data: this run takes it to be "
    "that of the present data, split, sequence length, seed and --train-iters"
)


def _of_batch_size(saved: Mapping[str, Any], now: int, consumed: int) -> list[str]:
    then = saved.get("global_batch_size", now)
    if then == now:
        return []
    return [
        f"the global batch size is {now} and was {then}: the data goes on after {consumed} "
        "sequences"
    ]


def _of_length(name: str, before: Order, after: Order) -> list[str]:
    return [
        f"{name} data: the run is longer than at its start; after {old.covered} sequences "
        f"of {old.prefix}, which are whole epochs, its documents follow in another order"
        for old, new in zip(before.parts, after.parts, strict=True)
        if old.legs and len(new.legs) > len(old.legs)
    ]
