"""Open weights in any of the three formats, with the model configuration that fits them.

Megatron's checkpoints are of two kinds, which are told apart by what lies in the folder: their
users know that they have one of Megatron's, and not always which.
"""

import shlex
from pathlib import Path

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import ConfigError, WeightError
from ml_models.files.json_files import read_json
from ml_models.formats.huggingface import HuggingFaceSource, config_of
from ml_models.formats.huggingface.refusals import explain_folder
from ml_models.formats.megatron.source import TRACKER, MegatronSource
from ml_models.formats.megatron_ranks.ranks import find_rank_folders
from ml_models.formats.megatron_ranks.source import LegacySource
from ml_models.grok1.config import Grok1Config
from ml_models.grok1.hf_config import activation_of
from ml_models.grok1.release.config import CONFIG_NAME, from_xai
from ml_models.grok1.release.source import XaiSource
from ml_models.weights.source import Source

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


def formats_of(folder: Path) -> list[str]:
    """Which of the three formats a folder looks like, the likeliest first; none: no weights."""
    if not folder.is_dir():
        return []
    seen = {
        "megatron": (folder / ".metadata").is_file()
        or (folder / TRACKER).is_file()
        or find_rank_folders(folder) is not None,
        "xai": any(folder.glob("tensor*_000")),
        "huggingface": any(any(folder.glob(pattern)) for pattern in _HUGGING_FACE),
    }
    return [kind for kind, holds in seen.items() if holds]


_HUGGING_FACE = ("*.safetensors*", "pytorch_model*.bin*", "adapter_config.json")
_WORDS = {
    "megatron": "a checkpoint of Megatron's",
    "xai": "xAI's files",
    "huggingface": "Hugging Face's files",
}


def guess_format(folder: Path) -> str:
    """Which of the three formats a folder holds."""
    if not folder.is_dir():
        raise WeightError(explain_folder(folder) or f"{folder}: no such folder.")
    if formats := formats_of(folder):
        return formats[0]
    raise WeightError(
        explain_folder(folder)
        or f"{folder}: neither safetensors, nor xAI's tensorNNNNN_000 files, nor a checkpoint "
        "of Megatron's."
    )


def convert_command(folder: Path) -> str | None:
    """The command that turns a folder of weights into a checkpoint to train from.

    None for a folder that holds no weights to convert.
    """
    formats = formats_of(folder)
    if not formats:
        return None
    model = " --model grok1-314b" if formats[0] == "xai" else ""
    where = shlex.quote(str(folder))
    return (
        f"ml-models convert --from {formats[0]} --to megatron --input {where}{model} --output NEW"
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
    formats = formats_of(folder)
    if formats and kind not in formats:
        raise WeightError(
            f"{folder}: it holds {_WORDS[formats[0]]}, not {_WORDS.get(kind, kind)}; give "
            f"--from {formats[0]}."
        )
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
