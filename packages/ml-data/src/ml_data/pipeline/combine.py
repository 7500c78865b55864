"""Merge pairs into one, split one into several, put the tasks of a run together.

All in constant memory, with manifests that follow from those of the parts; the merge of a run's
tasks is byte-identical to a run in one piece, quarantine and manifest included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ml_data.errors import FormatError, OutputError, UsageError
from ml_data.indexed import layout
from ml_data.indexed.copy import IndexFile, copy_documents
from ml_data.indexed.files import FileFacts, checksum, publish, reporting_output, sync_file
from ml_data.indexed.writer import IndexedDatasetWriter
from ml_data.pipeline.manifest import FORMAT, FORMAT_VERSION, read_manifest, versions
from ml_data.pipeline.output import quarantine_path

_TASK = re.compile(r"\.task-(\d{5})-of-(\d{5})_(.+)_document\.idx$")


def merge(inputs: Sequence[str], output: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Put the pairs `inputs` one after the other; the manifest of `output`."""
    if len(inputs) < 2:
        raise UsageError("merge: name at least two prefixes")
    manifests = [read_manifest(prefix) for prefix in inputs]
    _same_tokenizer(inputs, manifests)
    facts: dict[str, Any] = {"merged_from": [_origin(prefix) for prefix in inputs]}
    ledgers = [one["ledger"] for one in manifests if one and "ledger" in one]
    if len(ledgers) == len(inputs):
        facts["ledger"] = add_ledgers(ledgers)
    parts = [(IndexFile(prefix), 0, None) for prefix in inputs]
    return _write(parts, output, manifests[0], facts, overwrite)


def split(prefix: str, output: str, fractions: Sequence[float], *, overwrite: bool = False) -> list:
    """Cut `prefix` at documents into parts with these shares of the tokens; their manifests."""
    if not fractions or min(fractions) <= 0:
        raise UsageError("split: each part needs a share above 0")
    index, manifest = IndexFile(prefix), read_manifest(prefix)
    total = index.bin_path.stat().st_size
    shares = np.cumsum(fractions) / sum(fractions)
    cuts = [0, *(_document_at(index, total * share) for share in shares[:-1]), index.num_documents]
    made = []
    for number, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        name = f"{output}.part-{number:05}-of-{len(fractions):05}"
        facts = {"split_from": {**_origin(prefix), "documents": [int(start), int(stop)]}}
        made.append(_write([(index, start, stop)], name, manifest, facts, overwrite))
    return made


def _document_at(index: IndexFile, byte: float) -> int:
    """The first document that begins at or after `byte` of the .bin."""
    low, high = 0, index.num_documents
    while low < high:
        middle = (low + high) // 2
        if index.byte_of_document(middle) < byte:
            low = middle + 1
        else:
            high = middle
    return low


def merge_tasks(prefix: str, *, overwrite: bool = False) -> list[dict[str, Any]]:
    """Put the outputs of all tasks of P together, one per key; their manifests."""
    folder, name = Path(prefix).parent, Path(prefix).name
    found: dict[tuple[str, int], set[int]] = {}
    for path in sorted(folder.glob(f"{name}.task-*.idx")):
        match = _TASK.fullmatch(path.name.removeprefix(name))
        if match:
            index, count, key = int(match[1]), int(match[2]), match[3]
            found.setdefault((key, count), set()).add(index)
    if not found:
        raise UsageError(f"{prefix}.task-*: no finished task of --output-prefix {prefix}")
    if len({count for _, count in found}) > 1:
        raise UsageError(f"{prefix}.task-*: outputs of several --num-tasks lie there: remove one")
    made = []
    for (key, count), indices in found.items():
        missing = sorted(set(range(count)) - indices)
        if missing:
            raise FormatError(
                f"{prefix}: {len(missing)} of {count} tasks have not finished {key!r}: "
                f"{', '.join(map(str, missing[:10]))}; run them with --task-index"
            )
        parts = [f"{prefix}.task-{one:05}-of-{count:05}_{key}_document" for one in range(count)]
        made.append(_merge_task_outputs(parts, f"{prefix}_{key}_document", overwrite))
    return made


def _merge_task_outputs(parts: list[str], output: str, overwrite: bool) -> dict[str, Any]:
    manifests = []
    for part in parts:
        manifest = read_manifest(part)
        if manifest is None:
            raise FormatError(f"{part}.json is missing: run that task again with --overwrite")
        manifests.append(manifest)
    first = manifests[0]
    for part, one in zip(parts, manifests, strict=True):
        for name in ("tokenizer", "options", "versions", "dtype"):
            if one[name] != first[name]:
                raise FormatError(f"{part}.json: {name} differs from that of task 0: {one[name]}")
    inputs, rows_before = _add_inputs(parts, manifests)
    facts = {"ledger": add_ledgers([one["ledger"] for one in manifests]), "inputs": inputs}
    quarantine = Path(f"{output}.quarantine.jsonl.tmp")
    with reporting_output(quarantine), quarantine.open("wb") as file:
        for part, before in zip(parts, rows_before, strict=True):
            _copy_quarantine(part, before, file)
        sync_file(file)
    indexes = [(IndexFile(part), 0, None) for part in parts]
    return _write(indexes, output, first, facts, overwrite, quarantine)


