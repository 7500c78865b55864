"""The tensors among the arguments of an operator, or in its result.

torch's tree_leaves handles every kind of container and takes longer than many operators on the
meta device. Operators have tensors, and lists, tuples and dictionaries of them.
"""

from collections.abc import Iterator

from torch import Tensor


def tensors_in(item: object) -> Iterator[Tensor]:
    """All tensors in `item`, in order."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, list | tuple):
        for part in item:
            if isinstance(part, Tensor):
                yield part
            elif isinstance(part, list | tuple):
                yield from tensors_in(part)
    elif isinstance(item, dict):
        yield from tensors_in(list(item.values()))
