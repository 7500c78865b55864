"""config.json as a model configuration."""

from collections.abc import Mapping
from pathlib import Path

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.files.json_files import read_json
from ml_models.formats.huggingface.config_fields import named_architecture

CONFIG = "config.json"


def read_values(folder: Path) -> dict[str, object]:
    """The object in a folder's config.json. Raises WeightError."""
    path = folder / CONFIG
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightError(f"{path}: not an object.")
    return values


def config_of(values: Mapping[str, object], where: str, variant: str | None) -> ModelConfig:
    """The model of a config.json, by the last architecture that recognises it. WeightError.

    An installed architecture comes after ours, so that it can claim a file that ours would take
    too. So does Grok-2 after Grok-1: both files may name Grok1ForCausalLM.
    """
    candidates = [
        hf_config
        for entry in registry.architectures()
        if (hf_config := entry.hf_config()).recognises(values)
    ]
    if candidates:
        return registry.with_variant(candidates[-1].from_huggingface(values, where), variant)
    known = ", ".join(entry.name for entry in registry.architectures())
    named = named_architecture(values) or values.get("model_type")
    if not named:
        raise WeightError(
            f"{where}: it has neither architectures nor model_type, so it does not say what model "
            f"it describes; add them, or name the model with --model or --config ({known} can be "
            "converted)."
        )
    raise WeightError(f"{where}: it describes {named}; {known} can be converted.")
