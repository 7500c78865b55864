"""P.json, the manifest that ml-data writes beside P.bin and P.idx, against model and tokenizer.

Checked before step 0 because ids of another tokenizer train without any error. Token files of
other tools have no manifest: then there is nothing to check, and a log line says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_data.errors import MlDataError
from ml_data.indexed.manifest import read_manifest
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


def tokenizer_facts(section: TokenizerSection) -> TokenizerFacts | None:
    """Facts of the tokenizer that the run names; None where it names none. Raises DataError."""
    if section.path is None:
        return None
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


def check_manifests(
    data: DataSection, *, vocab_size: int | None, eod_id: int | None, fingerprint: str | None
) -> int | None:
    """Check every prefix's manifest; the end-of-document id they agree on. Raises DataError."""
    prefixes: list[str] = []
    for words in (data.data_path, data.train_data_path, data.valid_data_path, data.test_data_path):
        prefixes += parse_blend(words, "--data-path")[0]
    found: int | None = None
    for prefix in dict.fromkeys(prefixes):
        try:
            manifest = read_manifest(prefix)
        except MlDataError as error:
            raise DataError(f"{error}.") from error
        if manifest is None:
            terminal.notice(f"{prefix} has no manifest: tokenizer and checksums are not checked")
            continue
        _check_sizes(prefix, manifest)
        tokenizer = manifest.get("tokenizer")
        if tokenizer is None:
            terminal.notice(f"{prefix}.json does not say what tokenizer made it: it is not checked")
            continue
        _check_tokenizer(prefix, tokenizer, vocab_size, eod_id, fingerprint)
        eod = tokenizer.get("eod_id")
        if found is not None and eod is not None and eod != found:
            raise DataError(
                f"{prefix}.json: end-of-document id {eod}, but another file of the blend has "
                f"{found}: they were made with different tokenizers."
            )
        found = eod if eod is not None else found
    return found


def _check_tokenizer(
    prefix: str,
    facts: dict[str, Any],
    vocab_size: int | None,
    eod_id: int | None,
    fingerprint: str | None,
) -> None:
    made_with = facts.get("vocab_size")
    if vocab_size is not None and made_with is not None and made_with > vocab_size:
        raise DataError(
            f"{prefix} was made with a vocabulary of {made_with} ids, but the model has only "
            f"{vocab_size}: use the model's own tokenizer."
        )
    made_with = facts.get("eod_id")
    if eod_id is not None and made_with is not None and made_with != eod_id:
        raise DataError(
            f"{prefix} was made with end-of-document id {made_with}, the tokenizer has {eod_id}."
        )
    made_with = facts.get("fingerprint")
    if fingerprint is not None and made_with is not None and made_with != fingerprint:
        raise DataError(
            f"{prefix} was made with another tokenizer (fingerprint {str(made_with)[:12]}) than "
            f"the one that was given (fingerprint {fingerprint[:12]}): tokenize again with it, or "
            "give the one that made the data."
        )


def _check_sizes(prefix: str, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        path = Path(prefix).parent / Path(name).name
        if path.is_file() and path.stat().st_size != entry["bytes"]:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes, but its manifest says {entry['bytes']}: "
                "it was changed or cut off after it was made. Tokenize or copy it again."
            )
