"""What the manifest of a merge or a split may state: only what holds for every part.

A part without a manifest has an unknown tokenizer, and so has every output that it goes into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ml_data.errors import FormatError
from ml_data.indexed.files import FileFacts
from ml_data.indexed.ledger import sum_of
from ml_data.indexed.manifest import Manifest, Provenance, TokenizerRecord, known_manifest
from ml_data.indexed.pair_writer import PairWriter
from ml_data.pipeline.manifest import versions

_SHAPING = ("append_eod", "parse_special_tokens", "add_bos")


def origin(prefix: str) -> dict[str, object]:
    """A part as the manifest of a merge or split names it."""
    manifest = known_manifest(prefix)
    files = None
    if manifest is not None:
        files = {name: facts.to_json() for name, facts in manifest.files.items()}
    return {"prefix": Path(prefix).name, "files": files}


def shared_facts(prefixes: Sequence[str], manifests: Sequence[Manifest | None]) -> Provenance:
    """`key`, `tokenizer`, `options` and `ledger` as far as all parts have and share them.

    Raises FormatError where two parts are known to have ids that do not go together.
    """
    _refuse_mixtures(prefixes, manifests)
    known = [manifest for manifest in manifests if manifest is not None]
    if len(known) < len(prefixes):
        return Provenance()
    keys = {manifest.key for manifest in known}
    ledgers = [manifest.ledger for manifest in known if manifest.ledger is not None]
    return Provenance(
        key=keys.pop() if len(keys) == 1 else None,
        tokenizer=_shared_tokenizer([manifest.tokenizer for manifest in known]),
        options=_shared_options([manifest.options for manifest in known]),
        ledger=sum_of(ledgers) if len(ledgers) == len(known) else None,
    )


def _shared_tokenizer(records: Sequence[TokenizerRecord | None]) -> TokenizerRecord | None:
    """The record of the first part, without an end-of-document id on which the parts differ."""
    first = records[0]
    if first is None or any(record is None for record in records):
        return None
    if any(record.eod_id != first.eod_id for record in records if record is not None):
        return replace(first, eod_id=None)
    return first


def _shared_options(sections: Sequence[Mapping[str, object] | None]) -> dict[str, object] | None:
    """The options that have the same value in all parts."""
    options = [section for section in sections if section is not None]
    if len(options) < len(sections):
        return None
    return {
        name: value
        for name, value in options[0].items()
        if all(name in other and other[name] == value for other in options)
    }


def unknown_tokenizers(
    prefixes: Sequence[str], manifests: Sequence[Manifest | None]
) -> list[str]:  # fmt: skip
    """The parts of which no manifest says what tokenizer made them."""
    return [
        prefix
        for prefix, manifest in zip(prefixes, manifests, strict=True)
        if manifest is None or manifest.tokenizer is None
    ]


def _refuse_mixtures(prefixes: Sequence[str], manifests: Sequence[Manifest | None]) -> None:
    known = [
        (prefix, manifest, manifest.tokenizer)
        for prefix, manifest in zip(prefixes, manifests, strict=True)
        if manifest is not None and manifest.tokenizer is not None
    ]
    for prefix, manifest, tokenizer in known[1:]:
        first, first_manifest, first_tokenizer = known[0]
        if first_tokenizer.fingerprint != tokenizer.fingerprint:
            raise FormatError(
                f"{prefix} and {first} were made with different tokenizers: ids would mix"
            )
        options, first_options = manifest.options or {}, first_manifest.options or {}
        for name in _SHAPING:
            # A manifest of 1.0.0 has no `add_bos`: that version had no such option.
            if first_options.get(name, False) != options.get(name, False):
                flag = f"--{name.replace('_', '-')}"
                raise FormatError(
                    f"{first} and {prefix} were made one with {flag}, one without: tokenize one "
                    "of them again (or take its .json away to merge them all the same)"
                )
        if first_options.get("append_eod") and first_tokenizer.eod_id != tokenizer.eod_id:
            raise FormatError(
                f"{first} ends documents with the id {first_tokenizer.eod_id}, {prefix} with "
                f"{tokenizer.eod_id}: tokenize one of them again with the same --eod-token or "
                "--eod-id"
            )


def combined_manifest(
    writer: PairWriter, shared: Provenance, sealed: Mapping[str, FileFacts]
) -> Manifest:
    """The manifest of a merge or split, whose `sealed` files are given by suffix."""
    name = writer.prefix.name
    return Manifest(
        **vars(shared),
        dtype=writer.dtype.name,
        num_documents=writer.num_documents,
        num_sequences=writer.num_sequences,
        num_tokens=writer.num_tokens,
        files={f"{name}{suffix}": facts for suffix, facts in sealed.items()},
        versions=versions(),
        run={},
    )
