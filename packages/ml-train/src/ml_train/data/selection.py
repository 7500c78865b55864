"""Which documents of which token files each split takes: the data section as parts of an Order.

A split of which no sequences are wanted is left out: megatron-core counts the epochs of an empty
split for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ml_train.config.sections.data import DataSection, parse_blend
from ml_train.data.files import TokenFiles, read_token_files, tokens_in
from ml_train.data.order import Part
from ml_train.data.request import DataRequest
from ml_train.errors import DataError

SPLITS = ("train", "valid", "test")


def selected_parts(request: DataRequest) -> list[list[Part]]:
    """The parts of train, valid and test; none where no samples are wanted.

    Reads and hashes the files. Raises DataError for files that are absent or damaged, and for a
    split without a document.
    """
    data, samples = request.section, request.demand.total
    words_of_splits = _words_of_splits(data)
    for name, wanted, words in zip(SPLITS, samples, words_of_splits, strict=True):
        if wanted and not words:
            raise DataError(f"The run wants {name} sequences: give --{name}-data-path as well.")
    bounds = _split_bounds(data.split) if data.data_path else [(0.0, 1.0)] * 3
    files: dict[str, TokenFiles] = {}
    selected: list[list[Part]] = []
    for name, wanted, words, shares in zip(SPLITS, samples, words_of_splits, bounds, strict=True):
        prefixes, weights = parse_blend(words, "--data-path")
        for prefix in prefixes:
            files[prefix] = files.get(prefix) or read_token_files(
                prefix, vocab_size=request.expected.vocab_size
            )
        if weights is None:
            # Without weights each prefix counts by its tokens, so that an epoch of the blend is an
            # epoch of each file.
            weights = [float(files[prefix].num_tokens) for prefix in prefixes]
        if len(prefixes) == 1:
            weights = [1.0]
        split = _Split(name=name, shares=shares)
        parts = [
            _part(files[prefix], weight, split, request)
            for prefix, weight in zip(prefixes, weights, strict=True)
            if wanted
        ]
        selected.append(parts)
    return selected


def _words_of_splits(data: DataSection) -> tuple[tuple[str, ...], ...]:
    """The words of the data flags for train, valid and test."""
    per_split = (data.train_data_path, data.valid_data_path, data.test_data_path)
    words_of_splits = (data.data_path,) * 3 if data.data_path else per_split
    if not any(words_of_splits):
        raise DataError(
            "No data: give --data-path PREFIX (what ml-data tokenize wrote), or --mock-data."
        )
    return words_of_splits


def repeated(parts: Sequence[Part]) -> list[str]:
    """A sentence for each file that a blend names twice."""
    prefixes: dict[object, list[str]] = {}
    for part in parts:
        prefixes.setdefault(part.identity, []).append(part.prefix)
    return [
        f"{' and '.join(dict.fromkeys(names))}: the same documents are {len(names)} times in the "
        "blend, and each time in the same order; give them once with the sum of the weights"
        for names in prefixes.values()
        if len(names) > 1
    ]


@dataclass(frozen=True, kw_only=True)
class _Split:
    name: str
    shares: tuple[float, float]
    """Begin and end among the documents of each file, from 0 to 1."""


def _part(files: TokenFiles, weight: float, split: _Split, request: DataRequest) -> Part:
    first, end = (round(share * files.num_sequences) for share in split.shares)
    num_tokens = tokens_in(files.prefix, first, end)
    if num_tokens == 0:
        raise DataError(
            f"--split {request.section.split} leaves no document of {files.prefix} "
            f"({files.num_sequences} documents) for the {split.name} split, which the run needs. "
            "Give it a larger share"
            + ("." if split.name == "train" else ", or set --eval-iters 0.")
        )
    return Part(
        prefix=files.prefix,
        weight=weight,
        idx_sha256=files.idx_sha256,
        bin_sha256=files.bin_sha256,
        first=first,
        end=end,
        num_tokens=num_tokens,
        sequence_length=request.sequence_length,
        seed=request.seed,
    )


def _split_bounds(split: str) -> list[tuple[float, float]]:
    """Begin and end of train, valid and test as shares of the documents."""
    # Shares that are left out are 0, as in Megatron: "9,1" is "9,1,0".
    shares = [float(part) for part in split.split(",")] + [0.0, 0.0]
    total = sum(shares)
    edges = [0.0]
    for share in shares[:3]:
        edges.append(edges[-1] + share / total)
    return list(zip(edges[:-1], edges[1:], strict=True))
