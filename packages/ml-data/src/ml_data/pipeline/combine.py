"""Merge pairs into one, split one into several, put the tasks of a run together.

All in constant memory, with manifests that follow from those of the parts; the merge of a run's
tasks is byte-identical to a run in one piece, quarantine and manifest included.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ml_data.errors import FormatError, UsageError
from ml_data.indexed import layout
from ml_data.indexed.copy import IndexFile, copy_documents
from ml_data.indexed.files import (
    FileFacts,
    Notice,
    checksum,
    ignore_notice,
    reporting_output,
    sync_file,
)
from ml_data.indexed.manifest import known_manifest
from ml_data.indexed.ownership import QUARANTINE, quarantine_path
from ml_data.indexed.pair_writer import PairWriter
from ml_data.indexed.prefixes import expanded, output_prefix
from ml_data.indexed.publication import Publication, temporary_path
from ml_data.indexed.work import WorkFolder
from ml_data.pipeline.provenance import (
    add_ledgers,
    combined_manifest,
    common_facts,
    origin,
    unknown_tokenizers,
)

_TASK = re.compile(r"\.task-(\d{5})-of-(\d{5})_(.+)_document\.idx$")


@dataclass(frozen=True, kw_only=True)
class CombinedOutput:
    """One output: ranges of documents (index, start, stop), one after the other."""

    prefix: str
    parts: list[tuple[IndexFile, int, int | None]]
    facts: dict[str, Any]
    quarantines: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    """Prefixes whose quarantine is kept, with the rows read before each, by input path."""


def merge(
    inputs: Sequence[str], output: str, *, overwrite: bool = False, notice: Notice = ignore_notice
) -> dict[str, Any]:
    """Put the pairs `inputs` one after the other; the manifest of `output`."""
    if len(inputs) < 2:
        raise UsageError("merge: name at least two prefixes")
    inputs, output = [expanded(prefix) for prefix in inputs], output_prefix(output)
    _refuse_same_pair(inputs, [output])
    parts = [(IndexFile(prefix), 0, None) for prefix in inputs]
    manifests = [known_manifest(prefix) for prefix in inputs]
    facts = common_facts(inputs, manifests)
    if unknown := unknown_tokenizers(inputs, manifests):
        notice(
            f"no manifest says what tokenizer made {unknown[0]}, so the merge names none: see to "
            "it that all were made with the same"
        )
    facts["merged_from"] = [origin(prefix) for prefix in inputs]
    recipe = CombinedOutput(prefix=output, parts=[*parts], facts=facts)
    return _write([recipe], f"{output}.work", overwrite, notice)[0]


def split(
    prefix: str, output: str, fractions: Sequence[float], *,
    overwrite: bool = False, notice: Notice = ignore_notice,
) -> list[dict[str, Any]]:  # fmt: skip
    """Cut `prefix` at documents into parts with these shares of the tokens; their manifests."""
    if not fractions or not all(math.isfinite(share) and share > 0 for share in fractions):
        raise UsageError("split: each part needs a share above 0")
    prefix, output = expanded(prefix), output_prefix(output)
    names = [
        f"{output}.part-{number:05}-of-{len(fractions):05}" for number in range(len(fractions))
    ]
    _refuse_same_pair([prefix], names)
    index, manifest = IndexFile(prefix), known_manifest(prefix)
    facts = common_facts([prefix], [manifest])
    facts.pop("ledger", None)
    total = index.bin_path.stat().st_size
    shares = np.cumsum(fractions) / sum(fractions)
    cuts = [0, *(_document_at(index, total * share) for share in shares[:-1]), index.num_documents]
    recipes = []
    for name, start, stop in zip(names, cuts[:-1], cuts[1:], strict=True):
        source = {"split_from": {**origin(prefix), "documents": [int(start), int(stop)]}}
        recipes.append(
            CombinedOutput(prefix=name, parts=[(index, start, stop)], facts={**facts, **source})
        )
    return _write(recipes, f"{output}.work", overwrite, notice)


def _refuse_same_pair(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """UsageError where a pair is named twice, or is input and output, by whatever names."""
    paths = [os.path.realpath(layout.idx_path(prefix)) for prefix in inputs]
    for number, (prefix, path) in enumerate(zip(inputs, paths, strict=True)):
        if path in paths[:number]:
            raise UsageError(f"{prefix} is named twice: its documents would be doubled")
        if path in [os.path.realpath(layout.idx_path(output)) for output in outputs]:
            raise UsageError(f"{prefix} is both input and output: choose another --output-prefix")


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
) -> list[dict[str, Any]]:
    """Put the outputs of all tasks of P together, one per key; their manifests."""
    prefix = output_prefix(prefix, "--tasks")
    finished = _finished_tasks(prefix)
    if not finished:
        raise UsageError(f"{prefix}.task-*: no finished task of --output-prefix {prefix}")
    if len({count for _, count in finished}) > 1:
        raise UsageError(f"{prefix}.task-*: outputs of several --num-tasks lie there: remove one")
    recipes = []
    for (key, count), indices in finished.items():
        missing = sorted(set(range(count)) - indices)
        if missing:
            raise FormatError(
                f"{prefix}: {len(missing)} of {count} tasks have not finished {key!r}: "
                f"{', '.join(map(str, missing[:10]))}; run them with --task-index"
            )
        parts = [f"{prefix}.task-{task:05}-of-{count:05}_{key}_document" for task in range(count)]
        recipes.append(_recipe_of_tasks(parts, f"{prefix}_{key}_document"))
    return _write(recipes, f"{prefix}.work", overwrite, notice)


def _finished_tasks(prefix: str) -> dict[tuple[str, int], set[int]]:
    """Indices of the tasks of P that are there, by (key, number of tasks)."""
    folder, name = Path(prefix).parent, Path(prefix).name
    finished: dict[tuple[str, int], set[int]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        # By hand rather than by glob, as a prefix may hold brackets.
        if path.name.startswith(name) and (match := _TASK.fullmatch(path.name[len(name) :])):
            finished.setdefault((match[3], int(match[2])), set()).add(int(match[1]))
    return finished


def _recipe_of_tasks(parts: list[str], output: str) -> CombinedOutput:
    manifests = []
    for part in parts:
        manifest = known_manifest(part)
        if manifest is None:
            raise FormatError(f"{part}.json is missing: run that task again with --overwrite")
        for name in ("tokenizer", "options", "versions", "ledger", "inputs"):
            if name not in manifest:
                raise FormatError(f"{part}.json has no {name!r}: it is not of ml-data tokenize")
        manifests.append(manifest)
    first = manifests[0]
    for part, manifest in zip(parts, manifests, strict=True):
        for name in ("tokenizer", "options", "versions", "dtype"):
            if manifest[name] != first[name]:
                raise FormatError(
                    f"{part}.json: {name} differs from that of task 0: {manifest[name]}"
                )
    inputs, rows_before = _add_inputs(parts, manifests)
    facts = {
        "key": first["key"],
        "tokenizer": first["tokenizer"],
        "options": first["options"],
        "ledger": add_ledgers([manifest["ledger"] for manifest in manifests]),
        "inputs": inputs,
    }
    return CombinedOutput(
        prefix=output,
        parts=[(IndexFile(part), 0, None) for part in parts],
        facts=facts,
        quarantines=list(zip(parts, rows_before, strict=True)),
    )


def _add_inputs(
    parts: list[str], manifests: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, int]]]:
    """Inputs of the whole, and for each task the rows of JSON lines read before it, by path."""
    total: dict[str, dict[str, Any]] = {}
    before: list[dict[str, int]] = []
    for part, manifest in zip(parts, manifests, strict=True):
        before.append({path: entry["rows"] for path, entry in total.items()})
        for entry in manifest["inputs"]:
            known = total.setdefault(entry["path"], {**entry, "rows": 0, "sha256": None})
            if known["bytes"] != entry["bytes"]:
                raise FormatError(f"{part}.json: {entry['path']} had another size than for task 0")
            known["rows"] += entry["rows"]
            known["sha256"] = known["sha256"] or entry["sha256"]
    return list(total.values()), before


@contextmanager
def _publishing(
    prefixes: Sequence[str], folder: str, overwrite: bool, notice: Notice
) -> Iterator[WorkFolder]:
    """Check all names, let the body seal its outputs in the work folder, publish them all."""
    work = WorkFolder(Path(folder), notice)
    publication = Publication(prefixes, work.path, overwrite=overwrite, notice=notice)
    try:
        publication.check()
    except BaseException:
        work.leave()
        raise
    try:
        work.clear()
        yield work
        publication.publish()
    finally:
        work.remove()


def _write(
    recipes: list[CombinedOutput], folder: str, overwrite: bool, notice: Notice
) -> list[dict[str, Any]]:
    prefixes = [recipe.prefix for recipe in recipes]
    with _publishing(prefixes, folder, overwrite, notice) as work:
        return [_seal(recipe, work.path, notice) for recipe in recipes]


def _seal(recipe: CombinedOutput, work: Path, notice: Notice) -> dict[str, Any]:
    """Write one output, complete, under its temporary names; its manifest."""
    for index, _, _ in recipe.parts:
        index.require_whole()
    writer = PairWriter(recipe.prefix, recipe.parts[0][0].dtype, work, notice=notice)
    try:
        for index, start, stop in recipe.parts:
            copy_documents(index, writer, start, stop)
        sealed = writer.seal()
    finally:
        writer.close()
    with reporting_output(quarantine_path(recipe.prefix)):
        if facts := _seal_quarantine(recipe, work, notice):
            sealed[QUARANTINE] = facts
    made = combined_manifest(writer, recipe.facts, sealed)
    with reporting_output(layout.manifest_path(recipe.prefix)):
        with temporary_path(work, recipe.prefix, ".json").open("wb") as file:
            file.write(json.dumps(made, indent=2).encode("ascii") + b"\n")
            sync_file(file, notice)
    return made


def _seal_quarantine(recipe: CombinedOutput, work: Path, notice: Notice) -> FileFacts | None:
    temporary = temporary_path(work, recipe.prefix, QUARANTINE)
    with temporary.open("wb") as file:
        for part, rows_before in recipe.quarantines:
            _copy_quarantine(part, rows_before, file)
        sync_file(file, notice)
        size = file.tell()
    if not size:
        temporary.unlink()
        return None
    return FileFacts(num_bytes=size, sha256=checksum(temporary).hexdigest())


def _copy_quarantine(part: str, rows_before: dict[str, int], file: BinaryIO) -> None:
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
