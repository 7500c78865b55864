"""A model's parameters as parts of whole ("global") tensors, by the names that checkpoints use.

megatron-core's sharded_state_dict says for each parameter of a rank which whole tensor it belongs
to, and which block of that tensor it is, in any layout. This module reads and writes parameters
through it.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ml_models.errors import WeightError

if TYPE_CHECKING:
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.models.gpt import GPTModel

METADATA = {"non_homogeneous_layers": True}
"""Asks megatron-core for one key per layer, not for one tensor of all layers on a common axis."""

VOCABULARY_PARAMETERS = ("embedding.word_embeddings.weight", "output_layer.weight")


def local_shards(model: "GPTModel") -> "Iterator[ShardedTensor]":
    """A ShardedTensor per parameter: .key, .data (the parameter), .global_shape, .global_offset."""
    # megatron-core is imported when a model is there: a platform adapts it first.
    from megatron.core.dist_checkpointing import ShardedTensor

    for shard in model.sharded_state_dict(metadata=dict(METADATA)).values():
        if isinstance(shard, ShardedTensor) and shard.data is not None:
            yield shard


def place_of(shard: "ShardedTensor") -> tuple[slice, ...]:
    """Where `shard` lies in the whole tensor."""
    return tuple(
        slice(start, start + size)
        for start, size in zip(shard.global_offset, shard.data.shape, strict=True)
    )


@torch.no_grad()
def assign(model: "GPTModel", tensors: Mapping[str, Tensor]) -> None:
    """Copy this rank's parts of the whole `tensors` into its parameters.

    Rows that pad the vocabulary become zeros. Raises WeightError for a missing tensor or another
    shape.
    """
    for shard in local_shards(model):
        if shard.key not in tensors:
            raise WeightError(f"no tensor {shard.key}; the model needs one {shard.global_shape}.")
        whole = tensors[shard.key]
        padding = shard.global_shape[0] - whole.shape[0]
        if shard.key in VOCABULARY_PARAMETERS and padding > 0:
            whole = torch.cat((whole, whole.new_zeros(padding, *whole.shape[1:])))
        if tuple(whole.shape) != tuple(shard.global_shape):
            raise WeightError(
                f"{shard.key} is {tuple(whole.shape)}; the model needs {shard.global_shape}."
            )
        shard.data.copy_(whole[place_of(shard)])
