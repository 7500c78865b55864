"""What decides a run, as facts that ranks compare before the first step.

A setting is a fact unless its field is marked PerNode (config/rules.py): then it only says where a
node keeps its files, or what it names is compared by content.
"""

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from ml_train.config.fields import settings
from ml_train.config.load import LoadedConfig
from ml_train.config.run import RunConfig
from ml_train.data.config import parse_blend
from ml_train.errors import MlTrainError

DISTRIBUTIONS = ("ml-train", "ml-models", "ml-data", "torch", "megatron-core", "numpy")
"""Those whose versions can change a run's numbers."""
OPTIONAL_DISTRIBUTIONS = ("torch-npu", "mindspeed", "transformer-engine", "apex")

_BLOCKS, _BLOCK_BYTES = 64, 4096


def facts_of_run(loaded: LoadedConfig, platform_name: str) -> dict[str, str]:
    """Settings, the model's fields, versions, and the platform that was chosen."""
    facts = {}
    for setting in settings().values():
        if setting.declared.per_node is None:
            value = getattr(getattr(loaded.config, setting.section), setting.name)
            facts[setting.flag] = _words(value)
    for name, value in loaded.model.to_dict().items():
        facts[f"the model's {name}"] = str(value)
    for name in (*DISTRIBUTIONS, *OPTIONAL_DISTRIBUTIONS):
        facts[f"the version of {name}"] = _version(name)
    facts["the version of Python"] = ".".join(platform.python_version_tuple()[:2])
    facts["the platform"] = platform_name
    return facts


def facts_of_files(config: RunConfig) -> dict[str, str]:
    """Content of the token files and of the tokenizer, as this node sees them.

    Token files are read in 64 blocks of 4 KiB each, which takes milliseconds for any size. A file
    that cannot be read is a fact too: other nodes may have it.
    """
    facts = {}
    data = config.data
    for name in ("data_path", "train_data_path", "valid_data_path", "test_data_path"):
        flag = "--" + name.replace("_", "-")
        prefixes, weights = parse_blend(getattr(data, name), flag)
        facts[f"the number of prefixes of {flag}"] = str(len(prefixes))
        facts[f"the weights of {flag}"] = _words(None if weights is None else tuple(weights))
        for number, prefix in enumerate(prefixes, start=1):
            for suffix in (".bin", ".idx"):
                facts[f"{flag} (prefix {number}, {suffix})"] = sampled_content(prefix + suffix)
    if config.tokenizer.path is not None:
        facts["the tokenizer"] = _tokenizer(config)
    return facts


def sampled_content(path: str) -> str:
    """Size and a digest over blocks spread evenly over a file, in words."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            for block in range(_BLOCKS):
                file.seek(max(size - _BLOCK_BYTES, 0) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{size} bytes with digest {digest.hexdigest()[:12]}"


def _tokenizer(config: RunConfig) -> str:
    # Imported here: a run without a tokenizer needs none of its engines.
    from ml_train.data.manifest import tokenizer_facts

    try:
        facts = tokenizer_facts(config.tokenizer)
    except MlTrainError as error:
        return f"unreadable: {error}"
    assert facts is not None  # its path was given
    return f"{facts.vocab_size} entries with fingerprint {facts.fingerprint[:12]}"


def _words(value: object) -> str:
    if value is None or value == ():
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
