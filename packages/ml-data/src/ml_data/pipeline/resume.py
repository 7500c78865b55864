"""Whether a run may go on from what an earlier run left, and if not, why.

It may when options, inputs, tokenizer, task and library versions are equal. A file that changed
since then is an error, as the output would mix two states of the file. Any other difference means
that another command made the progress: the run names the difference and starts over.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ml_data.documents.sources import SourceFile, source_checksum
from ml_data.errors import InputError, OutputError
from ml_data.indexed.layout import idx_path
from ml_data.indexed.manifest import InputRecord, Manifest, known_manifest
from ml_data.indexed.publication import Publication
from ml_data.notices import Notice
from ml_data.pipeline.journal import RunJournal, ShardProgress
from ml_data.pipeline.output import missing_of
from ml_data.pipeline.plan import TokenizePlan

_Inputs = list[tuple[str, int, int]]


def earlier_progress(
    plan: TokenizePlan, journal: RunJournal, publication: Publication
) -> tuple[ShardProgress | None, str | None]:
    """Where an earlier run of the same command stopped, or why its progress cannot be used.

    Raises InputError where an input changed since, unless --overwrite starts over.
    """
    if journal.is_damaged():
        return None, "its journal is damaged, or of another version of ml-data"
    before = journal.read_identity()
    progress = journal.read() if before is not None else None
    if before is None or progress is None:
        return None, None
    reason = other_command(before, journal.identity)
    if reason is None and (changed := changed_inputs(before, journal.identity)):
        if not plan.options.overwrite:
            raise InputError(
                f"{changed} since an earlier run read it and was stopped after shard "
                f"{progress.shard}: going on would mix two states of it. Restore the file, or "
                "start over with --overwrite"
            )
        reason = changed
    if reason is None:
        reason = _missing(plan, progress, publication)
    return (progress, None) if reason is None else (None, reason)


def other_command(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """How the command of a journal differs; None where at most the content of its inputs does."""
    if before["format_version"] != now["format_version"]:
        return "its journal is of another version of ml-data"
    differing = different_names(before["options"], now["options"])
    if differing:
        return f"it belongs to a command with other options ({differing})"
    if before["tokenizer"] != now["tokenizer"]:
        return "it belongs to a command with another tokenizer"
    if before["task"] != now["task"]:
        return "it belongs to another task"
    differing = different_names(before["versions"], now["versions"])
    if differing:
        return f"the libraries are others since ({differing})"
    return different_inputs(
        [entry[0] for entry in before["inputs"]], [entry[0] for entry in now["inputs"]]
    )


def different_names(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The values that differ, for a message."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name}: {before.get(name)} then, {now.get(name)} now" for name in names)


def different_inputs(before: list[str], now: list[str]) -> str | None:
    """How two lists of inputs differ; None when they are the same, in the same order."""
    if before == now:
        return None
    new, gone = set(now) - set(before), set(before) - set(now)
    if new:
        return f"the inputs are others: {min(new)} is new"
    return f"the inputs are others: {min(gone)} is gone" if gone else "the inputs are reordered"


def changed_inputs(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first input with another size or time of change; None when all are as before."""
    for (name, old_bytes, old_time), (_, new_bytes, new_time) in zip(
        before["inputs"], now["inputs"], strict=True
    ):
        if old_bytes != new_bytes:
            return f"input {name} changed ({old_bytes} bytes then, {new_bytes} now)"
        if old_time != new_time:
            return f"input {name} was modified (its size is the same)"
    return None


def _missing(plan: TokenizePlan, progress: ShardProgress, publication: Publication) -> str | None:
    if progress.sealed:
        return None if publication.is_sealed() else f"files in {plan.work} are missing"
    dtype = np.dtype(plan.job.dtype)
    for prefix, state in zip(plan.prefixes, progress.outputs, strict=True):
        if reason := missing_of(prefix, dtype, plan.work, state):
            return reason
    return None


def finished_before(plan: TokenizePlan, notice: Notice) -> list[Manifest] | None:
    """Manifests when the same command has finished before; None when there is no output yet.

    Raises OutputError, with the reason, when the output that is there is that of another command.
    """
    if plan.options.overwrite or not any(idx_path(prefix).exists() for prefix in plan.prefixes):
        return None
    return [_finished_output(plan, prefix, notice) for prefix in plan.prefixes]


def _finished_output(plan: TokenizePlan, prefix: str, notice: Notice) -> Manifest:
    manifest = known_manifest(prefix)
    if manifest is None and not idx_path(prefix).exists():
        raise OutputError(
            f"{prefix}.idx is missing, though other outputs of the command are there: make all of "
            "them again with --overwrite"
        )
    reason = _other_output(plan, manifest, notice)
    if manifest is None or reason:
        raise OutputError(
            f"{prefix}.idx exists, but {reason}: choose another --output-prefix, or replace it "
            "with --overwrite"
        )
    for suffix in (".bin", ".idx"):
        if not Path(f"{prefix}{suffix}").exists():
            raise OutputError(
                f"{prefix}{suffix} is missing, though {prefix}.json lists it: copy it back, or "
                "make the output again with --overwrite"
            )
    return manifest


def _other_output(plan: TokenizePlan, manifest: Manifest | None, notice: Notice) -> str | None:
    """Why the finished output with this manifest is not the one that `plan` makes."""
    if manifest is None:
        return "it was made by another command: no manifest is beside it"
    if (manifest.run or {}).get("identity") == plan.identity_digest():
        return None
    # An older version did not know every option of today. It did what the default does.
    defaults = {field.name: field.default for field in fields(plan.options)}
    options = plan.options.that_shape_the_output()
    stated = manifest.options or {}
    before = {name: stated.get(name, defaults[name]) for name in options}
    differing = different_names(_as_json(before), _as_json(options))
    if differing:
        return f"it was made by another command ({differing})"
    if manifest.tokenizer is None or manifest.tokenizer.fingerprint != plan.tokenizer.fingerprint:
        return "it was made by another command, with another tokenizer"
    inputs = manifest.inputs
    if inputs is None:
        return "it was made by another command"
    if reason := different_inputs(
        [entry.path for entry in inputs], [source.name for source in plan.sources]
    ):
        return f"it was made by another command: {reason}"
    for entry, source in zip(inputs, plan.sources, strict=True):
        if entry.num_bytes != source.num_bytes:
            return (
                f"input {source.name} changed since it was made ({entry.num_bytes} bytes then, "
                f"{source.num_bytes} now)"
            )
    return _changed_content(inputs, plan.sources, notice)


def _changed_content(
    inputs: list[InputRecord], sources: list[SourceFile], notice: Notice
) -> str | None:
    """Compare the checksums of inputs that were modified or touched and kept their size."""
    for entry, source in zip(inputs, sources, strict=True):
        if not entry.sha256:
            return f"an input, perhaps {source.name}, was modified since it was made"
    notice("an input was modified or touched since the output was made: comparing checksums")
    for entry, source in zip(inputs, sources, strict=True):
        if source_checksum(source, "all") != entry.sha256:
            return f"input {source.name} was modified since it was made (its size is the same)"
    return None


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
    """Tuples as the lists that a manifest has."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in options.items()
    }
