"""Open weights in any format, with the model configuration that fits them.

Megatron has two kinds of checkpoints: distributed, and a file per rank. Both are the format
"megatron" for the user, who need not know which one a folder holds: its files tell.
"""

import shlex
from fnmatch import fnmatch
from pathlib import Path

from ml_models import registry
from ml_models.architecture import ReleaseFormat
from ml_models.config import ModelConfig
from ml_models.errors import ConfigError, WeightError
from ml_models.files.json_files import read_json
from ml_models.formats.huggingface.config_json import config_of
from ml_models.formats.huggingface.refusals import explain_folder
from ml_models.formats.huggingface.source import HuggingFaceSource
from ml_models.formats.megatron.source import TRACKER, MegatronSource
from ml_models.formats.megatron_ranks.ranks import find_rank_folders
from ml_models.formats.megatron_ranks.source import MegatronRanksSource
from ml_models.weights.source import Source

_HUGGING_FACE_FILES = ("*.safetensors*", "pytorch_model*.bin*", "adapter_config.json")
_CONTENTS = {"megatron": "a checkpoint of Megatron's", "huggingface": "Hugging Face's files"}


def _releases() -> dict[str, ReleaseFormat]:
    """Formats of their own that publishers of architectures have, by name."""
    return {entry.release_format: entry.release() for entry in registry.releases()}


def read_model_file(path: Path, variant: str | None = None) -> ModelConfig:
    """The model of a configuration file: of ml-models, a config.json, or a publisher's own."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightError(f"{path}: not an object.")
    if "architecture" in values:
        return registry.with_variant(registry.from_dict(values), variant)
    for release in _releases().values():
        if release.describes_model(values):
            return registry.with_variant(release.config_of(values, str(path)), variant)
    return config_of(values, str(path), variant)


def formats_of(folder: Path) -> list[str]:
    """Which formats a folder looks like, the likeliest first; none where it holds no weights."""
    if not folder.is_dir():
        return []
    is_checkpoint = (
        (folder / ".metadata").is_file()
        or (folder / TRACKER).is_file()
        or find_rank_folders(folder) is not None
    )
    formats = ["megatron"] if is_checkpoint else []
    formats += [name for name, release in _releases().items() if release.holds_weights(folder)]
    # A publisher's files may have names that Hugging Face's patterns match, too.
    publishers = [release.FILES for release in _releases().values()]
    names = {path.name for pattern in _HUGGING_FACE_FILES for path in folder.glob(pattern)}
    if any(not any(fnmatch(name, pattern) for pattern in publishers) for name in names):
        formats.append("huggingface")
    return formats


def guess_format(folder: Path) -> str:
    """The format that a folder most likely has. Raises WeightError where it has none."""
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
    release = _releases().get(formats[0])
    named = release.EXAMPLE_MODEL if release is not None else ""
    model = f" --model {named}" if named else ""
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
    """Open a folder of weights.

    The model is the one called `name`, that of the file `config`, or the folder's own.
    """
    if name is not None and config is not None:
        raise ConfigError("--model and --config both name a model; give one.")
    model: ModelConfig | None = None
    if name is not None:
        model = registry.with_variant(registry.get(name), variant)
    elif config is not None:
        model = read_model_file(config, variant)
    releases = _releases()
    # A folder that looks like nothing goes to the reader, whose refusal knows the format better.
    formats = formats_of(folder)
    if formats and kind not in formats:
        contents = {**_CONTENTS, **{key: release.CONTENT for key, release in releases.items()}}
        raise WeightError(
            f"{folder}: it holds {contents[formats[0]]}, not {contents.get(kind, kind)}; give "
            f"--from {formats[0]}."
        )
    if kind in releases:
        if model is None and (path := releases[kind].find_config(folder)) is not None:
            values = read_json(path)
            if isinstance(values, dict) and "architecture" not in values:
                model = registry.with_variant(releases[kind].config_of(values, str(path)), variant)
            else:
                model = read_model_file(path, variant)
        return releases[kind].open_source(folder, model)
    if kind == "huggingface":
        return HuggingFaceSource(folder, model, variant)
    if kind != "megatron":
        raise WeightError(f"no format is called {kind!r}; known: {', '.join(registry.formats())}.")
    return _open_checkpoint(folder, model, variant)


def _open_checkpoint(folder: Path, model: ModelConfig | None, variant: str | None) -> Source:
    """A checkpoint of Megatron's, of either kind."""
    ranks = find_rank_folders(folder)
    if ranks is not None:
        if variant is not None and model is None:
            raise ConfigError(f"--variant is {variant}; {ranks} says itself what was trained.")
        return MegatronRanksSource(ranks, model)
    source = MegatronSource(folder, model)
    source.model = registry.with_variant(source.model, variant)
    return source
