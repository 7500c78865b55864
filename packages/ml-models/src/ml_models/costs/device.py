"""Seconds of a kernel on a stated device, and the highest share of its peak that a step can reach.

A kernel takes the longest of three times: the least that any kernel takes, its bytes at the
device's bandwidth, and its FLOPs at the rate of its kind. The step is the sum over its kernels:
kernels wait for each other, and collectives for all of them. A real step is slower, never faster,
as long as the figures of the device hold.

The rate of a matrix product falls for small ones. A device computes a product in tiles, a tile per
multiprocessor at a time; the last round of tiles leaves multiprocessors idle, and each tile has a
start and an end during which nothing is multiplied:

    rate = large_product_rate * tiles / (multiprocessors * rounds) * inner / (inner + tile_overhead)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import torch

from ml_models.costs.operations import Shape
from ml_models.costs.recorder import Kernel
from ml_models.costs.tiles import TILE_OVERHEAD, start_share


@dataclass(frozen=True, kw_only=True)
class Device:
    """Figures of a device. FLOP rates are per second."""

    name: str
    peak_flops: float
    """Dense bf16 peak of the data sheet."""
    large_product_rate: float
    """Reached in large bf16 matrix products."""
    float32_rate: float
    """Reached in fp32 matrix products without TF32."""
    attention_rate: dict[str, float]
    """Of a fused attention kernel by its name and "backward", causal half counted once."""
    bytes_per_second: float
    """Read and written, as a large copy does."""
    link_bytes_per_second: float
    """Of a collective, per device and direction."""
    seconds_per_kernel: float
    """The least that a kernel takes, its launch included."""
    multiprocessors: int
    sources: dict[str, str]
    """Field, or name of an attention kernel, to where its figure comes from."""
    tile_rows: int = 128
    tile_columns: int = 256
    tile_overhead: int = TILE_OVERHEAD

    def product_rate(self, shape: Shape) -> float:
        """FLOPs per second of a matrix product."""
        if shape.dtype == torch.float32:
            return self.float32_rate
        tiles = shape.batch * ceil(shape.rows / self.tile_rows)
        tiles *= ceil(shape.columns / self.tile_columns)
        full = tiles / (ceil(tiles / self.multiprocessors) * self.multiprocessors)
        return self.large_product_rate * full * start_share(shape.inner, self.tile_overhead)

    def seconds(self, kernel: Kernel) -> float:
        """The least time of a kernel."""
        if kernel.kind == "communication":
            return max(kernel.moved_bytes / self.link_bytes_per_second, self.seconds_per_kernel)
        moving = kernel.moved_bytes / self.bytes_per_second
        computing = 0.0
        if kernel.kind == "attention":
            computing = kernel.flops / self.attention_rate[kernel.name]
        elif kernel.shape is not None:
            computing = kernel.flops / self.product_rate(kernel.shape)
        return max(moving, computing, self.seconds_per_kernel)

    def bound(self, kernels: Iterable[Kernel], needed_flops: float) -> float:
        """The largest share of peak_flops at which `needed_flops` are computed by these kernels."""
        return needed_flops / (self.peak_flops * sum(map(self.seconds, kernels)))


H100 = Device(
    name="H100 SXM as measured with torch 2.11",
    peak_flops=989e12,
    large_product_rate=790e12,
    # Data sheet: 67 TFLOP/s without tensor cores, of which products reach about two thirds.
    float32_rate=45e12,
    # TFLOP/s for heads of 128 and sequences of 8,192. The paper has FlashAttention-2 at 333 forward
    # with a causal mask, and at 318 backward without one. A cap and flex_attention's own code cost
    # more, by an amount that no public figure was found for.
    attention_rate={
        "flash_attn": 333e12,
        "flash_attn backward": 280e12,
        "sdpa": 333e12,
        "sdpa backward": 280e12,
        "flex_attention": 300e12,
        "flex_attention backward": 200e12,
    },
    bytes_per_second=3.0e12,
    # NVLink carries 450 GB/s each way by the data sheet, of which NCCL's protocol leaves 370. The
    # messages of a layer are 25 to 300 MB, a little short of what reaches that.
    link_bytes_per_second=350e9,
    seconds_per_kernel=3e-6,
    multiprocessors=132,
    sources={
        "large_product_rate": "measured on an H100 with torch 2.11",
        "bytes_per_second": "measured on an H100 with torch 2.11",
        "seconds_per_kernel": "measured on an H100 with torch 2.11",
        "float32_rate": "two thirds of the data sheet's 67 TFLOP/s; an assumption",
        "flash_attn": "FlashAttention-3 paper (arXiv 2407.08608, figure 5): FlashAttention-2 "
        "reaches 333 at 8,192 tokens, causal, heads of 128",
        "flash_attn backward": "the same paper, figure 6: 318 without a causal mask; less is taken",
        "sdpa": "torch's kernel is FlashAttention-2; as flash_attn",
        "sdpa backward": "as flash_attn backward",
        "flex_attention": "no figure with a cap is public; below the 369 of Triton's kernel in the "
        "same figure 5",
        "flex_attention backward": "no figure with a cap is public; an assumption",
        "link_bytes_per_second": "NCCL's authors name 370 GB/s on NVLink 4 "
        "(github.com/NVIDIA/nccl-tests/issues/212); less is taken",
    },
)

DEVICES: dict[str, Device] = {"h100": H100}
"""By the name that a command line gives."""