def _add_inputs(
    parts: list[str], manifests: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, int]]]:
    """Inputs of the whole, and for each task the rows of JSON lines read before it, by path."""
    total: dict[str, dict[str, Any]] = {}
    before: list[dict[str, int]] = []
    for part, manifest in zip(parts, manifests, strict=True):
        before.append({path: one["rows"] for path, one in total.items()})
        for one in manifest["inputs"]:
            known = total.setdefault(one["path"], {**one, "rows": 0, "sha256": None})
            if known["bytes"] != one["bytes"]:
                raise FormatError(f"{part}.json: {one['path']} had another size than for task 0")
            known["rows"] += one["rows"]
            known["sha256"] = known["sha256"] or one["sha256"]
    return list(total.values()), before


def _copy_quarantine(part: str, rows_before: dict[str, int], file: Any) -> None:
    """Rows of parquet count from the start of the file, those of JSON lines from the task's."""
    path = quarantine_path(part)
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            if not entry["source"].lower().endswith((".parquet", ".pq")):
                entry["row"] += rows_before.get(entry["source"], 0)
            file.write(json.dumps(entry).encode("ascii") + b"\n")


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


def _same_tokenizer(inputs: Sequence[str], manifests: Sequence[dict[str, Any] | None]) -> None:
    known = [(p, m) for p, m in zip(inputs, manifests, strict=True) if m and "tokenizer" in m]
    for prefix, manifest in known[1:]:
        first, other = known[0]
        if manifest["tokenizer"]["fingerprint"] != other["tokenizer"]["fingerprint"]:
            raise FormatError(
                f"{prefix} and {first} were made with different tokenizers: ids would mix"
            )
        for name in ("append_eod", "parse_special_tokens", "add_bos"):
            # A manifest of 1.0.0 has no `add_bos`: it could not be asked for.
            given = [one["options"].get(name, False) for one in (other, manifest)]
            if given[0] != given[1]:
                flag = f"--{name.replace('_', '-')}"
                raise FormatError(
                    f"{first} and {prefix} were made one with {flag}, one without: tokenize one "
                    "of them again (or take its .json away to merge them all the same)"
                )
        _same_end(first, other, prefix, manifest)


def _same_end(first: str, other: dict[str, Any], prefix: str, manifest: dict[str, Any]) -> None:
    ends = [one["tokenizer"]["eod_id"] for one in (other, manifest)]
    if other["options"]["append_eod"] and ends[0] != ends[1]:
        raise FormatError(
            f"{first} ends documents with the id {ends[0]}, {prefix} with {ends[1]}: tokenize one "
            "of them again with the same --eod-token or --eod-id"
        )


def _origin(prefix: str) -> dict[str, Any]:
    manifest = read_manifest(prefix)
    return {"prefix": Path(prefix).name, "files": manifest["files"] if manifest else None}


def _write(
    parts: Sequence[tuple[IndexFile, int, int | None]],
    output: str,
    manifest: dict[str, Any] | None,
    facts: dict[str, Any],
    overwrite: bool,
    quarantine: Path | None = None,
) -> dict[str, Any]:
    if layout.idx_path(output).exists() and not overwrite:
        raise OutputError(f"{output}.idx exists: choose another prefix, or --overwrite")
    with IndexedDatasetWriter(output, parts[0][0].dtype) as writer:
        for index, start, stop in parts:
            copy_documents(index, writer, start, stop)
        sealed = writer.seal()
        moves = writer.moves()
        with reporting_output(output):
            if quarantine is not None and (size := quarantine.stat().st_size):
                digest = checksum(quarantine).hexdigest()
                sealed[".quarantine.jsonl"] = FileFacts(num_bytes=size, sha256=digest)
                moves.insert(1, (quarantine, quarantine_path(output)))
            made = _manifest(writer, manifest, facts, sealed)
            temporary = Path(f"{output}.json.tmp")
            with temporary.open("wb") as file:
                file.write(json.dumps(made, indent=2).encode("ascii") + b"\n")
                sync_file(file)
            moves.insert(-1, (temporary, layout.manifest_path(output)))
            quarantine_path(output).unlink(missing_ok=True)
            publish(moves)
            writer.remove_side_files()
            if quarantine is not None:
                quarantine.unlink(missing_ok=True)
    return made


def _manifest(
    writer: IndexedDatasetWriter,
    origin: dict[str, Any] | None,
    facts: dict[str, Any],
    sealed: dict[str, FileFacts],
) -> dict[str, Any]:
    name = writer.prefix.name
    made: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": origin.get("key") if origin else None,
        "dtype": writer.dtype.name,
        "num_documents": writer.num_documents,
        "num_sequences": writer.num_sequences,
        "num_tokens": writer.num_tokens,
    }
    if origin:
        made.update({one: origin[one] for one in ("tokenizer", "options") if one in origin})
    made.update(facts)
    made["files"] = {f"{name}{suffix}": one.to_dict() for suffix, one in sealed.items()}
    made["versions"] = versions()
    made["run"] = {}
    return made
