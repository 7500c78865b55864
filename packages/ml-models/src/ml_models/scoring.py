"""The rule by which a model makes a score from a query and a key; every form of attention takes it.

score = scale * (query . key), then cap * tanh(score / cap), then the temperature of the query's
position, then the causal mask, then the softmax.
This module does not import torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scoring:
    """What attention does with q.k before the softmax."""

    scale: float
    """Multiplies q.k, before the cap."""
    cap: float | None = None
    """Scores become cap * tanh(score / cap) before the mask; None: they stay as they are."""
    temperature_length: int | None = None
    """At query positions p above n, counted from 0, scores are multiplied by log2(p) / log2(n),
    after the cap and before the mask; None: never."""
