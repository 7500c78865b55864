"""P.json, the manifest that ml-data writes beside P.bin and P.idx, against model and tokenizer.

It is checked before the first step because ids of another tokenizer train without any error. Token
files of other tools have no manifest: they are not checked, and a notice says so.
"""

from dataclasses import dataclass
from pathlib import Path

from ml_data.errors import MlDataError
from ml_data.indexed.manifest import Manifest, TokenizerRecord, read_manifest
from ml_train import terminal
from ml_train.config.sections.data import DataSection, parse_blend
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a run needs of its tokenizer."""

    vocab_size: int
    eod_id: int | None
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ExpectedTokens:
    """What token files are checked against; None where nothing is known."""

    vocab_size: int | None = None
    """The model's, without padding."""
    eod_id: int | None = None
    """The tokenizer's; unset, the manifests' is taken."""
    tokenizer_fingerprint: str | None = None


def tokenizer_facts(section: TokenizerSection) -> TokenizerFacts | None:
    """Facts of the tokenizer that the run names; None where it names none. Raises DataError."""
    if section.path is None:
        return None
    # Imported here: its import takes 0.2 s, for pyarrow, and most runs name no tokenizer.
    from ml_data.tokenizers import load_tokenizer

    if section.tokenizer_type == "Llama2Tokenizer" and Path(section.path).suffix != ".model":
        raise DataError(
            f"--tokenizer-type Llama2Tokenizer is a tokenizer.model file, {section.path} is none: "
            "give the file, or --tokenizer-type PretrainedFromHF for a directory."
        )
    try:
        tokenizer = load_tokenizer(section.path)
    except MlDataError as error:
        raise DataError(f"--tokenizer-name-or-path {section.path}: {error}.") from error
    return TokenizerFacts(
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        fingerprint=tokenizer.fingerprint,
    )


def check_manifests(data: DataSection, expected: ExpectedTokens) -> int | None:
    """Check every prefix's manifest; the end-of-document id they agree on. Raises DataError."""
    prefixes: list[str] = []
    for flag, words in data.blends.items():
        prefixes += parse_blend(words, flag)[0]
    agreed_eod_id: int | None = None
    for prefix in dict.fromkeys(prefixes):
        try:
            manifest = read_manifest(prefix)
        except MlDataError as error:
            raise DataError(f"{error}.") from error
        if manifest is None:
            terminal.notice(f"{prefix} has no manifest: tokenizer and checksums are not checked")
            continue
        _check_sizes(prefix, manifest)
        tokenizer = manifest.tokenizer
        if tokenizer is None:
            terminal.notice(f"{prefix}.json does not say what tokenizer made it: it is not checked")
            continue
        _check_tokenizer(prefix, tokenizer, expected)
        eod_id = tokenizer.eod_id
        if eod_id is None:
            continue
        if agreed_eod_id is not None and eod_id != agreed_eod_id:
            raise DataError(
                f"{prefix}.json: end-of-document id {eod_id}, but another file of the blend has "
                f"{agreed_eod_id}: they were made with different tokenizers."
            )
        agreed_eod_id = eod_id
    return agreed_eod_id


def _check_tokenizer(prefix: str, recorded: TokenizerRecord, expected: ExpectedTokens) -> None:
    """Hold what a manifest says of its tokenizer against what is expected; absent facts pass."""
    vocab_size = recorded.vocab_size
    model_size = expected.vocab_size
    if model_size is not None and vocab_size is not None and vocab_size > model_size:
        raise DataError(
            f"{prefix} was made with a vocabulary of {vocab_size} ids, but the model has only "
            f"{model_size}: use the model's own tokenizer."
        )
    eod_id = recorded.eod_id
    if None not in (expected.eod_id, eod_id) and eod_id != expected.eod_id:
        raise DataError(
            f"{prefix} was made with end-of-document id {eod_id}, the tokenizer has "
            f"{expected.eod_id}."
        )
    fingerprint, given = recorded.fingerprint, expected.tokenizer_fingerprint
    if given is not None and fingerprint is not None and fingerprint != given:
        raise DataError(
            f"{prefix} was made with another tokenizer (fingerprint {fingerprint[:12]}) than "
            f"the one that was given (fingerprint {given[:12]}): tokenize again with it, or "
            "give the one that made the data."
        )


def _check_sizes(prefix: str, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = Path(prefix).parent / Path(name).name
        if path.is_file() and path.stat().st_size != entry.num_bytes:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes, but its manifest says {entry.num_bytes}: "
                "it was changed or cut off after it was made. Tokenize or copy it again."
            )
