"""Initial weights that depend on (seed, parameter name, index) alone, never on the layout.

A parameter of more than one dimension is cut into its last two dimensions' matrices, a matrix into
blocks of whole rows, about BLOCK_ELEMENTS each; a block is drawn from a Philox generator keyed
with a hash of (seed, name, matrix, block). A rank draws the blocks that overlap its part and
keeps what is its own: with TP on a row's length each rank draws the row whole. Drawing takes
about 8 ns per element and thread; large parameters use several threads.

Normal(0, init_method_std) everywhere, divided by sqrt(2 * num_layers) for the two projections
that end in the residual stream (linear_proj, linear_fc2), as Megatron does by default; norms are
ones and padded vocabulary rows zeros. xAI published no initial values (its parameters start at 0).
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig

BLOCK_ELEMENTS = 1 << 17
VOCABULARY_PARAMETERS = ("embedding.word_embeddings.weight", "output_layer.weight")
RESIDUAL_PROJECTIONS = ("self_attention.linear_proj.weight", "linear_fc2.weight")


@torch.no_grad()
def initialize_weights(
    model: "GPTModel", config: "TransformerConfig", *, seed: int, vocab_size: int
) -> None:
    """Fill every parameter of this rank's `model`."""
    from megatron.core.dist_checkpointing import ShardedTensor

    for shard in model.sharded_state_dict(metadata={"non_homogeneous_layers": True}).values():
        if not isinstance(shard, ShardedTensor) or shard.data is None:
            continue
        # A tensor on torch's meta device has a shape and no values: planning builds such models.
        if shard.data.is_meta:
            continue
        if len(shard.global_shape) == 1:
            shard.data.fill_(1.0)
            continue
        std = config.init_method_std
        if shard.key.endswith(RESIDUAL_PROJECTIONS):
            std /= sqrt(2 * config.num_layers)
        fill_normal(shard.data, shard.key, seed, std, shard.global_shape, shard.global_offset)
        if shard.key.endswith(VOCABULARY_PARAMETERS):
            shard.data[max(0, vocab_size - shard.global_offset[0]) :].zero_()


@torch.no_grad()
def fill_normal(
    local: Tensor,
    name: str,
    seed: int,
    std: float,
    global_shape: tuple[int, ...],
    global_offset: tuple[int, ...],
) -> None:
    """Write the part at `global_offset` of the parameter `name` into `local`."""
    local = local.detach()  # the threads below record gradients whatever this one does
    rows, columns = global_shape[-2:]
    block_rows = max(1, BLOCK_ELEMENTS // columns)
    first_row, first_column = global_offset[-2:]
    wanted = slice(first_column, first_column + local.shape[-1])

    def draw(task: tuple[tuple[int, ...], int, int]) -> None:
        local_index, matrix, block = task
        low = block * block_rows
        high = min(low + block_rows, rows)
        values = _generator(seed, name, matrix, block).standard_normal(
            (high - low, columns), dtype=np.float32
        )
        start, end = max(low, first_row), min(high, first_row + local.shape[-2])
        part = torch.from_numpy(values[start - low : end - low, wanted] * np.float32(std))
        local[local_index][start - first_row : end - first_row].copy_(part)

    # numpy's generators release the interpreter's lock while they draw, so threads run in parallel.
    # A small parameter is drawn before a pool of threads has started.
    tasks = list(_tasks(local.shape, global_shape, global_offset, block_rows))
    if local.numel() < 1 << 22:
        for task in tasks:
            draw(task)
        return
    with ThreadPoolExecutor(max_workers=_threads()) as pool:
        list(pool.map(draw, tasks))


def _tasks(
    shape: torch.Size,
    global_shape: tuple[int, ...],
    global_offset: tuple[int, ...],
    block_rows: int,
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Per block that overlaps the local part: index of the local matrix, global number, block."""
    first_row = global_offset[-2]
    blocks = range(first_row // block_rows, -(-(first_row + shape[-2]) // block_rows))
    leading = shape[:-2]
    for number in range(prod(leading)):
        unravelled = np.unravel_index(number, leading) if leading else ()
        local_index = tuple(int(i) for i in unravelled)
        position = [i + offset for i, offset in zip(local_index, global_offset, strict=False)]
        matrix = 0
        for i, size in zip(position, global_shape, strict=False):
            matrix = matrix * size + i
        for block in blocks:
            yield local_index, matrix, block


def _generator(seed: int, name: str, matrix: int, block: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}:{matrix}:{block}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _threads() -> int:
    return max(1, min(8, int(os.environ.get("OMP_NUM_THREADS", "0")) or (os.cpu_count() or 1)))
