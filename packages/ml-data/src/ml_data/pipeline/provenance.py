"""What the manifest of a merge or a split may claim: only what holds for every part.

A part without a manifest has an unknown tokenizer, and so has a whole that it went into.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_data.errors import FormatError
from ml_data.indexed.files import FileFacts
from ml_data.indexed.manifest import FORMAT, FORMAT_VERSION, known_manifest
from ml_data.indexed.pair_writer import PairWriter
from ml_data.pipeline.manifest import versions

_SHAPING = ("append_eod", "parse_special_tokens", "add_bos")


def origin(prefix: str) -> dict[str, Any]:
    """A part as the manifest of a whole names it."""
    manifest = known_manifest(prefix)
    return {"prefix": Path(prefix).name, "files": manifest["files"] if manifest else None}


def common_facts(
    prefixes: Sequence[str], manifests: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """`key`, `tokenizer`, `options` and `ledger` as far as all parts have and share them.

    Raises FormatError where two parts are known to have ids that do not go together.
    """
    _refuse_mixtures(prefixes, manifests)
    facts: dict[str, Any] = {}
    known = [manifest for manifest in manifests if manifest is not None]
    complete = len(known) == len(prefixes)
    keys = {manifest.get("key") for manifest in known}
    facts["key"] = keys.pop() if complete and len(keys) == 1 else None
    if complete and all("tokenizer" in manifest for manifest in known):
        tokenizers = [manifest["tokenizer"] for manifest in known]
        facts["tokenizer"] = dict(tokenizers[0])
        if any(other.get("eod_id") != tokenizers[0].get("eod_id") for other in tokenizers):
            facts["tokenizer"]["eod_id"] = None
    if complete and all("options" in manifest for manifest in known):
        first = known[0]["options"]
        facts["options"] = {
            name: value
            for name, value in first.items()
            if all(
                name in manifest["options"] and manifest["options"][name] == value
                for manifest in known
            )
        }
    if complete and all("ledger" in manifest for manifest in known):
        facts["ledger"] = add_ledgers([manifest["ledger"] for manifest in known])
    return facts


def unknown_tokenizers(
    prefixes: Sequence[str], manifests: Sequence[dict[str, Any] | None]
) -> list[str]:
    """The parts of which no manifest says what tokenizer made them."""
    return [
        prefix
        for prefix, manifest in zip(prefixes, manifests, strict=True)
        if manifest is None or "tokenizer" not in manifest
    ]


def _refuse_mixtures(prefixes: Sequence[str], manifests: Sequence[dict[str, Any] | None]) -> None:
    known = [
        (prefix, manifest)
        for prefix, manifest in zip(prefixes, manifests, strict=True)
        if manifest is not None and "tokenizer" in manifest
    ]
    for prefix, manifest in known[1:]:
        first, other = known[0]
        tokenizers = other["tokenizer"], manifest["tokenizer"]
        if tokenizers[0].get("fingerprint") != tokenizers[1].get("fingerprint"):
            raise FormatError(
                f"{prefix} and {first} were made with different tokenizers: ids would mix"
            )
        options = other.get("options", {}), manifest.get("options", {})
        for name in _SHAPING:
            # A manifest of 1.0.0 has no `add_bos`: it could not be asked for.
            given = [values.get(name, False) for values in options]
            if given[0] != given[1]:
                flag = f"--{name.replace('_', '-')}"
                raise FormatError(
                    f"{first} and {prefix} were made one with {flag}, one without: tokenize one "
                    "of them again (or take its .json away to merge them all the same)"
                )
        ends = [facts.get("eod_id") for facts in tokenizers]
        if options[0].get("append_eod") and ends[0] != ends[1]:
            raise FormatError(
                f"{first} ends documents with the id {ends[0]}, {prefix} with {ends[1]}: tokenize "
                "one of them again with the same --eod-token or --eod-id"
            )


def add_ledgers(ledgers: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several ledgers."""
    total: dict[str, Any] = {}
    for ledger in ledgers:
        for name, value in ledger.items():
            if isinstance(value, dict):
                into = total.setdefault(name, {})
                for reason, count in value.items():
                    into[reason] = into.get(reason, 0) + count
                total[name] = dict(sorted(into.items()))
            else:
                total[name] = total.get(name, 0) + value
    return total


def combined_manifest(
    writer: PairWriter, facts: dict[str, Any], sealed: dict[str, FileFacts]
) -> dict[str, Any]:
    """The manifest of a sealed merge or split."""
    name = writer.prefix.name
    made: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": facts.get("key"),
        "dtype": writer.dtype.name,
        "num_documents": writer.num_documents,
        "num_sequences": writer.num_sequences,
        "num_tokens": writer.num_tokens,
    }
    made.update({field: facts[field] for field in ("tokenizer", "options") if field in facts})
    made.update({field: value for field, value in facts.items() if field not in made})
    made["files"] = {f"{name}{suffix}": facts.to_dict() for suffix, facts in sealed.items()}
    made["versions"] = versions()
    made["run"] = {}
    return made
