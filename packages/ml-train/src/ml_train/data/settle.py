"""What the leading ranks find out about the data before anything is opened: files and orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ml_train.data.epochs import describe_epochs
from ml_train.data.leaders import by_leaders, compare_nodes
from ml_train.data.manifest import check_manifests
from ml_train.data.order import Order, Part
from ml_train.data.request import DataRequest
from ml_train.data.resume import plan_orders
from ml_train.data.selection import SPLITS, repeated, selected_parts
from ml_train.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SettledOrders:
    """What the leading ranks have found out about the data."""

    orders: list[Order]
    """Of train, valid and test."""
    notes: list[str]
    warnings: list[str]
    first_prefix: str
    """Beside which the index cache is."""
    eod_id: int | None


class _Findings(TypedDict):
    """The answer of a leading rank; JSON values."""

    orders: list[dict[str, Any]]
    content: list[list[tuple[object, ...]]]
    notes: list[str]
    warnings: list[str]
    eod_id: int | None


def settle_orders(request: DataRequest) -> SettledOrders:
    """Check and hash the files, once a node, and settle the order of each split. Collective.

    Raises DataError on every rank.
    """
    findings, answers = by_leaders(
        lambda: _find_out(request), purpose="to check the token files", shared=False
    )
    compare_nodes(answers, lambda findings: findings["content"], "token files")
    orders = [Order.from_dict(raw) for raw in findings["orders"]]
    prefixes = [part.prefix for order in orders for part in order.parts]
    return SettledOrders(
        orders=orders,
        notes=findings["notes"],
        warnings=findings["warnings"],
        first_prefix=prefixes[0] if prefixes else "",
        eod_id=findings["eod_id"],
    )


def _find_out(request: DataRequest) -> _Findings:
    eod_id = request.expected.eod_id
    selected: Sequence[Sequence[Part]] = ([], [], [])
    if not request.section.mock_data:
        manifest_eod_id = check_manifests(request.section, request.expected)
        eod_id = eod_id if eod_id is not None else manifest_eod_id
        selected = selected_parts(request)
    if eod_id is None and request.section.eod_mask_loss:
        raise DataError(
            "--eod-mask-loss needs the end-of-document id, which neither a manifest nor a "
            "tokenizer tells: give --tokenizer-name-or-path."
        )
    plan = plan_orders(selected, request)
    for order, name, total in zip(plan.orders, SPLITS, request.demand.total, strict=True):
        plan.warnings.extend(repeated(order.parts))
        plan.notes.extend(describe_epochs(name, order, total))
    return {
        "orders": [order.to_dict() for order in plan.orders],
        # The prefixes may differ between nodes; what the files hold may not.
        "content": [[(part.identity, part.weight) for part in o.parts] for o in plan.orders],
        "notes": plan.notes,
        "warnings": plan.warnings,
        "eod_id": eod_id,
    }
