"""IndexSpec: everything that decides which samples a run sees, and the datasets made from it.

The spec is plain data, so that a process of its own can build the sample indexes, and its hash
names them. Splits that nobody asked for, or that hold no document, are left out: megatron-core
counts epochs of an empty split for ever.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_data.errors import MlDataError
from ml_data.indexed import layout
from ml_data.indexed.reader import IndexedDataset
from ml_train.data.config import DataConfig, parse_blend
from ml_train.errors import DataError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """Sizes of a .bin/.idx pair."""

    prefix: str
    num_sequences: int
    num_tokens: int
    bin_bytes: int


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Prefixes with weights; one prefix has no weight."""

    prefixes: tuple[str, ...]
    weights: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """Plain values; `blends` has one entry for all splits, or one per split."""

    blends: tuple[Blend | None, ...]
    split: str | None
    samples: tuple[int, ...]
    """Sequences wanted of train, valid, test."""
    sequence_length: int
    seed: int
    eod_id: int
    eod_mask_loss: bool
    mmap: bool
    files: tuple[tuple[str, int, int, int], ...]
    """(prefix, sequences, tokens, bytes) of every file: other data, other hash."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "IndexSpec":
        """The inverse of to_json."""
        raw = json.loads(text)
        blends = tuple(
            None
            if b is None
            else Blend(
                prefixes=tuple(b["prefixes"]),
                weights=None if b["weights"] is None else tuple(b["weights"]),
            )
            for b in raw.pop("blends")
        )
        samples, files = tuple(raw.pop("samples")), tuple(tuple(f) for f in raw.pop("files"))
        return IndexSpec(blends=blends, samples=samples, files=files, **raw)

    def name(self) -> str:
        """Hash that names the indexes of this spec and of this megatron-core."""
        import megatron.core

        text = f"{megatron.core.__version__} {self.to_json()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Tokenizer:
    """The little that megatron-core's datasets ask of a tokenizer."""

    def __init__(self, eod: int):
        self.eod = eod
        self.vocab_size = None
        self.unique_identifiers = {"eod": eod}

    @property
    def pad(self) -> int:
        """No id is padding: documents are packed without gaps. Not -1, the id of no eod."""
        return -2


def read_token_files(prefix: str) -> TokenFiles:
    """Check P.idx against P.bin. Raises DataError."""
    for path in (layout.idx_path(prefix), layout.bin_path(prefix)):
        if not path.is_file():
            raise DataError(
                f"{path} does not exist. --data-path takes the prefix that ml-data tokenize "
                "printed, without .bin or .idx: usually OUTPUT_PREFIX_text_document."
            )
    try:
        tokens = IndexedDataset(prefix)
    except MlDataError as error:
        raise DataError(f"{error}. Tokenize again.") from error
    wanted = int(tokens.sequence_lengths.sum(dtype=np.int64))
    if wanted != tokens.num_tokens:
        raise DataError(
            f"{layout.bin_path(prefix)} holds {tokens.num_tokens} tokens, but its index describes "
            f"{wanted}: one of the two is damaged or of another run; tokenize again."
        )
    if wanted == 0:
        raise DataError(f"{layout.bin_path(prefix)} holds no tokens.")
    return TokenFiles(
        prefix=prefix,
        num_sequences=len(tokens),
        num_tokens=wanted,
        bin_bytes=wanted * tokens.dtype.itemsize,
    )


