"""Files of two ranks that were exchanged, or a rank's file that stands in for another.

The files of all ranks have the same names, shapes and sizes inside, and nothing in them states the
rank. Where files are exchanged in all three kinds, the model is the same: the hidden units have
another order. Where they are exchanged in one kind, the numbers are wrong, and xAI's files alone
do not show it. What can be seen is:

- a rank's file that repeats the numbers of another, as after a copy to fill a gap;
- in a folder that this converter wrote, a slice whose checksum in conversion_report.json differs.

The first slice of each file is compared. In the release it has 34 MB, 0.8 GB for all files.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ml_models.errors import WeightError
from ml_models.files.integrity import CONVERSION_REPORT
from ml_models.formats.huggingface.refusals import read_quietly
from ml_models.grok2.release.layout import kind_of, tensor_and_rank
from ml_models.weights.arrays import StoredTensor, bytes_of
from ml_models.weights.boxes import row_bands, volume

_BLOCK_BYTES = 2 * 2**20
UNSEEN = (
    "the slices are joined in the order of the ranks in the files' names; xAI's files do not state "
    "their rank, so that files exchanged in one kind of matrix alone could not be noticed"
)


def check_ranks(folder: Path, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Raise WeightError for files exchanged or copied among ranks; notes on what is not seen."""
    firsts: dict[int, dict[int, str]] = {}
    for name in sorted(stored):
        tensor, rank = tensor_and_rank(name)
        if rank >= 0:
            firsts.setdefault(kind_of(tensor), {}).setdefault(rank, name)
    written = _written_checksums(folder)
    for slices in firsts.values():
        digests = {rank: _checksum(stored[name]) for rank, name in slices.items()}
        _refuse_copies(stored, slices, digests)
        if written:
            _refuse_exchanges(stored, slices, digests, written)
    return [] if written else [UNSEEN]


def _written_checksums(folder: Path) -> dict[str, str]:
    """Slice -> sha256 as the converter wrote it; empty for a folder that it did not write."""
    report = read_quietly(folder / CONVERSION_REPORT)
    targets = report.get("targets")
    if report.get("to") != "presharded" or not isinstance(targets, Mapping):
        return {}
    return {
        name: str(entry["sha256"])
        for name, entry in targets.items()
        if isinstance(entry, Mapping) and "sha256" in entry
    }


def _refuse_copies(
    stored: Mapping[str, StoredTensor], slices: Mapping[int, str], digests: Mapping[int, str]
) -> None:
    first_with: dict[str, int] = {}
    for rank, digest in digests.items():
        other = first_with.setdefault(digest, rank)
        # Slices of a constant are equal without a fault: a model whose experts are all zeros.
        if other != rank and not _is_constant(stored[slices[rank]]):
            raise WeightError(
                f"{stored[slices[rank]].path}: it holds the numbers of "
                f"{stored[slices[other]].path.name}; a rank's file was copied over another: fetch "
                "it again."
            )


def _refuse_exchanges(
    stored: Mapping[str, StoredTensor],
    slices: Mapping[int, str],
    digests: Mapping[int, str],
    written: Mapping[str, str],
) -> None:
    rank_of = {written[name]: rank for rank, name in slices.items() if name in written}
    for rank, name in slices.items():
        if digests[rank] == written.get(name, digests[rank]):
            continue
        path, origin = stored[name].path, rank_of.get(digests[rank])
        if origin is None:
            raise WeightError(
                f"{path}: {name} has another checksum than in {CONVERSION_REPORT}; the file was "
                "changed, or is of another conversion."
            )
        raise WeightError(
            f"{path}: it holds the slice of rank {origin:03d}, by the checksums of "
            f"{CONVERSION_REPORT}; files of two ranks were exchanged: give them their names back."
        )


def _checksum(stored: StoredTensor) -> str:
    """sha256 of a tensor's bytes, as conversion_report.json has it."""
    digest = hashlib.sha256()
    for block in _blocks(stored):
        digest.update(bytes_of(block))
    return digest.hexdigest()


def _is_constant(stored: StoredTensor) -> bool:
    """Whether all numbers of a matrix are the same, by its first block."""
    block = next(_blocks(stored))
    return bool(torch.all(block == block.reshape(-1)[0]))


def _blocks(stored: StoredTensor) -> Iterator[Tensor]:
    """A tensor in bands of rows."""
    row_bytes = max(1, volume(stored.shape[1:]) * stored.dtype.itemsize)
    for box in row_bands(stored.shape, max(1, _BLOCK_BYTES // row_bytes)):
        yield stored.read(box)
