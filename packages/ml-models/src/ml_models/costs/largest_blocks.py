"""Attention in blocks without most of its blocks, where only memory and FLOPs are counted.

A later block looks at more keys, so the last blocks need the most memory. All blocks of a long
sequence take minutes in a model of many layers.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ml_models.costs.stand_in_kernel import Launches
from ml_models.platforms.patch import Patch

KEPT = 3
"""Blocks that run. The last may be shorter than the others. The one before it is then the largest,
and starts while the memory of the one before that is still there."""

FORWARD_PRODUCTS = 2
BACKWARD_PRODUCTS = 5
"""Matrix products per block: the backward pass computes scores again, and four gradients."""

Blocks = Callable[[Tensor, Tensor], Iterator[tuple[int, int, Tensor]]]


def largest_blocks(launches: Launches) -> tuple[Patch, ...]:
    """Rows by which the last blocks run and the FLOPs of the others are reported."""
    module = "ml_models.kernels.attention.blocked"
    left_out = _LeftOut(launches)
    reason = "the last blocks decide the memory, and all of them take long"
    return (
        Patch(target=f"{module}:_blocks", make=left_out.blocks, reason=reason),
        Patch(
            target=f"{module}:_BlockedAttention.forward",
            make=lambda original: left_out.counted(original, FORWARD_PRODUCTS),
            reason=reason,
        ),
        Patch(
            target=f"{module}:_BlockedAttention.backward",
            make=lambda original: left_out.counted(original, BACKWARD_PRODUCTS),
            reason=reason,
        ),
    )


class _LeftOut:
    """Remembers the blocks that a pass left out, for the report at its end."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self._scores = 0

    def blocks(self, original: Blocks) -> Blocks:
        """The last blocks of `original`."""

        def last_blocks(query: Tensor, key: Tensor) -> Iterator[tuple[int, int, Tensor]]:
            blocks = list(original(query, key))
            groups, repeat = query.shape[0], query.shape[1] // key.shape[1]
            self._scores = sum(
                groups * repeat * (high - low) * high for low, high, _ in blocks[:-KEPT]
            )
            yield from blocks[-KEPT:]

        return last_blocks

    def counted(self, original: Any, products: int) -> object:
        """A pass of _BlockedAttention, which reports `products` per score that was left out."""

        def passed(ctx: Any, *args: Any) -> Any:
            self._scores = 0
            result = original.__func__(ctx, *args)
            query = args[0] if products == FORWARD_PRODUCTS else ctx.saved_tensors[0]
            flops = 2 * products * self._scores * query.shape[-1]
            if flops:
                self._launches.record("blocks", "attention", query.dtype, 0, flops=flops)
            return result

        return staticmethod(passed)