def make_spec(
    data: DataConfig,
    *,
    samples: tuple[int, int, int],
    sequence_length: int,
    seed: int,
    eod_id: int | None,
) -> IndexSpec:
    """Check the files and settle the blends. Raises DataError."""
    if eod_id is None and data.eod_mask_loss:
        raise DataError(
            "--eod-mask-loss needs the end-of-document id, which neither a manifest nor a "
            "tokenizer tells: give --tokenizer-name-or-path."
        )
    per_split = (data.train_data_path, data.valid_data_path, data.test_data_path)
    words = (data.data_path,) if data.data_path else per_split
    if not any(words):
        raise DataError(
            "No data: give --data-path PREFIX (what ml-data tokenize wrote), or --mock-data."
        )
    files: dict[str, TokenFiles] = {}
    blends: list[Blend | None] = []
    for part in words:
        prefixes, weights = parse_blend(part, "--data-path")
        for prefix in prefixes:
            files[prefix] = files.get(prefix) or read_token_files(prefix)
        if weights is None and len(prefixes) > 1:
            # Without weights each prefix counts by its tokens, so that one epoch is one epoch.
            weights = [float(files[prefix].num_tokens) for prefix in prefixes]
        if len(prefixes) == 1:
            weights = None
        blends.append(
            Blend(prefixes=tuple(prefixes), weights=None if weights is None else tuple(weights))
            if prefixes
            else None
        )
    spec = IndexSpec(
        blends=tuple(blends),
        split=data.split if data.data_path else None,
        samples=samples,
        sequence_length=sequence_length,
        seed=seed,
        eod_id=-1 if eod_id is None else eod_id,
        eod_mask_loss=data.eod_mask_loss,
        mmap=not data.no_mmap_bin_files,
        files=tuple((f.prefix, f.num_sequences, f.num_tokens, f.bin_bytes) for f in files.values()),
    )
    _check_splits(spec)
    return spec


def _check_splits(spec: IndexSpec) -> None:
    """Every split that samples are wanted of must hold at least one document of each prefix."""
    if spec.split is None:
        for name, wanted, blend in zip(SPLITS, spec.samples, spec.blends, strict=True):
            if wanted and blend is None:
                raise DataError(f"The run wants {name} sequences: give --{name}-data-path as well.")
        return
    for index, (low, high) in enumerate(split_bounds(spec.split)):
        for prefix, sequences, _, _ in spec.files:
            if spec.samples[index] and round(low * sequences) == round(high * sequences):
                raise DataError(
                    f"--split {spec.split} leaves no document of {prefix} ({sequences} documents) "
                    f"for the {SPLITS[index]} split, which the run needs. Give it a larger share"
                    + (", or set --eval-iters 0." if index else ".")
                )


def split_bounds(split: str) -> list[tuple[float, float]]:
    """Begin and end of train, valid and test as shares of the documents."""
    shares = [float(part) for part in split.split(",")] + [0.0, 0.0]
    total = sum(shares)
    edges = [0.0]
    for share in shares[:3]:
        edges.append(edges[-1] + share / total)
    return list(zip(edges[:-1], edges[1:], strict=True))


def build_datasets(spec: IndexSpec, cache: Path) -> list[Any]:
    """megatron-core's datasets for train, valid, test; None where nothing is wanted.

    Builds what the cache lacks where this process is rank 0 of its default group, or alone.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    arguments: dict[str, Any] = {}
    if spec.split is None:
        arguments["blend_per_split"] = [
            _as_pair(blend) if wanted else None
            for blend, wanted in zip(spec.blends, spec.samples, strict=True)
        ]
    else:
        arguments["blend"] = _as_pair(spec.blends[0])
        arguments["split"] = spec.split
    config = GPTDatasetConfig(
        random_seed=spec.seed,
        sequence_length=spec.sequence_length,
        path_to_cache=str(cache),
        mmap_bin_files=spec.mmap,
        tokenizer=_Tokenizer(spec.eod_id),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=spec.eod_mask_loss,
        create_attention_mask=False,
        **arguments,
    )
    if spec.split is not None:
        assert config.split_matrix is not None
        config.split_matrix = [
            bounds if wanted else None
            for bounds, wanted in zip(config.split_matrix, spec.samples, strict=True)
        ]
    with _process_group():
        builder = BlendedMegatronDatasetBuilder(
            GPTDataset, list(spec.samples), lambda: True, config
        )
        datasets: list[Any] = builder.build()
    return datasets


@contextmanager
def _process_group() -> Iterator[None]:
    """The caller's default group, or one of a single process: blends ask for their rank."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _as_pair(blend: Blend | None) -> tuple[list[str], list[float] | None] | None:
    if blend is None:
        return None
    return list(blend.prefixes), None if blend.weights is None else list(blend.weights)
