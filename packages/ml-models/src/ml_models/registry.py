"""Which models have a name, and which package builds an architecture. No torch is imported here.

An architecture is a package with the modules that `Architecture` names. Grok-1 and Mixtral are
ours; others come from installed distributions, as entry points of the group
"ml_models.architectures" (name = "module:ARCHITECTURE"), or from `register`. docs/add-a-model.md
adds one from start to end.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ml_models.config import ModelConfig, missing_fields, reject_unknown_fields
from ml_models.errors import ConfigError
from ml_models.grok1.config import Grok1Config, grok1_40b, grok1_40b_guide, grok1_314b, grok1_tiny
from ml_models.mixtral.config import MixtralConfig, mixtral_8x7b, mixtral_tiny
from ml_models.nearest import did_you_mean

GROUP = "ml_models.architectures"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A package that holds one architecture, and the sizes of it that have a name."""

    name: str
    """ModelConfig.architecture of its configurations."""

    config_type: type[ModelConfig]

    package: str
    """Has the modules spec, weights, hf_config and, for `ml-models show`, maybe sources."""

    named: Mapping[str, Callable[[], ModelConfig]] = field(default_factory=dict)
    """What `get` finds: name -> function that returns the configuration."""

    def spec(self) -> ModuleType:
        """transformer_fields(model), layer_spec(model, config, stage), model_arguments(model)."""
        return import_module(f"{self.package}.spec")

    def weights(self) -> ModuleType:
        """shapes(model), huggingface_rows(model): tables of blocks, see weights/maps.py."""
        return import_module(f"{self.package}.weights")

    def hf_config(self) -> ModuleType:
        """recognises(values), from_huggingface(values, where, variant), to_huggingface(...)."""
        return import_module(f"{self.package}.hf_config")

    def source_of(self, model_name: str, field_name: str) -> str:
        """Where a choice comes from, in one line."""
        if find_spec(f"{self.package}.sources") is None:
            return f"the package {self.package}"
        sources = import_module(f"{self.package}.sources")
        return str(sources.source_of(model_name, field_name))


_OURS = (
    Architecture(
        name="grok1",
        config_type=Grok1Config,
        package="ml_models.grok1",
        named={
            "grok1-314b": grok1_314b,
            "grok1-40b": grok1_40b,
            "grok1-40b-guide": grok1_40b_guide,
            "grok1-tiny": grok1_tiny,
        },
    ),
    Architecture(
        name="mixtral",
        config_type=MixtralConfig,
        package="ml_models.mixtral",
        named={"mixtral-8x7b": mixtral_8x7b, "mixtral-tiny": mixtral_tiny},
    ),
)
_registered: dict[str, Architecture] = {}


def register(entry: Architecture) -> None:
    """Make `entry` known to this process; ConfigError when its name or one of its models is taken.

    Processes that others start don't inherit it: an entry point is found by all of them.
    """
    for other in architectures():
        shared = sorted(set(other.named) & set(entry.named))
        if other.name == entry.name or shared:
            what = f"architecture {entry.name!r}" if other.name == entry.name else repr(shared[0])
            raise ConfigError(f"{what} is taken by the package {other.package}; choose another.")
    _registered[entry.name] = entry


def architectures() -> Iterator[Architecture]:
    """Ours, then registered ones, then those of installed distributions."""
    yield from _OURS
    yield from _registered.values()
    for point in sorted(entry_points(group=GROUP)):
        if point.name not in _registered:
            yield _load(point)


def _load(point: EntryPoint) -> Architecture:
    try:
        entry = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"architecture {point.name}: {point.value}: {error}.") from error
    if not isinstance(entry, Architecture) or entry.name != point.name:
        raise ConfigError(
            f"architecture {point.name}: {point.value} must be an ml_models.registry.Architecture "
            f"called {point.name!r}."
        )
    return entry


def names() -> list[str]:
    """The names that `get` knows."""
    return [name for entry in architectures() for name in entry.named]


def get(name: str) -> ModelConfig:
    """The configuration called `name`."""
    for entry in architectures():
        if name in entry.named:
            return entry.named[name]()
    known = names()
    raise ConfigError(
        f"no model is called {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}"
    )


def architecture(config: ModelConfig) -> Architecture:
    """The package that builds `config`."""
    for entry in architectures():
        if isinstance(config, entry.config_type):
            return entry
    known = ", ".join(entry.name for entry in architectures())
    raise ConfigError(f"no architecture builds a {type(config).__name__}; known: {known}.")


def from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """What `ModelConfig.to_dict` gave; a missing, unknown or illegal field is a ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a model configuration is an object of fields, not {values!r}.")
    name = values.get("architecture")
    found = next((entry for entry in architectures() if entry.name == name), None)
    if found is None:
        known = ", ".join(entry.name for entry in architectures())
        raise ConfigError(f"architecture is {name!r}; known: {known}.")
    given = {key: value for key, value in values.items() if key != "architecture"}
    reject_unknown_fields(found.config_type, given)
    if missing := missing_fields(found.config_type, given):
        raise ConfigError(f"{name}: {', '.join(missing)} missing from the model configuration.")
    return found.config_type(**given)
