"""xAI's release as a format of conversion: what ml_models.architecture.ReleaseFormat asks for."""

from collections.abc import Mapping
from pathlib import Path

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.grok1 import weights as tables
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.release.config import CONFIG_NAME, from_xai, refuse_what_has_no_place
from ml_models.grok1.release.sink import XaiSink
from ml_models.grok1.release.source import XaiSource
from ml_models.weights.maps import build_map
from ml_models.weights.sink import SinkOptions, target_dtypes
from ml_models.weights.source import Reader

CONTENT = "xAI's files"
EXAMPLE_MODEL = "grok1-314b"
FILES = "tensor*_000"


def holds_weights(folder: Path) -> bool:
    """Whether a folder has files of the release's names."""
    return any(folder.glob(FILES))


def describes_model(values: Mapping[str, object]) -> bool:
    """Whether a JSON object is an xai_config.json, whose sizes stand under "model"."""
    return isinstance(values.get("model"), dict)


def config_of(values: Mapping[str, object], where: str) -> Grok1Config:
    """The model of an xai_config.json. Raises WeightError."""
    return from_xai(values, where)


def find_config(folder: Path) -> Path | None:
    """xai_config.json in the folder or beside it: the release's weights lie in an inner folder."""
    candidates = (folder / CONFIG_NAME, folder.parent / CONFIG_NAME)
    return next((path for path in candidates if path.is_file()), None)


def open_source(folder: Path, model: ModelConfig | None) -> XaiSource:
    """The weights of a folder ckpt-0. Raises WeightError, without a model too."""
    if model is None:
        raise WeightError(
            f"{folder}: xAI's files do not say what model they hold; give --model {EXAMPLE_MODEL}, "
            "or --config with its settings."
        )
    return XaiSource(folder, model)


def make_sink(reader: Reader, options: SinkOptions) -> XaiSink:
    """A sink for Grok-1. Raises WeightError for other models and for what has no place."""
    model = reader.source.model
    if not isinstance(model, Grok1Config):
        raise WeightError(f"--to xai: xAI's format holds Grok-1, not {model.architecture}.")
    if options.dtype is not None:
        raise WeightError(
            "--dtype has no use with --to xai, whose files have dtypes of their own (int8 with "
            "bfloat16 scales, float32); leave it out."
        )
    refuse_what_has_no_place(model)
    weights = build_map(tables.XAI, tables.shapes(model), model)
    return XaiSink(model, weights, target_dtypes(reader, weights, None), options)
