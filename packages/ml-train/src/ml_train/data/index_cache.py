"""The index cache: sample indexes as pieces, each in a folder that is named by its content.

    CACHE/<hash>/...npy        what megatron-core computes of a leg, or the index of a blend
    CACHE/<hash>/ready.json    size and SHA-256 of each file; without it the folder does not count

The hash covers everything that decides the arrays, such as the SHA-256 of the .idx, and leaves the
path of the data out. Other documents under the same prefix therefore never meet an old index, and
runs that share a cache share the pieces that are equal. A folder is built under a temporary name
and renamed, so that two runs can build the same piece at the same time.

Imports megatron-core, so it is imported after the platform was applied.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import megatron.core
import numpy as np
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from ml_models.files.durable import flush_file, write_flushed
from ml_models.files.hashes import sha256_of
from ml_train.config.sections.data import DataSection
from ml_train.data.blend import blend_index
from ml_train.data.order import Leg, Order, Part
from ml_train.data.origin import CoreDataset

STAMP = "ready.json"
_NO_PAD = int(np.iinfo(np.int64).min)
"""Documents are packed without gaps, so no id is padding; no file can hold this id."""
_NO_ID = -1


@dataclass(frozen=True, kw_only=True)
class LegPiece:
    """megatron-core's document, sample and shuffle index of one leg."""

    prefix: str
    idx_sha256: str
    first: int
    end: int
    sequence_length: int
    samples: int
    seed: int

    @staticmethod
    def of(part: Part, leg: Leg) -> "LegPiece":
        """The piece of a part's leg."""
        return LegPiece(
            prefix=part.prefix,
            idx_sha256=part.idx_sha256,
            first=part.first,
            end=part.end,
            sequence_length=part.sequence_length,
            samples=leg.samples,
            seed=leg.seed,
        )


@dataclass(frozen=True, kw_only=True)
class BlendPiece:
    """Which part each sequence of a blend is from, and which sequence of it."""

    weights: tuple[float, ...]
    samples: int


Piece = LegPiece | BlendPiece


def pieces_of(order: Order, total: int) -> list[Piece]:
    """What a run needs of the cache to take its sequences up to number `total`."""
    pieces: list[Piece] = [LegPiece.of(part, leg) for part in order.parts for leg in part.legs]
    if len(order.parts) > 1:
        pieces.append(BlendPiece(weights=order.weights, samples=total - order.begin))
    return pieces


def cache_directory(data: DataSection, first_prefix: str) -> Path:
    """Where the sample indexes are."""
    if data.data_cache_path is not None:
        return Path(data.data_cache_path)
    return Path(first_prefix).parent / "index_cache"


def name_of(piece: Piece) -> str:
    """The hash that names a piece; other versions of megatron-core have other pieces."""
    values = dataclasses.asdict(piece)
    # The files may move; the hash of the .idx stands for their content.
    values.pop("prefix", None)
    text = json.dumps([type(piece).__name__, megatron.core.__version__, values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def to_json(pieces: Iterable[Piece]) -> str:
    """Pieces as one line, for the process that builds them."""
    return json.dumps([[type(piece).__name__, dataclasses.asdict(piece)] for piece in pieces])


def from_json(text: str) -> list[Piece]:
    """The inverse of to_json."""
    return [
        LegPiece(**raw)
        if kind == "LegPiece"
        else BlendPiece(**{**raw, "weights": tuple(raw["weights"])})
        for kind, raw in json.loads(text)
    ]


def read_stamp(piece: Piece, cache: Path) -> dict[str, str] | None:
    """File -> SHA-256 of a piece; None unless all its files are there in full size."""
    folder = cache / name_of(piece)
    try:
        files = json.loads((folder / STAMP).read_text(encoding="utf-8"))["files"]
        whole = all((folder / n).stat().st_size == f["bytes"] for n, f in files.items())
        digests = {f"{folder.name}/{name}": str(file["sha256"]) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return digests if whole else None


def read_stamps(pieces: Sequence[Piece], cache: Path) -> dict[str, str] | None:
    """File -> SHA-256 of all pieces; None where a piece is not whole."""
    digests: dict[str, str] = {}
    for piece in pieces:
        files = read_stamp(piece, cache)
        if files is None:
            return None
        digests.update(files)
    return digests


def build_pieces(pieces: Iterable[Piece], cache: Path) -> None:
    """Build what the cache lacks. Raises OSError."""
    cache.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        if read_stamp(piece, cache) is None:
            _build(piece, cache)


def _build(piece: Piece, cache: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as scratch:
        folder = Path(scratch) / "piece"
        folder.mkdir()
        _compute(piece, folder)
        files = {}
        for path in sorted(folder.iterdir()):
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            flush_file(path)
        # The stamp goes last: a folder without it does not count.
        stamp = {"piece": dataclasses.asdict(piece), "files": files}
        write_flushed(folder / STAMP, json.dumps(stamp, indent=1).encode())
        final = cache / name_of(piece)
        if final.exists() and read_stamp(piece, cache) is None:
            # The folder was cut off or half deleted. It is renamed before it is deleted, so that
            # no run opens a part of it.
            os.rename(final, Path(scratch) / "damaged")
        try:
            os.rename(folder, final)
        except OSError:
            # Another run has built the same piece meanwhile, with the same content.
            if read_stamp(piece, cache) is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)


def _compute(piece: Piece, folder: Path) -> None:
    if isinstance(piece, BlendPiece):
        parts, numbers = blend_index(piece.weights, piece.samples)
        np.save(folder / "dataset_index.npy", parts)
        np.save(folder / "dataset_sample_index.npy", numbers)
        return
    open_leg(piece, folder, documents=open_documents(piece.prefix, mmap=True))


def open_blend(piece: BlendPiece, cache: Path) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """blend_index() of a piece in the cache, as memory maps."""
    folder = cache / name_of(piece)
    names = ("dataset_index.npy", "dataset_sample_index.npy")
    parts, numbers = (np.load(folder / name, mmap_mode="r") for name in names)
    return parts, numbers


def open_documents(prefix: str, *, mmap: bool) -> IndexedDataset:
    """megatron-core's reader of a pair; the legs of a part share a reader."""
    return IndexedDataset(prefix, mmap=mmap)


def open_leg(
    piece: LegPiece, folder: Path, *, documents: IndexedDataset, masked_id: int | None = None
) -> CoreDataset:
    """megatron-core's dataset of a leg, with the indexes of a folder, which are built if absent.

    masked_id: the token that is left out of the loss; it changes no index. The dataset is given
    the hash of the .idx as its path, so that the names of its files depend on the content alone.
    """
    config = GPTDatasetConfig(
        random_seed=piece.seed,
        sequence_length=piece.sequence_length,
        blend=([piece.idx_sha256], None),
        split="1",
        path_to_cache=str(folder),
        tokenizer=_Tokenizer(_NO_ID if masked_id is None else masked_id),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=masked_id is not None,
        create_attention_mask=False,
    )
    indices = np.arange(piece.first, piece.end, dtype=np.int32)
    dataset: CoreDataset = GPTDataset(
        documents, piece.idx_sha256, indices, piece.samples, Split.train, config
    )
    return dataset


class _Tokenizer:
    """What megatron-core's datasets ask of a tokenizer."""

    def __init__(self, eod: int):
        self.eod = eod
        self.vocab_size = None
        self.unique_identifiers: dict[str, str] = {}

    @property
    def pad(self) -> int:
        return _NO_PAD
