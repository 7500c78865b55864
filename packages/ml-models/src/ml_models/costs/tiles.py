"""How much of a device's rate of products is lost to the start and the end of tiles; no torch."""

TILE_OVERHEAD = 128
"""Terms of a sum that could be added while a tile starts and ends."""


def start_share(inner: float, tile_overhead: float = TILE_OVERHEAD) -> float:
    """Share of the time in which a product with sums of `inner` terms multiplies."""
    return inner / (inner + tile_overhead)
