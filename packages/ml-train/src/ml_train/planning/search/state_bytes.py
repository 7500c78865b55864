"""Parameters, gradients and optimizer state of a rank, in closed form and exact to the byte.

megatron-core keeps the gradients of a model chunk in two buffers, of dense and of expert
parameters. With the distributed optimizer the parameters lie in such buffers as well, with padding
that this file repeats from megatron-core (distributed/param_and_grad_buffer.py, from 0.18 on
optimizer/param_layout.py). tests/planning/search holds every figure to built ranks.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout
from ml_train.planning.held import HeldBytes
from ml_train.planning.search.parameters import Catalogue, ParameterKind
from ml_train.planning.search.space import stage_ends
from ml_train.training.build import bucket_size

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

_ALIGNED = 64
"""Elements at whose multiples a parameter starts in a buffer."""
_BUCKET_ALIGNED = 128
"""A bucket's end is a multiple of this and of the number of ranks that share it."""


@dataclass(frozen=True)
class _Part:
    """A parameter of this rank."""

    numel: int
    is_shared: bool


@dataclass(frozen=True)
class _Buffer:
    """Sizes of a buffer in elements."""

    numel: int
    """With padding."""
    shard: int
    """Elements of parameters in the first rank's shards of the buckets."""


def state_bytes(
    catalogue: Catalogue, config: RunConfig, model: "ModelConfig", layout: Layout, stage: int
) -> HeldBytes:
    """What held_bytes counts of the first built rank of a pipeline stage."""
    size = config.training.parameter_bytes
    sharded = config.optimizer.use_distributed_optimizer
    parameters = gradients = updated = 0
    for chunk, kinds in enumerate(_chunks(catalogue, config, model, layout, stage)):
        limit = bucket_size(config, layout) if chunk == 0 and stage == 0 else None
        for experts, ranks in ((False, layout.dp), (True, layout.edp)):
            parts = tuple(
                _Part(catalogue.numel(kind, layout), kind.is_shared)
                for kind in kinds
                if kind.is_expert is experts
            )
            numel = sum(part.numel for part in parts)
            buffer = _fill(parts, ranks, limit) if sharded else _Buffer(numel, numel)
            parameters += size * buffer.numel
            gradients += 4 * buffer.numel
            updated += buffer.shard
    return HeldBytes(
        parameters=parameters,
        gradients=gradients,
        # A float32 run updates the model's own parameters.
        main_parameters=4 * updated if config.training.bf16 else 0,
        moments=8 * updated,
    )


def layers_of_stage(
    config: RunConfig, model: "ModelConfig", layout: Layout, stage: int
) -> list[int]:
    """Layers of each virtual stage that a rank of `stage` holds."""
    first, last = stage_ends(config.parallel)
    if layout.pp == 1 or (first is None and last is None):
        return [model.num_layers // (layout.pp * layout.vp)] * layout.vp
    if stage == 0 and first is not None:
        return [first]
    if stage == layout.pp - 1 and last is not None:
        return [last]
    others = layout.pp - (first is not None) - (last is not None)
    return [(model.num_layers - (first or 0) - (last or 0)) // others]


def _chunks(
    catalogue: Catalogue, config: RunConfig, model: "ModelConfig", layout: Layout, stage: int
) -> list[list[ParameterKind]]:
    """Parameters of the virtual stages of a rank, in the model's order."""
    layers = layers_of_stage(config, model, layout, stage)
    chunks = []
    for number, count in enumerate(layers):
        kinds = list(catalogue.layer) * count
        is_first = stage == 0 and number == 0
        is_last = stage == layout.pp - 1 and number == len(layers) - 1
        if is_first:
            kinds = [*catalogue.first, *kinds]
        if is_last:
            kinds += catalogue.last
        if is_first and is_last:
            kinds = _on_one_stage(kinds)
        chunks.append(kinds)
    return chunks


def _on_one_stage(kinds: Sequence[ParameterKind]) -> list[ParameterKind]:
    """Without a pipeline a tied output is the embedding itself, and shares it with no stage."""
    tied = [kind for kind in kinds if kind.is_shared]
    plain = [kind for kind in kinds if not kind.is_shared]
    if not tied:
        return plain
    embedding = tied[0]
    alone = ParameterKind(
        numel=embedding.numel,
        is_expert=embedding.is_expert,
        is_divided=embedding.is_divided,
        has_vocabulary=embedding.has_vocabulary,
    )
    return [alone, *plain]


@functools.lru_cache(maxsize=4096)
def _fill(parts: tuple[_Part, ...], ranks: int, limit: int | None) -> _Buffer:
    """Lay parameters into the buckets of a buffer, the last of them first.

    limit: elements from which on a bucket is closed; None for a single bucket.
    """
    divisor = math.lcm(ranks, _BUCKET_ALIGNED)
    end = shard = start = 0
    spans: list[tuple[int, int]] = []

    def close() -> None:
        """End the bucket, and count the parameters in its first part of `ranks` equal ones."""
        nonlocal end, shard, start, spans
        end = _padded(end, divisor)
        border = start + (end - start) // ranks
        shard += sum(min(stop, border) - begin for begin, stop in spans if begin < border)
        start, spans = end, []

    for part in reversed(parts):
        end = _padded(end, _ALIGNED)
        if part.is_shared and spans:
            close()
        spans.append((end, end + part.numel))
        end += part.numel
        if part.is_shared or (limit is not None and end - start >= limit):
            close()
    if spans:
        close()
    return _Buffer(numel=end, shard=shard)


def _padded(number: int, divisor: int) -> int:
    return -(-number // divisor) * divisor
