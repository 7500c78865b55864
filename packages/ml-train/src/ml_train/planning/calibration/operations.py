"""Which measured operation stands for an operation of a step.

Operations that are no matrix product are bound by the bytes that they move, at a rate that depends
on their kind: an operation in place finds its result's memory in use already, a function such as
GELU computes for longer than it moves, a reduction writes little, and picked rows are scattered.
"""

KINDS = ("in_place", "new_result", "function", "reduction", "rows")
"""The kinds that are measured, see computing.py."""

_FUNCTIONS = (
    "gelu",
    "tanh",
    "exp",
    "log",
    "sigmoid",
    "softmax",
    "silu",
    "erf",
    "pow",
    "sin",
    "cos",
)
_REDUCTIONS = ("sum", "mean", "max", "min", "amax", "amin", "norm", "argmax", "topk", "sort")
_ROWS = ("index", "gather", "scatter", "embedding", "masked_select")


def kind_of(name: str) -> str:
    """A value of KINDS for an operator of torch, such as gelu_backward."""
    bare = name.strip("_")
    if bare.startswith(_ROWS):
        return "rows"
    words = bare.split("_")
    if any(word in _FUNCTIONS for word in words):
        return "function"
    if any(word in _REDUCTIONS for word in words):
        return "reduction"
    return "in_place" if name.endswith("_") else "new_result"
