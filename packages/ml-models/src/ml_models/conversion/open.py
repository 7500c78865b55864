"""Open weights in any of the three formats, with the model configuration that fits them.

Megatron's checkpoints are of two kinds, which are told apart by what lies in the folder: their
users know that they have one of Megatron's, and not always which.
"""

from pathlib import Path

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.conversion.folder import read_json
from ml_models.conversion.huggingface import HuggingFaceSource, config_of
from ml_models.conversion.legacy.ranks import find_rank_folders
from ml_models.conversion.legacy.source import LegacySource
from ml_models.conversion.megatron import TRACKER, MegatronSource
from ml_models.conversion.source import Source
from ml_models.conversion.xai import XaiSource
from ml_models.errors import ConfigError, WeightError
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.hf_config import activation_of
from ml_models.grok1.xai_config import CONFIG_NAME, from_xai

FORMATS = ("huggingface", "xai", "megatron")


def read_model_file(path: Path, variant: str | None = None) -> ModelConfig:
    """A configuration file of any kind: ours, a config.json, xAI's."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightError(f"{path}: not an object.")
    if "architecture" in values:
        return with_variant(registry.from_dict(values), variant)
    if isinstance(values.get("model"), dict):
        return from_xai(values, str(path), variant)
    return config_of(values, str(path), variant)


def with_variant(model: ModelConfig, variant: str | None) -> ModelConfig:
    """`model` with a named variant's activation."""
    if variant is None:
        return model
    if not isinstance(model, Grok1Config):
        raise ConfigError(f"--variant is {variant}; {model.architecture} has no variants.")
    return model.replace(activation=activation_of(variant))


def guess_format(folder: Path) -> str:
    """Which of the three formats a folder holds."""
    if not folder.is_dir():
        raise WeightError(f"{folder}: no such folder.")
    if (folder / ".metadata").is_file() or (folder / TRACKER).is_file():
        return "megatron"
    if find_rank_folders(folder) is not None:
        return "megatron"
    if any(folder.glob("tensor*_000")):
        return "xai"
    if any(folder.glob("*.safetensors*")):
        return "huggingface"
    raise WeightError(
        f"{folder}: neither safetensors, nor xAI's tensorNNNNN_000 files, nor a checkpoint "
        "of Megatron's."
    )


def open_source(
    kind: str,
    folder: Path,
    *,
    name: str | None = None,
    config: Path | None = None,
    variant: str | None = None,
) -> Source:
    """Open `folder`; the model is `name`'s, that of the file `config`, or the folder's own."""
    if name is not None and config is not None:
        raise ConfigError("--model and --config both name a model; give one.")
    model: ModelConfig | None = None
    if name is not None:
        model = with_variant(registry.get(name), variant)
    elif config is not None:
        model = read_model_file(config, variant)
    if kind == "huggingface":
        return HuggingFaceSource(folder, model, variant)
    if kind == "megatron":
        ranks = find_rank_folders(folder)
        if ranks is not None:
            if variant is not None and model is None:
                raise ConfigError(f"--variant is {variant}; {ranks} says itself what was trained.")
            return LegacySource(ranks, model)
        source = MegatronSource(folder, model)
        source.model = with_variant(source.model, variant)
        return source
    if model is None:
        places = (folder / CONFIG_NAME, folder.parent / CONFIG_NAME)
        found = [path for path in places if path.is_file()]
        if found:
            model = read_model_file(found[0], variant)
        else:
            raise WeightError(
                f"{folder}: xAI's files do not say what model they hold; give --model "
                "grok1-314b, or --config with its settings."
            )
    return XaiSource(folder, model)
