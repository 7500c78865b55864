"""How far each number of a model is from a reference's, in groups with a limit of their own."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

Kind = Literal["absolute", "relative"]


class Limit(NamedTuple):
    """How large a difference may be, and which of the two differences that is."""

    kind: Kind
    largest: float


LIMITS = {
    "hidden_states": Limit("absolute", 1e-4),
    "final_norm": Limit("absolute", 1e-4),
    "router_logits": Limit("absolute", 1e-4),
    "loss": Limit("relative", 1e-5),
    "grad_norm": Limit("relative", 1e-4),
    "grad": Limit("relative", 1e-4),
}
"""Of every group but the logits, whose limit the user gives."""


class GroupDifference(TypedDict):
    """The largest differences among the tensors of one group."""

    tensors: int
    absolute: float
    relative: float
    """To the reference's largest magnitude in the same tensor."""
    worst: str
    """Key of the tensor with the largest difference of the kind that is limited."""
    limit: float
    limited: Kind
    within: bool


class Comparison(TypedDict):
    """What `ml-models compare --json` prints."""

    passed: bool
    """Whether the logits are within `tolerance`. The other groups don't decide."""
    tolerance: float
    top1_agreement: float
    """Share of positions whose likeliest token is the reference's."""
    groups: dict[str, GroupDifference]
    not_compared: list[str]
    """Keys of the reference that the model gave no number for, or another number of elements."""


def report(
    measured: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: float
) -> Comparison:
    """Compare by key. `tolerance` is the limit of the logits' absolute difference.

    Keys of other prefixes, and of groups that this version does not know, are left out.
    """
    limits = {**LIMITS, "logits": Limit("absolute", tolerance)}
    groups: dict[str, GroupDifference] = {}
    not_compared = []
    for key, expected in sorted(reference.items()):
        group = key.split(".")[0]
        if group not in limits:
            continue
        if key not in measured or measured[key].numel() != expected.numel():
            not_compared.append(key)
            continue
        absolute, relative = difference(measured[key].reshape(expected.shape), expected)
        _add(groups, group, limits[group], key, {"absolute": absolute, "relative": relative})
    for entry in groups.values():
        entry["within"] = entry[entry["limited"]] <= entry["limit"]
    agree = measured["logits"].argmax(-1) == reference["logits"].argmax(-1)
    return {
        "passed": groups["logits"]["within"],
        "tolerance": tolerance,
        "top1_agreement": float(agree.float().mean()),
        "groups": groups,
        "not_compared": not_compared,
    }


def _add(
    groups: dict[str, GroupDifference],
    group: str,
    limit: Limit,
    key: str,
    differences: dict[Kind, float],
) -> None:
    """Take the differences of the tensor `key` into its group."""
    entry = groups.setdefault(
        group,
        {
            "tensors": 0,
            "absolute": 0.0,
            "relative": 0.0,
            "worst": key,
            "limit": limit.largest,
            "limited": limit.kind,
            "within": True,
        },
    )
    entry["tensors"] += 1
    if differences[limit.kind] > entry[limit.kind]:
        entry["worst"] = key
    entry["absolute"] = max(entry["absolute"], differences["absolute"])
    entry["relative"] = max(entry["relative"], differences["relative"])


def difference(measured: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest absolute difference, and the same over the largest magnitude expected.

    Both are infinite where an element is NaN or infinite.
    """
    apart = (measured.double() - expected.double()).abs().max()
    if not torch.isfinite(apart):
        return math.inf, math.inf
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(apart), float(apart / scale)
