"""Which models have a name, and which package builds an architecture. No torch is imported here.

Grok-1, Grok-2 and Mixtral are ours; other architectures come from installed distributions, as
entry points of the group "ml_models.architectures" (name = "module:ARCHITECTURE"), or from
`register`.
docs/add-a-model.md adds one from start to end.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ml_models.architecture import Architecture
from ml_models.config import ModelConfig, missing_fields, reject_unknown_fields
from ml_models.errors import ConfigError
from ml_models.nearest import did_you_mean

GROUP = "ml_models.architectures"
# By name, as an entry point would name them: the packages import this module.
_OURS = (
    "ml_models.grok1.config:ARCHITECTURE",
    "ml_models.grok2.config:ARCHITECTURE",
    "ml_models.mixtral.config:ARCHITECTURE",
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


def architectures(*, skip_broken: bool = False) -> Iterator[Architecture]:
    """Ours, then registered ones, then those of installed distributions.

    An installed architecture that cannot be imported raises ConfigError when its turn comes, unless
    it is skipped.
    """
    for reference in _OURS:
        module, attribute = reference.split(":")
        yield getattr(import_module(module), attribute)
    yield from _registered.values()
    # Sorted, so that the order does not depend on the order of sys.path.
    for point in sorted(entry_points(group=GROUP)):
        if point.name in _registered:
            continue
        try:
            entry = _load(point)
        except ConfigError:
            if not skip_broken:
                raise
        else:
            yield entry


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


def with_variant(model: ModelConfig, variant: str | None) -> ModelConfig:
    """`model` as a named variant of its architecture; None leaves it as it is. ConfigError."""
    return model if variant is None else architecture(model).with_variant(model, variant)


def variants() -> list[str]:
    """The names that --variant knows; architectures that cannot be imported are left out."""
    return [name for entry in architectures(skip_broken=True) for name in entry.variants]


def formats() -> list[str]:
    """The names that --from and --to know."""
    return ["huggingface", *(entry.release_format for entry in releases()), "megatron"]


def releases() -> Iterator[Architecture]:
    """Architectures whose publisher has a format of its own.

    Installed architectures that cannot be imported are left out: a folder's format is looked up in
    runs that have nothing to do with them.
    """
    return (entry for entry in architectures(skip_broken=True) if entry.release_format)


def from_dict(values: object) -> ModelConfig:
    """What `ModelConfig.to_dict` gave; a missing, unknown or illegal field is a ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"a model configuration is an object of fields, not {values!r}.")
    name = values.get("architecture")
    entry = next((entry for entry in architectures() if entry.name == name), None)
    if entry is None:
        known = ", ".join(entry.name for entry in architectures())
        raise ConfigError(f"architecture is {name!r}; known: {known}.")
    fields = {key: value for key, value in values.items() if key != "architecture"}
    reject_unknown_fields(entry.config_type, fields)
    if missing := missing_fields(entry.config_type, fields):
        raise ConfigError(f"{name}: {', '.join(missing)} missing from the model configuration.")
    return entry.config_type.of(fields)
