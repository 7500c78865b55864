"""xAI's presharded files as a format of conversion: ml_models.architecture.ReleaseFormat."""

from collections.abc import Mapping
from pathlib import Path

from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.grok2.config import Grok2Config
from ml_models.grok2.hf_config import from_huggingface
from ml_models.grok2.release.layout import PATTERN
from ml_models.grok2.release.sink import PreshardedSink, make_presharded_sink
from ml_models.grok2.release.source import PreshardedSource
from ml_models.weights.sink import SinkOptions
from ml_models.weights.source import Reader

CONTENT = "xAI's presharded files of Grok-2"
# Empty, as the folder's config.json says what model it holds.
EXAMPLE_MODEL = ""
FILES = PATTERN
_CONFIG = "config.json"


def holds_weights(folder: Path) -> bool:
    """Whether a folder has files of the release's names."""
    return any(folder.glob(FILES))


def describes_model(_: Mapping[str, object]) -> bool:
    """Never: the format's configuration is Hugging Face's config.json."""
    return False


def config_of(values: Mapping[str, object], where: str) -> Grok2Config:
    """The model of a config.json, which must be Grok-2's. Raises WeightError."""
    return from_huggingface(values, where)


def find_config(folder: Path) -> Path | None:
    """The config.json in the folder."""
    path = folder / _CONFIG
    return path if path.is_file() else None


def open_source(folder: Path, model: ModelConfig | None) -> PreshardedSource:
    """The weights of a folder. Raises WeightError, without a model too."""
    if model is None:
        raise WeightError(
            f"{folder}: no {_CONFIG}, which says what model the files are of; put the release's "
            "there, or give --model grok2-270b."
        )
    return PreshardedSource(folder, model)


def make_sink(reader: Reader, options: SinkOptions) -> PreshardedSink:
    """A sink for Grok-2. Raises WeightError for other models and for what has no place."""
    return make_presharded_sink(reader, options)
