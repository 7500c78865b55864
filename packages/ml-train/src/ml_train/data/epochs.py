"""How often a run goes through each of its files, as sentences for its start."""

from ml_train.data.order import Order, Part

MOST_LINES = 12
"""Of longer blends only the least and the most repeated files are named."""


def describe_epochs(name: str, order: Order, total: int) -> list[str]:
    """A sentence per file of a split: how many sequences the run takes, and how many epochs.

    Empty for a split of which nothing is taken.
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
    per_epoch = part.num_tokens // part.sequence_length
    return (
        f"{name} data: {part.prefix}: {epochs:.2f} epochs ({taken} sequences of "
        f"{part.sequence_length} tokens, {per_epoch} an epoch)"
    )
