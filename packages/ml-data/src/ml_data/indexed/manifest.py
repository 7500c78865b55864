"""P.json, the manifest beside a pair: how it is recognised, read and written.

A manifest that this package wrote says so in its first field. Any other file of that name, such as
a raw `corpus.json` beside `corpus.bin`, is the user's data: it is never replaced, and `inspect`,
`verify`, `merge` and `split` pass over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_data.errors import FormatError
from ml_data.indexed import layout
from ml_data.indexed.files import FileFacts
from ml_data.indexed.ledger import OutputLedger

FORMAT = "ml-data manifest"
FORMAT_VERSION = 1
_HEAD_BYTES = 4096
# Another program may have written a manifest again, with its fields in another order. Such a file
# is parsed as a whole. A manifest with a million inputs is still smaller than this.
_MAX_PARSED_BYTES = 256 << 20
_WAY_OUT = "Copy it again from where it is whole, or move it away to use the pair without it"
# What a field must be, where it is there at all.
_KINDS: dict[str, type] = {
    "format_version": int, "dtype": str, "num_documents": int, "num_sequences": int,
    "num_tokens": int, "files": dict, "tokenizer": dict, "options": dict, "ledger": dict,
    "inputs": list, "run": dict,
}  # fmt: skip
_REQUIRED = ("format_version", "files")


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that made the ids of a pair. None stands for what is not known."""

    path: str | None = None
    type: str | None = None
    vocab_size: int | None = None
    """The highest id plus 1."""
    eod_id: int | None = None
    fingerprint: str | None = None
    """sha256 of the tokenizer's files."""
    engine: str | None = None
    other: Mapping[str, object] = field(default_factory=dict)
    """Fields of a newer version."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TokenizerRecord:
        """The section `tokenizer` of a manifest. Raises TypeError for a field of a wrong kind."""
        kinds = {"path": str, "type": str, "vocab_size": int, "eod_id": int, "fingerprint": str}
        for name, kind in kinds.items():
            if not isinstance(values.get(name), (kind, type(None))):
                raise TypeError(f"{name} of its tokenizer is {values[name]!r}")
        names = (*kinds, "engine")
        known = {name: values.get(name) for name in names}
        return cls(**known, other=_without(values, names))

    def to_json(self) -> dict[str, object]:
        """As in a manifest, which states `eod_id` also where there is none."""
        values: dict[str, object] = {
            "path": self.path,
            "type": self.type,
            "vocab_size": self.vocab_size,
            "eod_id": self.eod_id,
            "fingerprint": self.fingerprint,
            "engine": self.engine,
            **self.other,
        }
        return _known(values, always="eod_id")


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """An input file of a run: its name, its size, and the rows that the run read of it."""

    path: str
    num_bytes: int
    num_rows: int
    sha256: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InputRecord:
        """An entry of the section `inputs` of a manifest. Raises KeyError where a field lacks."""
        return cls(
            path=values["path"],
            num_bytes=values["bytes"],
            num_rows=values["rows"],
            sha256=values.get("sha256"),
        )

    def to_json(self) -> dict[str, object]:
        """As in a manifest."""
        return {
            "path": self.path,
            "bytes": self.num_bytes,
            "rows": self.num_rows,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the documents of a pair come from. None stands for what is not known.

    `tokenizer`, `options`, `ledger` and `inputs` are those of `ml-data tokenize`; a merge keeps of
    them what all its parts share.
    """

    key: str | None = None
    """The column or JSON key that the texts come from."""
    tokenizer: TokenizerRecord | None = None
    options: Mapping[str, object] | None = None
    """The options that shape the output."""
    ledger: OutputLedger | None = None
    inputs: list[InputRecord] | None = None
    merged_from: list[dict[str, object]] | None = None
    split_from: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Provenance):
    """What is known of a pair. None stands for what is not known.

    Everything but `run` depends on the inputs, the options and the installed versions alone.
    """

    files: Mapping[str, FileFacts]
    """The files of the output with their sizes and checksums, by name."""
    dtype: str | None = None
    num_documents: int | None = None
    num_sequences: int | None = None
    num_tokens: int | None = None
    versions: Mapping[str, str] | None = None
    """Of this package, Python and the libraries that the ids depend on."""
    run: Mapping[str, object] | None = None
    """When, where and how long the output was made."""
    format_version: int = FORMAT_VERSION
    other: Mapping[str, object] = field(default_factory=dict)
    """Fields of a newer version."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """The manifest of checked values. Raises KeyError, TypeError or AttributeError."""
        sections: dict[str, Any] = {name: values.get(name) for name in _PLAIN_SECTIONS}
        if values.get("tokenizer") is not None:
            sections["tokenizer"] = TokenizerRecord.from_json(values["tokenizer"])
        if values.get("ledger") is not None:
            sections["ledger"] = OutputLedger.from_json(values["ledger"])
        if values.get("inputs") is not None:
            sections["inputs"] = [InputRecord.from_json(entry) for entry in values["inputs"]]
        sections["files"] = {
            name: FileFacts.from_json(entry) for name, entry in values["files"].items()
        }
        return cls(**sections, other=_without(values, ("format", *_KINDS, *_PLAIN_SECTIONS)))

    def to_json(self) -> dict[str, object]:
        """The values of P.json, in the order in which they are written."""
        values: dict[str, object] = {
            "format_version": self.format_version,
            "key": self.key,
            "dtype": self.dtype,
            "num_documents": self.num_documents,
            "num_sequences": self.num_sequences,
            "num_tokens": self.num_tokens,
            "tokenizer": self.tokenizer and self.tokenizer.to_json(),
            "options": self.options,
            "ledger": self.ledger and self.ledger.to_json(),
            "inputs": self.inputs and [entry.to_json() for entry in self.inputs],
            "merged_from": self.merged_from,
            "split_from": self.split_from,
            **self.other,
            "files": {name: entry.to_json() for name, entry in self.files.items()},
            "versions": self.versions,
            "run": self.run,
        }
        return {"format": FORMAT, **_known(values, always="key")}

    def to_bytes(self) -> bytes:
        """The content of P.json."""
        return json.dumps(self.to_json(), indent=2).encode("ascii") + b"\n"

    def listed_bytes(self, suffix: str) -> int | None:
        """Size of the pair's file with this suffix; None where the manifest does not list it.

        The suffix decides, as a pair that was renamed keeps its manifest.
        """
        sizes = (entry.num_bytes for name, entry in self.files.items() if name.endswith(suffix))
        return next(sizes, None)


_PLAIN_SECTIONS = (
    "format_version", "key", "dtype", "num_documents", "num_sequences", "num_tokens", "options",
    "merged_from", "split_from", "versions", "run",
)  # fmt: skip


def _known(values: Mapping[str, object], *, always: str) -> dict[str, object]:
    """The values that are not None, and the field `always` in any case."""
    return {name: value for name, value in values.items() if value is not None or name == always}


def _without(values: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in names}


def is_manifest(path: Path) -> bool:
    """Whether the file at `path` is a manifest of this package, damaged or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.lstrip().startswith(b"{"):
        return False
    # Written by this package the mark is the first field, so a large manifest is not parsed.
    if f'"{FORMAT}"'.encode() in head:
        return True
    if len(head) < _HEAD_BYTES or path.stat().st_size > _MAX_PARSED_BYTES:
        return False
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def read_manifest(prefix: str | Path) -> Manifest | None:
    """The manifest beside `prefix`; None when there is no file of that name.

    Raises FormatError for a file that is no manifest, is damaged, or is of a later version.
    """
    path = layout.manifest_path(prefix)
    if not path.exists():
        return None
    try:
        if not is_manifest(path):
            raise FormatError(f"{path} is not a manifest of ml-data")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is a damaged manifest: {error}. {_WAY_OUT}") from error
    _check_fields(values, path)
    try:
        manifest = Manifest.from_json(values)
        if manifest.ledger is not None:
            manifest.ledger.require_sums(manifest.num_documents, manifest.num_tokens)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{path} is a damaged manifest: {_explain(error)}. {_WAY_OUT}") from error
    return manifest


def _explain(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error)


def known_manifest(prefix: str | Path) -> Manifest | None:
    """As `read_manifest`, but None where the file of that name is no manifest."""
    return read_manifest(prefix) if is_manifest(layout.manifest_path(prefix)) else None


def _check_fields(values: dict[str, Any], path: Path) -> None:
    for name, kind in _KINDS.items():
        value = values.get(name)
        if value is None and name not in _REQUIRED:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FormatError(
                f"{path} is a damaged manifest: its field {name!r} is {value!r}. {_WAY_OUT}"
            )
    if values["format_version"] > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format version {values['format_version']}, this ml-data reads up to "
            f"{FORMAT_VERSION}: install a newer one"
        )
    if not values["files"]:
        raise FormatError(f"{path} is a damaged manifest: it lists no files. {_WAY_OUT}")
    for name, facts in values["files"].items():
        if not isinstance(facts, dict) or not isinstance(facts.get("bytes"), int):
            raise FormatError(
                f"{path} is a damaged manifest: the size of {name!r} is missing. {_WAY_OUT}"
            )
