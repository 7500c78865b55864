"""Recipe, TOML file and flags -> one RunConfig and the origin of each of its values."""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import MlModelsError, UnknownPlatformError
from ml_models.kernels.selection import Situation
from ml_models.kernels.table import situation_of
from ml_models.nearest import nearest_name
from ml_models.platforms import check_platform_name
from ml_train.config import recipes
from ml_train.config.fields import settings
from ml_train.config.flags import GivenFlags
from ml_train.config.ineffective import ineffective, unreached
from ml_train.config.megatron_flags import check_statements
from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import SettingValue
from ml_train.errors import ConfigError
from ml_train.text_files import toml_document


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A configuration and where each value came from."""

    config: RunConfig
    origins: Mapping[str, str]
    """section.name -> default, recipe R, file F or flag --x."""
    model: ModelConfig
    """The model that all flags agree with, with the run's sequence length."""

    @property
    def warnings(self) -> list[str]:
        """Settings that were given and do not have the effect that they promise."""
        given = {key: origin for key, origin in self.origins.items() if origin != "default"}
        return [*ineffective(self.config, given), *unreached(self.config)]

    def situation(self, device: str) -> Situation:
        """What the forms of the kernels are chosen by, on a device of torch's type `device`."""
        dtype = "bfloat16" if self.config.training.bf16 else "float32"
        etp = self.config.parallel.expert_tensor_size
        return situation_of(self.model, device=device, dtype=dtype, expert_tensor_parallel=etp)

    def values(self) -> dict[str, SettingValue]:
        """section.name -> value of every setting, as a checkpoint keeps them."""
        return {setting.key: setting.value_in(self.config) for setting in settings().values()}

    def table(self) -> list[tuple[str, SettingValue, str]]:
        """(section.name, value, origin) of every setting."""
        return [
            (setting.key, setting.value_in(self.config), self.origins[setting.key])
            for setting in settings().values()
        ]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A configuration as far as it could be loaded, and all that is wrong with it."""

    loaded: LoadedConfig | None
    """None where there is no model. A faulty section is as the recipe has it."""
    errors: tuple[ConfigError, ...]
    faulty_sections: frozenset[str]
    """Those whose values keep a rule of theirs not."""


def load_config(given: GivenFlags) -> LoadedConfig:
    """Flags win over the file, and the file over the recipe. Raises ConfigError."""
    attempt = attempt_config(given)
    if attempt.errors:
        raise attempt.errors[0]
    assert attempt.loaded is not None  # without errors there is a model
    return attempt.loaded


def attempt_config(given: GivenFlags) -> Attempt:
    """What load_config does, with every error in place of the first."""
    try:
        config, changes, origins = _gather(given)
    except ConfigError as error:
        # What the run is cannot be known.
        return Attempt(loaded=None, errors=(error,), faulty_sections=frozenset())
    # Applied together, so that a rule within a section sees the final values only.
    config, faults = _replace_sections(config, changes)
    errors = list(faults.values())
    if not faults:
        errors += map(ConfigError, config.faults())
    errors += _errors_of(
        lambda: _check_device(config.training.device),
        lambda: _check_overrides(config, origins),
    )
    model, no_model = _attempt_model(config)
    if model is not None:
        name = config.model.model_config or config.model.model
        others = {other: _of_length(registry.get(other), config) for other in registry.names()}
        errors += _errors_of(lambda: check_statements(given.statements, model, name, others))
    elif str(no_model) not in map(str, errors):
        # Overrides that cannot be read were met by their check as well.
        errors.append(ConfigError(str(no_model)))
    return Attempt(
        loaded=LoadedConfig(config=config, origins=origins, model=model) if model else None,
        errors=tuple(errors),
        faulty_sections=frozenset(faults),
    )


def _errors_of(*checks: Callable[[], None]) -> list[ConfigError]:
    errors = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            errors.append(error)
    return errors


def _gather(
    given: GivenFlags,
) -> tuple[RunConfig, dict[str, SettingValue], dict[str, str]]:
    """(the recipe's configuration, changes of file and flags, origin of each setting)."""
    config = RunConfig()
    origins = {setting.key: "default" for setting in settings().values()}
    if given.recipe is not None:
        config = load_recipe(given.recipe)
        for setting in settings().values():
            # A recipe does not tell which fields it set, so a value that equals the default counts
            # as the default.
            if setting.value_in(config) != setting.default:
                origins[setting.key] = f"recipe {given.recipe}"
    changes: dict[str, SettingValue] = {}
    if given.config_file is not None:
        from_file = read_toml(Path(given.config_file))
        changes.update(from_file)
        origins.update({settings()[name].key: f"file {given.config_file}" for name in from_file})
    changes.update(given.values)
    origins.update({settings()[name].key: origin for name, origin in given.origins.items()})
    return config, changes, origins


def _check_device(name: str) -> None:
    """Refuse an unknown platform; whether its device is there is checked at the start of a run."""
    try:
        check_platform_name(name)
    except UnknownPlatformError as error:
        raise ConfigError(f"--device {name}: {error}") from error


def _check_overrides(config: RunConfig, origins: Mapping[str, str]) -> None:
    """Refuse a setting that --model-override contradicts, as both cannot take effect."""
    overrides = config.model.overrides()
    for setting in settings().values():
        value = setting.value_in(config)
        if setting.name not in overrides or value in (None, overrides[setting.name]):
            continue
        raise ConfigError(
            f"{setting.flag} is {value} ({origins[setting.key]}), but --model-override says "
            f"{setting.name}={overrides[setting.name]}. Give one of them; {setting.flag} is the "
            "run's own."
        )


def _attempt_model(config: RunConfig) -> tuple[ModelConfig | None, Exception | None]:
    """The resolved model with the run's sequence length, or why there is none."""
    try:
        return _of_length(config.model.resolve(), config), None
    except (ConfigError, MlModelsError) as error:
        return None, error


def _of_length(model: ModelConfig, config: RunConfig) -> ModelConfig:
    length = config.training.seq_length
    return model if length is None else model.replace(seq_length=length)


def replace_settings(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    """config with fields changed by their bare names, whatever section they are in."""
    changed, faults = _replace_sections(config, changes)
    for error in faults.values():
        raise error
    return changed


def _replace_sections(
    config: RunConfig, changes: Mapping[str, object]
) -> tuple[RunConfig, dict[str, ConfigError]]:
    """The changed configuration, and the error of each section that stays as it was."""
    by_section: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        by_section.setdefault(settings()[name].section, {})[name] = value
    sections, faults = {}, {}
    for section, values in by_section.items():
        try:
            sections[section] = dataclasses.replace(getattr(config, section), **values)
        except ConfigError as error:
            faults[section] = error
    return dataclasses.replace(config, **sections), faults


def load_recipe(name: str) -> RunConfig:
    """Call a recipe, a built-in name or module:function, or read it from a file FILE.toml."""
    if name in recipes.RECIPES:
        return recipes.RECIPES[name]()
    if name.endswith(".toml"):
        return replace_settings(RunConfig(), read_toml(Path(name), flag="--recipe"))
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ConfigError(
            f"--recipe {name!r} is neither a built-in recipe ({', '.join(recipes.RECIPES)}) nor "
            f"module:function nor a FILE.toml.{_did_you_mean(name, recipes.RECIPES)}"
        )
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # the module is the user's code
        raise ConfigError(f"--recipe {name!r} cannot be loaded: {error}.") from error
    try:
        config = function()
    except ConfigError:
        raise
    except Exception as error:  # a recipe is the user's code
        raise ConfigError(
            f"--recipe {name!r} cannot be built: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"--recipe {name!r} returned {type(config).__name__}; a recipe returns a RunConfig."
        )
    return config


def read_toml(path: Path, *, flag: str = "--config") -> dict[str, SettingValue]:
    """Field name -> value of a TOML file with one table per section. Raises ConfigError.

    flag: the flag that names the file, for messages.
    """
    document = toml_document(path, flag)
    sections = [field.name for field in dataclasses.fields(RunConfig)]
    values: dict[str, SettingValue] = {}
    for section, table in document.items():
        if section not in sections or not isinstance(table, dict):
            raise ConfigError(_unknown(f"{path}: table [{section}]", section, sections))
        names = [setting.name for setting in settings().values() if setting.section == section]
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in names:
                raise ConfigError(_unknown(f"{path}: key {key!r} of [{section}]", name, names))
            if name in values:
                raise ConfigError(f"{path}: {section}.{name} is given twice; give it once.")
            values[name] = settings()[name].parse(value, f"{path}: {section}.{key}")
    return values


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = nearest_name(name, known)
    return "" if nearest is None else f" Did you mean {nearest}?"


def _unknown(subject: str, name: str, known: Sequence[str]) -> str:
    hint = _did_you_mean(name, known) or f" Known: {', '.join(known)}."
    return f"{subject} is unknown.{hint}"
