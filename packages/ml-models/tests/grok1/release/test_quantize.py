"""int8 with bfloat16 scales: exact where that is possible."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ml_models.grok1.release.quantize import quantize_rows

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 40))
# Positive finite bfloat16 numbers times 128 that stay finite in fp32.
SCALE_BITS = st.integers(1, 0x7F7F - (7 << 7))


def restored(quantized) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return quantized.integers.double() * quantized.scales.double().unsqueeze(1)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_int8_times_bfloat16_comes_back_exactly(data: st.DataObject) -> None:
    rows, columns = data.draw(SIZES)
    integers = data.draw(arrays.arrays(np.int8, (rows, columns)))
    bits = data.draw(st.lists(SCALE_BITS, min_size=rows, max_size=rows))
    signs = data.draw(st.lists(st.sampled_from([0, 0x8000]), min_size=rows, max_size=rows))
    pattern = np.array([a | b for a, b in zip(bits, signs, strict=True)], dtype=np.uint16)
    scales = torch.from_numpy(pattern.view(np.int16)).view(torch.bfloat16).float()
    values = torch.from_numpy(integers).float() * scales.unsqueeze(1)
    quantized = quantize_rows(values)
    assert torch.equal(restored(quantized), values.double())
    assert quantized.num_inexact == 0 and quantized.largest_error == 0.0
    full = np.abs(integers.astype(int)).max(1) == 127
    if (integers.astype(int) != -128).all():
        assert torch.equal(quantized.scales.float()[full], scales.abs()[full])


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        SIZES,
        elements=st.floats(-(2.0**120), 2.0**120, width=32) | st.floats(-1, 1, width=32),
    )
)
def test_no_number_is_off_by_more_than_half_a_scale(values: np.ndarray) -> None:
    weights = torch.from_numpy(values)
    quantized = quantize_rows(weights)
    error = (restored(quantized) - weights.double()).abs()
    assert (error <= quantized.scales.double().abs().unsqueeze(1) / 2).all()
    assert quantized.num_inexact == int(error.count_nonzero())
    assert quantized.largest_error == error.max()


def test_columns_of_zeros_and_the_lowest_integer() -> None:
    values = torch.tensor([[0.0, -0.0], [-384.0, 3.0], [384.0, 3.0], [-384.0, 381.0]])
    quantized = quantize_rows(values)
    assert quantized.scales.tolist()[0] == 1.0 and not quantized.integers[0].any()
    assert quantized.scales.tolist()[1:] == [3.0, -3.0, 3.0]
    assert quantized.integers.tolist()[1:] == [[-128, 1], [-128, -1], [-128, 127]]
    assert quantized.num_inexact == 0
