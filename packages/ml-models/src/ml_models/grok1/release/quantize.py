"""Matrices as xAI stores them: int8 with a bfloat16 scale per output column of a group of rows.

A number that is an int8 times a bfloat16 must come back exactly, so that released weights survive a
round trip. The scale of such a column is unknown, but its largest magnitude is m * scale for some
integer m, and this product is exact in fp32. The scales max|w| / m for m = 127, 126, .. 1 are tried
in turn until a scale gives every number exactly. m = 128 comes last, as only -128 has it.
Most columns of trained weights are sorted out before: their largest number needs more bits than an
int8 times a bfloat16 has, or their smallest number lies below max|w| / 128.

Every other column gets the bfloat16 nearest to max|w| / 127. No element is then off by more than
half a scale, as max|w| / scale <= 127 * (1 + 2^-8) < 127.5. Measured on normal weights, 64 to 4096
in a column: always rounding the scale up, or always down, changes the root mean square error by
less than 1 % and makes the largest error larger.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127
# An int8 has 7 bits beside its sign and a bfloat16 has 8, so that their product has 15 at most. An
# fp32 has 24: the lowest 9 are zero in every product.
UNUSED_BITS = 0x1FF
# Columns that are compared first. They tell nearly all scales that do not fit, at a fraction of the
# cost of a whole row.
PROBE = 32
ZERO_SCALE = 1.0  # of a row of zeros, so that nothing is divided by 0


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
    # Near the smallest numbers the nearest bfloat16 may be far too small. The bits of a positive
    # bfloat16 plus 1 are those of the next larger one.
    short = largest / scales.float() > LARGEST + 0.5
    above = (scales.view(torch.int16) + 1).view(torch.bfloat16)
    scales = torch.where(short, above, scales)
    return torch.where(largest == 0, ZERO_SCALE, scales.float())


def find_exact_scales(weights: Tensor, largest: Tensor, rows: Tensor, scales: Tensor) -> None:
    """Put a scale that gives every number of a row exactly into `scales`, where there is one."""
    for integer in range(LARGEST, 0, -1):
        if not len(rows):
            return
        # A candidate must be a bfloat16, and give the largest number back without rounding.
        candidate = (largest[rows] / integer).bfloat16().float()
        fits = (candidate * integer == largest[rows]) & (candidate > 0)
        chosen = fits.nonzero().squeeze(1)
        if not len(chosen):
            continue
        tried = rows[chosen]
        exact = _fits_by_probe(weights, tried, candidate[chosen])
        scales[tried[exact]] = candidate[chosen[exact]]
        fits[chosen] = exact
        rows = rows[~fits]
    if len(rows):
        _find_lowest(weights, largest, rows, scales)


def _find_lowest(weights: Tensor, largest: Tensor, rows: Tensor, scales: Tensor) -> None:
    """Try -128, the only integer of an int8 without an opposite.

    Where the largest magnitude is that of a positive number, the scale is negative.
    """
    below = weights[rows].amin(1) == -largest[rows]
    exact_candidate = largest[rows] / (LARGEST + 1)
    candidate = exact_candidate.bfloat16().float()
    signed = torch.where(below, candidate, -candidate)
    fits = (candidate == exact_candidate) & (candidate > 0)
    exact = fits & _fits(weights, rows, torch.where(fits, signed, ZERO_SCALE))
    scales[rows[exact]] = signed[exact]


def _fits_by_probe(weights: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
    """As `_fits`; rows that fail in the first columns are not compared further."""
    good = _fits(weights[:, :PROBE], rows, scales)
    left = good.nonzero().squeeze(1)
    if len(left):
        good[left] = _fits(weights, rows[left], scales[left])
    return good


def _fits(weights: Tensor, rows: Tensor, scales: Tensor) -> Tensor:
    """Per row, whether integers of an int8 times the scale are its numbers exactly."""
    values = weights if len(rows) == len(weights) else weights[rows]
    integers = _integers(values, scales)
    return integers.mul_(scales.unsqueeze(1)).eq_(values).bool().all(1)


def _integers(weights: Tensor, scales: Tensor) -> Tensor:
    return (weights / scales.unsqueeze(1)).round_().clamp_(-LARGEST - 1, LARGEST)


def _round(values: Tensor, weights: Tensor, scales: Tensor) -> Quantized:
    integers = _integers(weights, scales)
    stored = integers.to(torch.int8)
    # The error of float64 values is taken before they were rounded to fp32.
    exact = values if values.dtype == torch.float64 else weights
    error = integers.mul_(scales.unsqueeze(1)).to(exact.dtype).sub_(exact).abs_()
    return Quantized(stored, scales.bfloat16(), int(error.count_nonzero()), float(error.max()))
