"""Content of the token files and of the tokenizer, as facts that nodes compare before step 1.

The paths may differ between nodes; their content may not.
"""

import hashlib
from pathlib import Path

from ml_train.config.facts import in_words
from ml_train.config.run import RunConfig
from ml_train.config.sections.data import parse_blend
from ml_train.data.manifest import tokenizer_facts
from ml_train.errors import MlTrainError

_NUM_BLOCKS, _BLOCK_BYTES = 64, 4096


def facts_of_files(config: RunConfig) -> dict[str, str]:
    """Content of the token files and of the tokenizer, as this node sees them.

    Token files are read in 64 blocks of 4 KiB, which takes milliseconds for any size. A file that
    cannot be read gives a fact as well: other nodes may have it.
    """
    facts = {}
    for flag, words in config.data.blends.items():
        prefixes, weights = parse_blend(words, flag)
        facts[f"the number of prefixes of {flag}"] = str(len(prefixes))
        facts[f"the weights of {flag}"] = in_words(None if weights is None else tuple(weights))
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
            for block in range(_NUM_BLOCKS):
                file.seek(max(size - _BLOCK_BYTES, 0) * block // (_NUM_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{size} bytes with digest {digest.hexdigest()[:12]}"


def _tokenizer(config: RunConfig) -> str:
    try:
        facts = tokenizer_facts(config.tokenizer)
    except MlTrainError as error:
        return f"unreadable: {error}"
    assert facts is not None  # the caller has checked that the path is given
    return f"{facts.vocab_size} entries with fingerprint {facts.fingerprint[:12]}"
