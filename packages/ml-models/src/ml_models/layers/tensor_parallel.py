"""Marks on the parameters of megatron-core's linear layers, for tensor parallelism.

megatron-core sets them when it initialises the weights. Here it does not initialise them: see
initialize.py.
"""

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)

DIVIDED_AXIS = {ColumnParallelLinear: 0, VocabParallelEmbedding: 0, RowParallelLinear: 1}
"""The axis of its weight along which a layer is divided over the tensor-parallel ranks."""


def mark_tensor_parallel(model: torch.nn.Module) -> None:
    """Mark the weights that differ between tensor-parallel ranks.

    The gradient norm counts a weight with the mark on every rank, and one without it on rank 0.
    """
    for module in model.modules():
        for kind, axis in DIVIDED_AXIS.items():
            weight = getattr(module, "weight", None)
            # A tied output layer has no weight of its own on most stages.
            unmarked = weight is not None and not hasattr(weight, "tensor_model_parallel")
            if isinstance(module, kind) and unmarked:
                set_tensor_model_parallel_attributes(weight, True, axis, 1)
