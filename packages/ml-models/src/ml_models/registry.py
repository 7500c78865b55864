"""Which models have a name, and which package builds an architecture. No torch is imported here.

Adding an architecture is one entry in ARCHITECTURES and one in NAMED per named size, see
docs/add-a-model.md.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from ml_models.config import ModelConfig, missing_fields, reject_unknown_fields
from ml_models.errors import ConfigError
from ml_models.grok1.config import Grok1Config, grok1_40b, grok1_40b_guide, grok1_314b, grok1_tiny
from ml_models.mixtral.config import MixtralConfig, mixtral_8x7b, mixtral_tiny


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A package that holds one architecture: `config.py`, `spec.py`, `weights.py`."""

    name: str
    config_type: type[ModelConfig]
    package: str

    def spec(self) -> ModuleType:
        """Its `spec` module: transformer_fields(model), layer_spec(model), model_options(model)."""
        return import_module(f"{self.package}.spec")

    def weights(self) -> ModuleType:
        """Its `weights` module, the maps between our parameters and published weights."""
        return import_module(f"{self.package}.weights")


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            Architecture(name="grok1", config_type=Grok1Config, package="ml_models.grok1"),
            Architecture(name="mixtral", config_type=MixtralConfig, package="ml_models.mixtral"),
        )
    }
)

NAMED: Mapping[str, Callable[[], ModelConfig]] = MappingProxyType(
    {
        "grok1-314b": grok1_314b,
        "grok1-40b": grok1_40b,
        "grok1-40b-guide": grok1_40b_guide,
        "grok1-tiny": grok1_tiny,
        "mixtral-8x7b": mixtral_8x7b,
        "mixtral-tiny": mixtral_tiny,
    }
)


def names() -> list[str]:
    """The names that `get` knows."""
    return list(NAMED)


def get(name: str) -> ModelConfig:
    """The configuration called `name`."""
    if name not in NAMED:
        near = difflib.get_close_matches(name, NAMED, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no model is called {name!r}; known: {', '.join(NAMED)}.{hint}")
    return NAMED[name]()


def architecture(config: ModelConfig) -> Architecture:
    """The package that builds `config`."""
    for entry in ARCHITECTURES.values():
        if isinstance(config, entry.config_type):
            return entry
    raise ConfigError(
        f"no architecture builds a {type(config).__name__}; known: {', '.join(ARCHITECTURES)}."
    )


def from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """What `ModelConfig.to_dict` gave; a missing, unknown or illegal field is a ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a model configuration is an object of fields, not {values!r}.")
    name = values.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(f"architecture is {name!r}; known: {', '.join(ARCHITECTURES)}.")
    given = {key: value for key, value in values.items() if key != "architecture"}
    config_type = ARCHITECTURES[name].config_type
    reject_unknown_fields(config_type, given)
    if missing := missing_fields(config_type, given):
        raise ConfigError(f"{name}: {', '.join(missing)} missing from the model configuration.")
    return config_type(**given)
