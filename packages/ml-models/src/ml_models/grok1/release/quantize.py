"""Matrices as xAI stores them: int8 with one bfloat16 scale per output column of a group of rows.

Numbers that are an int8 times a bfloat16 come back exactly. If m is the largest integer of such a
column, max|w| = m * scale is exact in fp32, so one of the scales max|w| / m for m = 127, 126, .. 1
fits every row (or one for -128, tried last). Columns of trained weights drop out before that:
their largest number has too many bits, or the smallest lies below max|w| / 128.

All others get the bfloat16 nearest to max|w| / 127: no element is off by more than half a scale, as
max|w| / scale <= 127 * (1 + 2^-8) < 127.5. Measured on normal weights, 64 to 4096 in a column:
always rounding the scale up, or always down, changes the root mean square error by less than 1 %
and makes the largest error larger.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127
UNUSED_BITS = 0x1FF  # of an fp32 mantissa, when the value is an 8-bit integer times a bfloat16
PROBE = 32  # columns
ZERO_SCALE = 1.0  # of a column without a number other than 0: nothing is ever divided by 0


@dataclass(frozen=True)
class Quantized:
    """Rows of `integers` times `scales` are the rows that were given, up to `largest_error`."""

    integers: Tensor
    """int8 [N, K]."""
    scales: Tensor
    """bfloat16 [N]."""
    num_inexact: int
    largest_error: float


def quantize_rows(values: Tensor) -> Quantized:
    """Each row of `values` [N, K] (finite, any float dtype) with a scale of its own."""
    weights = values.float()
    magnitude = weights.abs()
    largest = magnitude.amax(1)
    scales = nearest_scales(largest)
    possible = (largest > 0) & ((largest.view(torch.int32) & UNUSED_BITS) == 0)
    rows = possible.nonzero().squeeze(1)
    if len(rows):
        magnitude = magnitude[rows]
        smallest = magnitude.masked_fill_(magnitude == 0, torch.inf).amin(1)
        rows = rows[smallest * (LARGEST + 1) >= largest[rows]]
    del magnitude
    if len(rows):
        find_exact_scales(weights, largest, rows, scales)
    return _round(values, weights, scales)


def nearest_scales(largest: Tensor) -> Tensor:
    """fp32 [N] that are bfloat16 numbers: max|w| / 127, and half a scale is never exceeded."""
    scales = (largest / LARGEST).bfloat16()
    short = largest / scales.float() > LARGEST + 0.5  # near the smallest number that there is
    above = (scales.view(torch.int16) + 1).view(torch.bfloat16)
    scales = torch.where(short, above, scales)
    return torch.where(largest == 0, ZERO_SCALE, scales.float())


def find_exact_scales(weights: Tensor, largest: Tensor, rows: Tensor, scales: Tensor) -> None:
    """Put a scale that gives every number of a row exactly into `scales`, where there is one."""
    for integer in range(LARGEST, 0, -1):
        if not len(rows):
            return
        candidate = (largest[rows] / integer).bfloat16().float()
        fits = (candidate * integer == largest[rows]) & (candidate > 0)
        chosen = fits.nonzero().squeeze(1)
        if not len(chosen):
            continue
        tried = rows[chosen]
        exact = _probe_and_give(weights, tried, candidate[chosen])
        scales[tried[exact]] = candidate[chosen[exact]]
        fits[chosen] = exact
        rows = rows[~fits]
    if len(rows):
        _find_lowest(weights, largest, rows, scales)


def _find_lowest(weights: Tensor, largest: Tensor, rows: Tensor, scales: Tensor) -> None:
    """The one integer of an int8 that has no opposite: -128, with a scale of the fitting sign."""
    below = weights[rows].amin(1) == -largest[rows]
    exact_candidate = largest[rows] / (LARGEST + 1)
    candidate = exact_candidate.bfloat16().float()
    signed = torch.where(below, candidate, -candidate)
    fits = (candidate == exact_candidate) & (candidate > 0)
    exact = fits & _gives(weights, rows, torch.where(fits, signed, ZERO_SCALE))
    scales[rows[exact]] = signed[exact]


def _probe_and_give(weights: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
    """As `_gives`, a few columns first: of weights that bfloat16 rounded no more are looked at."""
    good = _gives(weights[:, :PROBE], rows, scales)
    left = good.nonzero().squeeze(1)
    if len(left):
        good[left] = _gives(weights, rows[left], scales[left])
    return good


def _gives(weights: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
    """Per row: whether integers of an int8 times the scale are its numbers; 15 bits are exact."""
    wanted = weights if len(rows) == len(weights) else weights[rows]
    integers = _integers(wanted, scales)
    return integers.mul_(scales.unsqueeze(1)).eq_(wanted).bool().all(1)


def _integers(weights: Tensor, scales: Tensor) -> Tensor:
    return (weights / scales.unsqueeze(1)).round_().clamp_(-LARGEST - 1, LARGEST)


def _round(values: Tensor, weights: Tensor, scales: Tensor) -> Quantized:
    integers = _integers(weights, scales)
    stored = integers.to(torch.int8)
    given = values if values.dtype == torch.float64 else weights
    error = integers.mul_(scales.unsqueeze(1)).to(given.dtype).sub_(given).abs_()
    return Quantized(stored, scales.bfloat16(), int(error.count_nonzero()), float(error.max()))
