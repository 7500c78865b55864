"""How often a run goes through each of its files, told before its first step."""

from ml_train.data.order import Order, Part

MOST_LINES = 12
"""Longer blends are told by their least and most repeated files."""


def describe_epochs(name: str, order: Order, total: int) -> list[str]:
    """A sentence per file of one split: sequences that the run takes, and epochs that they are.

    None for a split of which nothing is taken.
    """
    if not total:
        return []
    rows = sorted(
        (
            (taken * part.sequence_length / part.num_tokens, taken, part)
            for part, taken in zip(order.parts, order.roughly_taken(total), strict=True)
        ),
        key=lambda row: -row[0],
    )
    if len(rows) <= MOST_LINES:
        return [_line(name, *row) for row in rows]
    half = MOST_LINES // 2
    between = f"{name} data: {len(rows) - MOST_LINES} more files lie between these"
    ends = [_line(name, *row) for row in (*rows[:half], *rows[-half:])]
    return [*ends[:half], between, *ends[half:]]


def _line(name: str, epochs: float, taken: int, part: Part) -> str:
    an_epoch = part.num_tokens // part.sequence_length
    return (
        f"{name} data: {part.prefix}: {epochs:.2f} epochs ({taken} sequences of "
        f"{part.sequence_length} tokens, {an_epoch} an epoch)"
    )
