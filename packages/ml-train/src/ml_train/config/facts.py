"""What decides a run, as facts that ranks compare before the first step.

A setting is a fact unless its field is marked PerNode (config/sections/rules.py). Such a setting
only says where a node keeps its files, or its content is compared in its place (data/facts.py).
"""

import platform
from importlib import metadata

from ml_train.config.fields import settings
from ml_train.config.load import LoadedConfig

DISTRIBUTIONS = ("ml-train", "ml-models", "ml-data", "torch", "megatron-core", "numpy")
"""Those whose versions can change a run's numbers."""
OPTIONAL_DISTRIBUTIONS = ("torch-npu", "mindspeed", "transformer-engine", "apex")


def facts_of_run(loaded: LoadedConfig, platform_name: str) -> dict[str, str]:
    """Settings, the model's fields, versions, and the platform that was chosen."""
    facts = {}
    for setting in settings().values():
        if setting.declared.per_node is None:
            facts[setting.flag] = in_words(setting.value_in(loaded.config))
    for name, value in loaded.model.to_dict().items():
        facts[f"the model's {name}"] = str(value)
    for name in (*DISTRIBUTIONS, *OPTIONAL_DISTRIBUTIONS):
        facts[f"the version of {name}"] = _version(name)
    facts["the version of Python"] = ".".join(platform.python_version_tuple()[:2])
    facts["the platform"] = platform_name
    return facts


def in_words(value: object) -> str:
    """A setting's value as ranks compare and show it."""
    if value is None or value == ():
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
