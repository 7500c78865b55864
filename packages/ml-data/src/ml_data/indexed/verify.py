"""Check a .bin/.idx pair: structure, ids in range, checksums and tokenizer of its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ml_data.errors import FormatError
from ml_data.indexed.copy import IndexFile
from ml_data.indexed.files import checksum
from ml_data.indexed.manifest import Manifest

# Sequences, documents or ids that are checked at a time.
_CHUNK = 1 << 20


@dataclass(kw_only=True)
class PairReport:
    """What a pair holds, and its faults. A sound pair has none."""

    prefix: str
    num_documents: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    dtype: str = ""
    highest_id: int | None = None
    has_manifest: bool = False
    checked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify_pair(
    prefix: str | Path,
    manifest: Manifest | None,
    fingerprint: str | None = None,
    id_bound: int | None = None,
) -> PairReport:
    """Check a pair by reading all of it once, in constant memory.

    `fingerprint` and `id_bound` (highest id + 1) are those of a tokenizer to compare with; the
    bound of a manifest counts where no tokenizer is given.
    """
    report = PairReport(prefix=str(prefix), has_manifest=manifest is not None)
    try:
        index = IndexFile(prefix)
    except FormatError as error:
        report.faults.append(str(error))
        return report
    report.num_documents, report.num_sequences = index.num_documents, index.num_sequences
    report.dtype = index.dtype.name
    report.num_tokens = index.bin_path.stat().st_size // index.dtype.itemsize
    _check_sequences(index, report)
    _check_documents(index, report)
    if id_bound is None and manifest is not None and manifest.tokenizer is not None:
        id_bound = manifest.tokenizer.vocab_size
    _check_ids(index, report, id_bound)
    if manifest is not None:
        _check_manifest(Path(prefix), report, manifest, fingerprint)
    return report


def _check_sequences(index: IndexFile, report: PairReport) -> None:
    report.checked.append("sequence lengths and offsets")
    end_byte = 0
    for at in range(0, index.num_sequences, _CHUNK):
        end = min(at + _CHUNK, index.num_sequences)
        sizes = index.lengths(at, end).astype(np.int64) * index.dtype.itemsize
        if sizes.min() <= 0:
            row = at + int(np.argmax(sizes <= 0))
            report.faults.append(f"{index.path}: sequence {row} has no positive length")
        ends = np.cumsum(sizes) + end_byte
        wrong = index.pointers(at, end) != ends - sizes
        if wrong.any():
            row = at + int(np.argmax(wrong))
            report.faults.append(f"{index.path}: sequence {row} does not follow the one before it")
        end_byte = int(ends[-1])
    size = index.bin_path.stat().st_size
    if size != end_byte:
        report.faults.append(f"{index.bin_path} has {size} bytes, its index needs {end_byte}")


def _check_documents(index: IndexFile, report: PairReport) -> None:
    report.checked.append("document marks")
    last = 0
    for at in range(0, index.num_documents + 1, _CHUNK):
        marks = index.marks(at, min(at + _CHUNK, index.num_documents + 1))
        if at == 0 and marks[0] != 0:
            report.faults.append(f"{index.path}: the first document begins at {marks[0]}, not 0")
        if marks[0] < last or (np.diff(marks) < 0).any():
            report.faults.append(f"{index.path}: document marks go backwards")
        last = int(marks[-1])
    if last != index.num_sequences:
        report.faults.append(
            f"{index.path}: documents end at sequence {last} of {index.num_sequences}"
        )


def _check_ids(index: IndexFile, report: PairReport, size: int | None) -> None:
    highest, lowest = -1, 0
    with index.bin_path.open("rb") as file:
        while len(ids := np.fromfile(file, index.dtype, _CHUNK)):
            highest, lowest = max(highest, int(ids.max())), min(lowest, int(ids.min()))
    report.highest_id = highest if highest >= 0 else None
    report.checked.append("ids" if size is None else f"ids below {size}")
    if lowest < 0:
        report.faults.append(f"{index.bin_path} holds the negative id {lowest}")
    if size is not None and highest >= size:
        report.faults.append(f"{index.bin_path} holds id {highest}, the vocabulary ends at {size}")


def _check_manifest(
    prefix: Path, report: PairReport, manifest: Manifest, fingerprint: str | None
) -> None:
    report.checked.append("checksums")
    for name, facts in manifest.files.items():
        # By suffix: a pair that was renamed has other names than its manifest states.
        suffix = ".quarantine.jsonl" if name.endswith(".quarantine.jsonl") else Path(name).suffix
        path = Path(f"{prefix}{suffix}")
        if not path.is_file():
            report.faults.append(f"{path} is missing, its manifest lists it")
        elif path.stat().st_size != facts.num_bytes:
            report.faults.append(
                f"{path} has {path.stat().st_size} bytes, its manifest says {facts.num_bytes}"
            )
        elif checksum(path).hexdigest() != facts.sha256:
            report.faults.append(f"{path}: the checksum is not that of its manifest: changed")
    for name in ("num_documents", "num_sequences", "num_tokens", "dtype"):
        stated, counted = getattr(manifest, name), getattr(report, name)
        if stated != counted:
            report.faults.append(f"{prefix}.json: {name} is {stated}, found {counted}")
    if fingerprint is not None and manifest.tokenizer is not None:
        report.checked.append("tokenizer fingerprint")
        if manifest.tokenizer.fingerprint != fingerprint:
            report.faults.append(f"{prefix} was made with another tokenizer than the one given")
