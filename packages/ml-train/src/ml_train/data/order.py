"""The order in which a run takes its sequences: plain data that a checkpoint keeps.

    Order   all sequences of one split: a blend of parts, from a position of the run on
    Part    the sequences of one token file, in the order of its legs
    Leg     megatron-core's shuffled order for a number of sequences and a seed

megatron-core shuffles all epochs of a run together, so the order of a longer run differs from the
first sequence on. Here a run keeps the order that it began with, and a longer run appends to it:
every leg goes to the end of its last epoch, and the next leg has a seed of its own. A run that
keeps its length has exactly megatron-core's order. A leg loses at most sequence_length tokens at
its end, as megatron-core loses them at the end of a run.

megatron-core's rule chooses the next part of a blend by the weights and by what was taken so far.
Each part counts its own sequences, so a changed blend goes on with unseen sequences.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml_train.data.blend import blend_index

_SURPLUS = 0.005
"""megatron-core's mid_level_dataset_surplus: what it builds of a part in excess of its share."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """What megatron-core is asked for; both numbers decide its order."""

    samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Sequences of one token file: documents first to end - 1, cut by the sequence length."""

    prefix: str
    """Where the file is now; the identity does not depend on it."""
    weight: float
    """Share in the blend; 1 for a file alone."""
    idx_sha256: str
    bin_sha256: str
    first: int
    end: int
    """In sequences of the .idx, which megatron-core counts as documents."""
    num_tokens: int
    """Of these documents."""
    sequence_length: int
    seed: int
    begin: int = 0
    """Sequences that were taken of it before the present blend began."""
    legs: tuple[Leg, ...] = ()

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two parts whose sequences are the same, in the same order."""
        documents = (self.idx_sha256, self.bin_sha256, self.first, self.end)
        return (*documents, self.sequence_length, self.seed)

    def num_epochs(self, samples: int) -> int:
        """Whole epochs that megatron-core lays out for this many sequences."""
        return max(1, -(-(samples * self.sequence_length + 1) // self.num_tokens))

    def length(self, leg: Leg) -> int:
        """Sequences in the whole epochs of a leg."""
        return (self.num_epochs(leg.samples) * self.num_tokens - 1) // self.sequence_length

    @property
    def covered(self) -> int:
        """Sequences in all its legs."""
        return sum(self.length(leg) for leg in self.legs)

    def reaching(self, samples: int) -> "Part":
        """The same part, with a further leg where its legs hold fewer than `samples` sequences."""
        missing = samples - self.covered
        if missing <= 0:
            return self
        seed = self.seed if not self.legs else _seed_of_leg(self.seed, len(self.legs))
        return replace(self, legs=(*self.legs, Leg(samples=missing, seed=seed)))


@dataclass(frozen=True, kw_only=True)
class Order:
    """The sequences of one split, from the position `begin` of the run on."""

    begin: int = 0
    parts: tuple[Part, ...] = ()
    """Empty for made-up tokens."""
    resting: tuple[Part, ...] = ()
    """Parts that were left out of the blend; they go on where they stood if they come back."""

    @staticmethod
    def start(parts: Sequence[Part], samples: int) -> "Order":
        """megatron-core's order of a run that takes this many sequences."""
        if len(parts) == 1:
            return Order(parts=(parts[0].reaching(samples),))
        shares = _normalized(parts)
        return Order(
            parts=tuple(
                part.reaching(math.ceil(math.ceil(samples * share) * (1 + _SURPLUS)))
                for part, share in zip(parts, shares, strict=True)
            )
        ).reaching(samples)

    def reaching(self, total: int) -> "Order":
        """The same order, with further legs where a run of `total` sequences needs them."""
        missing = total - self.begin
        if missing <= 0 or not self.parts:
            return self
        # megatron-core's rule takes of the part that lacks most, so a part exceeds its share by at
        # most 1. Where that bound is covered, the blend need not be computed.
        bounds = [math.ceil(missing * share) + 1 for share in _normalized(self.parts)]
        if len(self.parts) == 1:
            counts: Sequence[int] = [missing]
        elif all(p.covered >= p.begin + n for p, n in zip(self.parts, bounds, strict=True)):
            return self
        else:
            counts = self._counts(missing)
        needed = zip(self.parts, counts, strict=True)
        return replace(self, parts=tuple(p.reaching(p.begin + count) for p, count in needed))

    def taken(self, consumed: int) -> list[int]:
        """Sequences of each part among the first `consumed` of the run."""
        counts = self._counts(max(consumed - self.begin, 0))
        return [part.begin + count for part, count in zip(self.parts, counts, strict=True)]

    def roughly_taken(self, total: int) -> list[int]:
        """As taken(), by the shares of the blend, without walking through it."""
        count = max(total - self.begin, 0)
        shares = _normalized(self.parts)
        return [p.begin + round(count * share) for p, share in zip(self.parts, shares, strict=True)]

    def _counts(self, samples: int) -> list[int]:
        if len(self.parts) < 2:
            return [samples] * len(self.parts)
        part_numbers, _ = blend_index(self.weights, samples)
        return [int(count) for count in np.bincount(part_numbers, minlength=len(self.parts))]

    @property
    def weights(self) -> tuple[float, ...]:
        """As the parts have them, not normalized."""
        return tuple(part.weight for part in self.parts)

    @property
    def blend(self) -> tuple[object, ...]:
        """Equal for two orders that blend the same parts alike."""
        shares = _normalized(self.parts)
        return tuple((p.identity, share) for p, share in zip(self.parts, shares, strict=True))

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> "Order":
        """The inverse of to_dict, also after JSON. Raises KeyError or TypeError."""
        return Order(
            begin=int(raw["begin"]),
            parts=tuple(_part(part) for part in raw["parts"]),
            resting=tuple(_part(part) for part in raw["resting"]),
        )


def _normalized(parts: Sequence[Part]) -> list[float]:
    weights = np.array([part.weight for part in parts], dtype=np.float64)
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


def _part(raw: Mapping[str, Any]) -> Part:
    legs = tuple(Leg(**leg) for leg in raw["legs"])
    return Part(**{**raw, "legs": legs})


def _seed_of_leg(seed: int, number: int) -> int:
    """A seed of 32 bits, the most that numpy's RandomState takes."""
    digest = hashlib.sha256(f"leg {number} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
