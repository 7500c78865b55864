"""conversion_report.json: where every tensor went, and the audit that comes before it."""

from collections import Counter
from collections.abc import Mapping

import torch
from typing_extensions import NotRequired, TypedDict

from ml_models.files.integrity import CONVERSION_REPORT
from ml_models.weights.boxes import volume
from ml_models.weights.sink import FileRecord, Sink, Target
from ml_models.weights.source import Source

REPORT = CONVERSION_REPORT

# Written as calls, as "from" is no name of a field.
TargetEntry = TypedDict(
    "TargetEntry",
    {
        "shape": list[int],
        "dtype": str,
        "sha256": str,
        "scales": NotRequired[dict[str, object]],
        "rounded_elements": int,
        "largest_error": float,
        "file": str,
        "from": list[str],
    },
)
Report = TypedDict(
    "Report",
    {
        "version": int,
        "from": str,
        "to": str,
        "model": dict[str, object],
        "notes": list[str],
        "num_source_tensors": int,
        "num_target_tensors": int,
        "num_parameters": int,
        "files": dict[str, dict[str, object]],
        "sources": dict[str, dict[str, object]],
        "targets": dict[str, TargetEntry],
    },
)


def audit(source: Source, sink: Sink, records: Mapping[str, FileRecord]) -> list[str]:
    """A sentence for every source tensor not read in full once, or target not in one file."""
    taken: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    for record in records.values():
        taken.update(record.taken)
        filled.update(record.tensors.keys())
    faults = []
    for name, info in source.tensors.items():
        total = volume(info.shape)
        if taken[name] != total:
            faults.append(f"source {name}: {taken[name]} of {total} elements used")
    for target in sink.targets:
        if filled[target.name] != 1:
            faults.append(f"target {target.name}: filled {filled[target.name]} times")
    # A name that neither side has can only come of an error in a source or a sink.
    names = set(source.tensors) | {target.name for target in sink.targets}
    faults += [f"{name}: unknown" for name in {*taken, *filled} - names]
    return faults


def make_report(source: Source, sink: Sink, records: Mapping[str, FileRecord]) -> Report:
    """What went where: names, shapes, dtypes, checksums."""
    files = {name: record for record in records.values() for name in record.tensors}
    parameters = sink.weights.parameter_shapes
    return {
        "version": 1,
        "from": source.format,
        "to": sink.format,
        "model": source.model.to_dict(),
        "notes": [*source.notes, *sink.notes],
        "num_source_tensors": len(source.tensors),
        "num_target_tensors": len(sink.targets),
        "num_parameters": sum(volume(shape) for shape in parameters.values()),
        "files": {
            record.file: {"size": record.size, "sha256": record.sha256}
            for record in records.values()
        },
        "sources": {
            name: {"shape": list(info.shape), "dtype": _name(info.dtype), "used": "once"}
            for name, info in source.tensors.items()
        },
        "targets": {
            target.name: _target_entry(
                target, files[target.name], _origins(source, sink, target.name)
            )
            for target in sink.targets
        },
    }


def _origins(source: Source, sink: Sink, target: str) -> list[str]:
    """The source tensors whose numbers a target holds."""
    return sorted(
        {
            origin.tensor
            for piece in sink.weights.by_tensor[target]
            for origin in source.weights.by_parameter[piece.parameter]
            if origin.parameter_box.intersection(piece.parameter_box)
        }
    )


def _target_entry(target: Target, record: FileRecord, origins: list[str]) -> TargetEntry:
    entry: TargetEntry = {
        "shape": list(target.shape),
        "dtype": _name(target.dtype),
        "sha256": record.tensors[target.name],
        "rounded_elements": record.rounded.get(target.name, 0),
        "largest_error": record.largest_error.get(target.name, 0.0),
        "file": record.file,
        "from": origins,
    }
    if target.name in record.scales:
        entry["scales"] = record.scales[target.name]
    return entry


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
