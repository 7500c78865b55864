"""The sink that fits a format and a model, or one sentence that says why there is none."""

from collections.abc import Iterable

import torch

from ml_models import registry
from ml_models.errors import WeightError
from ml_models.formats.huggingface.sink import HuggingFaceSink, huggingface_config
from ml_models.formats.megatron.sink import MegatronSink
from ml_models.grok1 import weights as grok1_maps
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.release.config import refuse_what_has_no_place
from ml_models.grok1.release.sink import XaiSink
from ml_models.weights.maps import WeightMap, build_map, identity_map
from ml_models.weights.sink import Sink
from ml_models.weights.source import Reader


def make_sink(
    kind: str,
    reader: Reader,
    *,
    dtype: torch.dtype | None,
    scale_groups: int | None,
    file_bytes: int,
    chunk_bytes: int | None,
) -> Sink:
    """A sink of a format for the model that `reader` reads; dtype None keeps the source's."""
    model = reader.source.model
    if scale_groups is not None and kind != "xai":
        raise WeightError(f"--xai-scale-groups belongs to --to xai; {kind} has no scales.")
    if kind == "xai":
        if not isinstance(model, Grok1Config):
            raise WeightError(f"--to xai: xAI's format holds Grok-1, not {model.architecture}.")
        if dtype is not None:
            raise WeightError(
                "--dtype has no use with --to xai, whose files have dtypes of their own (int8 with "
                "bfloat16 scales, float32); leave it out."
            )
        refuse_what_has_no_place(model)
        rows = grok1_maps.xai_rows(model)
        weights = build_map(rows, grok1_maps.shapes(model), model)
        dtypes = _dtypes(reader, weights, None)
        return XaiSink(
            model,
            weights,
            dtypes,
            scale_groups=scale_groups,
            file_bytes=file_bytes,
            chunk_bytes=chunk_bytes,
        )
    maps = registry.architecture(model).weights()
    shapes = maps.shapes(model)
    sink_type: type[Sink] = MegatronSink
    if kind == "megatron":
        weights = identity_map(shapes)
    elif kind == "huggingface":
        sink_type = HuggingFaceSink
        huggingface_config(model, "float32")
        weights = build_map(maps.huggingface_rows(model), shapes, model)
    else:
        raise WeightError(f"no format is called {kind!r}; known: huggingface, xai, megatron.")
    dtypes = _dtypes(reader, weights, dtype)
    sink = sink_type(model, weights, dtypes, file_bytes=file_bytes, chunk_bytes=chunk_bytes)
    if kind == "huggingface":
        hf_config = registry.architecture(model).hf_config()
        sink.notes = list(getattr(hf_config, "notes", lambda _: [])(model))
    return sink


def _dtypes(
    reader: Reader, weights: WeightMap, dtype: torch.dtype | None
) -> dict[str, torch.dtype]:
    """What each target is to be: `dtype`, or the source's; fp32 where several make up one."""

    def common(names: Iterable[str]) -> torch.dtype:
        kinds = {reader.dtype(name) for name in names}
        return kinds.pop() if len(kinds) == 1 else torch.float32

    return {
        name: dtype or common(piece.ours for piece in weights.theirs[name])
        for name in weights.theirs_shapes
    }
