"""A model's parameters as parts of whole ("global") tensors, by the names that checkpoints use.

megatron-core's sharded_state_dict says for each parameter of a rank which key and which place of
the whole tensor it is, in any layout. This module reads and writes parameters through it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ml_models.errors import WeightError

METADATA = {"non_homogeneous_layers": True}


def local_shards(model: Any) -> Iterator[Any]:
    """A ShardedTensor per parameter: .key, .data (the parameter), .global_shape, .global_offset."""
    from megatron.core.dist_checkpointing import ShardedTensor

    for shard in model.sharded_state_dict(metadata=dict(METADATA)).values():
        if isinstance(shard, ShardedTensor) and shard.data is not None:
            yield shard


def place_of(shard: Any) -> tuple[slice, ...]:
    """Where `shard` lies in the whole tensor."""
    return tuple(
        slice(start, start + size)
        for start, size in zip(shard.global_offset, shard.data.shape, strict=True)
    )


@torch.no_grad()
def assign(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy this rank's parts of the whole `tensors` into its parameters.

    A vocabulary shorter than the padded one leaves zeros. Raises WeightError for a missing tensor
    or another shape.
    """
    for shard in local_shards(model):
        if shard.key not in tensors:
            raise WeightError(f"no tensor {shard.key}; the model needs one {shard.global_shape}.")
        whole = tensors[shard.key]
        padding = shard.global_shape[0] - whole.shape[0]
        vocabulary = shard.key in ("embedding.word_embeddings.weight", "output_layer.weight")
        if vocabulary and padding > 0:
            whole = torch.cat((whole, whole.new_zeros(padding, *whole.shape[1:])))
        if tuple(whole.shape) != tuple(shard.global_shape):
            raise WeightError(
                f"{shard.key} is {tuple(whole.shape)}; the model needs {shard.global_shape}."
            )
        shard.data.copy_(whole[place_of(shard)])
