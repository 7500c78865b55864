"""Merge several pairs, split a pair, put the outputs of a run's tasks together.

All of them need constant memory and derive manifests from those of the parts. The merge of a run's
tasks has the same bytes as a run in one piece, quarantine and manifest included.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ml_data.errors import FormatError, UsageError
from ml_data.indexed import layout
from ml_data.indexed.copy import IndexFile, copy_documents
from ml_data.indexed.files import reporting_output
from ml_data.indexed.ledger import sum_of
from ml_data.indexed.manifest import InputRecord, Manifest, Provenance, known_manifest
from ml_data.indexed.ownership import QUARANTINE, quarantine_path
from ml_data.indexed.pair_writer import PairWriter
from ml_data.indexed.prefixes import expanded, output_prefix
from ml_data.indexed.publication import Publication
from ml_data.notices import Notice, ignore_notice
from ml_data.pipeline.provenance import (
    combined_manifest,
    origin,
    shared_facts,
    unknown_tokenizers,
)

_TASK = re.compile(r"\.task-(\d{5})-of-(\d{5})_(.+)_document\.idx$")


@dataclass(frozen=True, kw_only=True)
class CombinedOutput:
    """An output of a merge or split: ranges of documents (index, start, stop) in a row."""

    prefix: str
    parts: list[tuple[IndexFile, int, int | None]]
    facts: Provenance
    quarantines: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    """Prefixes whose quarantine is kept, with the rows read before each, by input path."""


def merge(
    inputs: Sequence[str], output: str, *, overwrite: bool = False, notice: Notice = ignore_notice
) -> Manifest:
    """Put the pairs `inputs` in a row; the manifest of `output`."""
    if len(inputs) < 2:
        raise UsageError("merge: name at least two prefixes")
    inputs, output = [expanded(prefix) for prefix in inputs], output_prefix(output)
    _refuse_same_pair(inputs, [output])
    parts = [(IndexFile(prefix), 0, None) for prefix in inputs]
    manifests = [known_manifest(prefix) for prefix in inputs]
    facts = shared_facts(inputs, manifests)
    if unknown := unknown_tokenizers(inputs, manifests):
        notice(
            f"no manifest says what tokenizer made {unknown[0]}, so the merge names none: see to "
            "it that all were made with the same"
        )
    facts = replace(facts, merged_from=[origin(prefix) for prefix in inputs])
    merged = CombinedOutput(prefix=output, parts=[*parts], facts=facts)
    return _write([merged], f"{output}.work", overwrite, notice)[0]


def split(
    prefix: str, output: str, fractions: Sequence[float], *,
    overwrite: bool = False, notice: Notice = ignore_notice,
) -> list[Manifest]:  # fmt: skip
    """Cut `prefix` at documents into parts with these shares of the tokens; their manifests."""
    if not fractions or not all(math.isfinite(share) and share > 0 for share in fractions):
        raise UsageError("split: each part needs a share above 0")
    prefix, output = expanded(prefix), output_prefix(output)
    names = [
        f"{output}.part-{number:05}-of-{len(fractions):05}" for number in range(len(fractions))
    ]
    _refuse_same_pair([prefix], names)
    index, manifest = IndexFile(prefix), known_manifest(prefix)
    # The counts of the whole do not tell those of a part.
    facts = replace(shared_facts([prefix], [manifest]), ledger=None)
    # Shares are of bytes rather than documents, so that parts have as many tokens as asked for.
    total = index.bin_path.stat().st_size
    shares = np.cumsum(fractions) / sum(fractions)
    cuts = [0, *(_document_at(index, total * share) for share in shares[:-1]), index.num_documents]
    outputs = []
    for name, start, stop in zip(names, cuts[:-1], cuts[1:], strict=True):
        source = {**origin(prefix), "documents": [int(start), int(stop)]}
        part = replace(facts, split_from=source)
        outputs.append(CombinedOutput(prefix=name, parts=[(index, start, stop)], facts=part))
    return _write(outputs, f"{output}.work", overwrite, notice)


def _refuse_same_pair(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """UsageError where a pair is named twice, or is input and output, by whatever names."""
    seen, written = set(), {_file_of(prefix) for prefix in outputs}
    for prefix in inputs:
        file = _file_of(prefix)
        if file in seen:
            raise UsageError(f"{prefix} is named twice: its documents would be doubled")
        if file in written:
            raise UsageError(f"{prefix} is both input and output: choose another --output-prefix")
        seen.add(file)


def _file_of(prefix: str) -> Hashable:
    """What is equal for two names of the same .idx: links have other names, copies are others."""
    path = layout.idx_path(prefix)
    with suppress(OSError):
        facts = path.stat()
        if facts.st_ino:  # some network file systems give files no number
            return facts.st_dev, facts.st_ino
    return os.path.realpath(path)


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


def merge_tasks(
    prefix: str, *, overwrite: bool = False, notice: Notice = ignore_notice
) -> list[Manifest]:
    """Put the outputs of all tasks of P together, one per key; their manifests."""
    prefix = output_prefix(prefix, "--tasks")
    finished = _finished_tasks(prefix)
    if not finished:
        raise UsageError(f"{prefix}.task-*: no finished task of --output-prefix {prefix}")
    if len({count for _, count in finished}) > 1:
        raise UsageError(f"{prefix}.task-*: outputs of several --num-tasks lie there: remove one")
    outputs = []
    for (key, count), indices in finished.items():
        missing = sorted(set(range(count)) - indices)
        if missing:
            raise FormatError(
                f"{prefix}: {len(missing)} of {count} tasks have not finished {key!r}: "
                f"{', '.join(map(str, missing[:10]))}; run them with --task-index"
            )
        parts = [f"{prefix}.task-{task:05}-of-{count:05}_{key}_document" for task in range(count)]
        outputs.append(_output_of_tasks(parts, f"{prefix}_{key}_document"))
    return _write(outputs, f"{prefix}.work", overwrite, notice)


def _finished_tasks(prefix: str) -> dict[tuple[str, int], set[int]]:
    """Indices of the tasks of P that are there, by (key, number of tasks)."""
    folder, name = Path(prefix).parent, Path(prefix).name
    finished: dict[tuple[str, int], set[int]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        # Not with a glob, as a prefix may hold brackets.
        if path.name.startswith(name) and (match := _TASK.fullmatch(path.name[len(name) :])):
            finished.setdefault((match[3], int(match[2])), set()).add(int(match[1]))
    return finished


def _output_of_tasks(parts: list[str], output: str) -> CombinedOutput:
    manifests = []
    for part in parts:
        manifest = known_manifest(part)
        if manifest is None:
            raise FormatError(f"{part}.json is missing: run that task again with --overwrite")
        for name in ("tokenizer", "options", "versions", "ledger", "inputs"):
            if getattr(manifest, name) is None:
                raise FormatError(f"{part}.json has no {name!r}: it is not of ml-data tokenize")
        manifests.append(manifest)
    # Parts that were made with other options or libraries are not what a single run makes.
    first = manifests[0]
    for part, manifest in zip(parts, manifests, strict=True):
        for name in ("tokenizer", "options", "versions", "dtype"):
            if getattr(manifest, name) != getattr(first, name):
                stated = manifest.to_json()[name]
                raise FormatError(f"{part}.json: {name} differs from that of task 0: {stated}")
    inputs, rows_before = _add_inputs(parts, manifests)
    facts = Provenance(
        key=first.key,
        tokenizer=first.tokenizer,
        options=first.options,
        ledger=sum_of(manifest.ledger for manifest in manifests if manifest.ledger is not None),
        inputs=inputs,
    )
    return CombinedOutput(
        prefix=output,
        parts=[(IndexFile(part), 0, None) for part in parts],
        facts=facts,
        quarantines=list(zip(parts, rows_before, strict=True)),
    )


def _add_inputs(
    parts: list[str], manifests: list[Manifest]
) -> tuple[list[InputRecord], list[dict[str, int]]]:
    """Inputs of the whole, and for each task the rows of JSON lines read before it, by path."""
    total: dict[str, InputRecord] = {}
    before: list[dict[str, int]] = []
    for part, manifest in zip(parts, manifests, strict=True):
        before.append({path: entry.num_rows for path, entry in total.items()})
        for entry in manifest.inputs or []:
            earlier = total.get(entry.path)
            if earlier is not None and earlier.num_bytes != entry.num_bytes:
                raise FormatError(f"{part}.json: {entry.path} had another size than for task 0")
            total[entry.path] = (
                entry
                if earlier is None
                else replace(
                    earlier,
                    num_rows=earlier.num_rows + entry.num_rows,
                    sha256=earlier.sha256 or entry.sha256,
                )
            )
    return list(total.values()), before


def _write(
    outputs: list[CombinedOutput], folder: str, overwrite: bool, notice: Notice
) -> list[Manifest]:
    prefixes = [output.prefix for output in outputs]
    publication = Publication(prefixes, Path(folder), overwrite=overwrite, notice=notice)
    publication.begin()
    try:
        manifests = [_seal(output, publication, notice) for output in outputs]
        publication.publish()
    finally:
        publication.remove_work()
    return manifests


def _seal(output: CombinedOutput, publication: Publication, notice: Notice) -> Manifest:
    """Write an output, complete, under its temporary names; its manifest."""
    for index, _, _ in output.parts:
        index.require_whole()
    writer = PairWriter(output.prefix, output.parts[0][0].dtype, publication.work, notice=notice)
    try:
        for index, start, stop in output.parts:
            copy_documents(index, writer, start, stop)
        sealed = writer.seal()
    finally:
        writer.close()
    with reporting_output(quarantine_path(output.prefix)):
        with publication.temporary(output.prefix, QUARANTINE).open("wb") as file:
            for part, rows_before in output.quarantines:
                _copy_quarantine(part, rows_before, file)
            facts = publication.seal_quarantine(output.prefix, file)
    if facts is not None:
        sealed[QUARANTINE] = facts
    manifest = combined_manifest(writer, output.facts, sealed)
    publication.write_manifest(output.prefix, manifest)
    return manifest


def _copy_quarantine(part: str, rows_before: dict[str, int], file: BinaryIO) -> None:
    """Copy a task's quarantine to `file`, with row numbers that count from the start of the input.

    A task counts rows of parquet from the start of the file, and rows of JSON lines from the start
    of its own part, as it does not read what is before.
    """
    path = quarantine_path(part)
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            if not entry["source"].lower().endswith((".parquet", ".pq")):
                entry["row"] += rows_before.get(entry["source"], 0)
            file.write(json.dumps(entry).encode("ascii") + b"\n")
