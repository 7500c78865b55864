"""model_config.json of a checkpoint folder: the configuration of the model that it holds."""

import json
from pathlib import Path

from ml_models.config import ModelConfig
from ml_models.errors import ConfigError, WeightError
from ml_models.files.durable import write_durably
from ml_models.files.json_files import read_json
from ml_models.registry import from_dict

MODEL_CONFIG = "model_config.json"


def write_model_config(folder: Path, config: ModelConfig) -> None:
    """Put model_config.json into `folder`."""
    write_durably(folder / MODEL_CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")


def read_model_config(folder: Path) -> ModelConfig:
    """The configuration that a checkpoint folder names."""
    path = folder / MODEL_CONFIG
    if not path.is_file():
        raise WeightError(f"{folder}: no {MODEL_CONFIG}; name the model with --model or --config.")
    try:
        return from_dict(read_json(path))
    except ConfigError as error:
        # The folder is at fault, not the command that names it.
        raise WeightError(f"{path}: {error}") from error
