"""The parameters of a layer and of both ends of the pipeline, from ranks of a layer each.

Two ranks of two pipeline stages are built without tensor or expert parallelism. megatron-core marks
on every parameter how it is divided. So the list follows the code that trains, in its order.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.build import pad_vocab_size
from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout, make_layout
from ml_train.planning.fake_groups import rank_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.training.build import model_chunks, transformer_config

if TYPE_CHECKING:
    from torch.nn import Parameter

    from ml_models.config import ModelConfig

_LAYER = ".decoder.layers."
_OF_VOCABULARY = (".word_embeddings.weight", ".output_layer.weight")


@dataclass(frozen=True, kw_only=True)
class ParameterKind:
    """A parameter, and what divides it."""

    numel: int
    """Of the whole parameter in a layer; of a row where rows are entries of the vocabulary."""
    is_expert: bool
    """Divided by EP and ETP, in the buffer of the experts."""
    is_divided: bool
    """By TP, of a dense parameter."""
    has_vocabulary: bool = False
    """A row per entry of the vocabulary, with the padding of the layout."""
    is_shared: bool = False
    """The embedding that the first and the last stage share has a bucket of its own."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Lists in the order in which the model names its parameters."""

    first: tuple[ParameterKind, ...]
    """Before the layers: the embedding."""
    layer: tuple[ParameterKind, ...]
    last: tuple[ParameterKind, ...]
    """Behind the layers: the final norm and the output."""
    vocab_size: int
    divisible_by: int
    """Of the vocabulary's padding, times TP."""

    def numel(self, kind: ParameterKind, layout: Layout) -> int:
        """Elements on a rank."""
        if kind.is_expert:
            return kind.numel // (layout.ep * layout.etp)
        rows = 1
        if kind.has_vocabulary:
            rows = pad_vocab_size(self.vocab_size, self.divisible_by, layout.tp)
        return rows * kind.numel // (layout.tp if kind.is_divided else 1)


def catalogue(config: RunConfig, model: "ModelConfig", platform: MetaPlatform) -> Catalogue:
    """Build the ranks inside the platform's context and list their parameters."""
    parallel = dataclasses.replace(
        config.parallel,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=2,
        num_layers_per_virtual_pipeline_stage=None,
        decoder_first_pipeline_num_layers=None,
        decoder_last_pipeline_num_layers=None,
        expert_model_parallel_size=1,
        expert_tensor_parallel_size=1,
    )
    small = model.replace(num_layers=2)
    plain = dataclasses.replace(config, parallel=parallel)
    layout = make_layout(parallel, small, world_size=2, micro_batch_size=1, global_batch_size=None)
    rows = pad_vocab_size(model.vocab_size, config.model.make_vocab_size_divisible_by, 1)
    ends: list[list[tuple[str, ParameterKind]]] = []
    for rank in range(2):
        with rank_of(layout, rank, platform), platform.device:
            transformer = transformer_config(plain, small, layout, platform.device)
            (chunk,) = model_chunks(plain, small, layout, transformer)
            ends.append([(name, _kind(name, p, rows)) for name, p in chunk.named_parameters()])
    first, last = ends
    return Catalogue(
        first=tuple(kind for name, kind in first if _LAYER not in name),
        layer=tuple(kind for name, kind in first if _LAYER in name),
        last=tuple(kind for name, kind in last if _LAYER not in name),
        vocab_size=model.vocab_size,
        divisible_by=config.model.make_vocab_size_divisible_by,
    )


def _kind(name: str, parameter: "Parameter", rows: int) -> ParameterKind:
    has_vocabulary = name.endswith(_OF_VOCABULARY)
    return ParameterKind(
        numel=parameter.numel() // (rows if has_vocabulary else 1),
        # megatron-core sums the gradients of experts over other ranks, and marks them by that.
        is_expert=not getattr(parameter, "allreduce", True),
        is_divided=getattr(parameter, "tensor_model_parallel", False),
        has_vocabulary=has_vocabulary,
        is_shared=getattr(parameter, "shared_embedding", False),
    )
