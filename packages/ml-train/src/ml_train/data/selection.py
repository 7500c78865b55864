"""Which documents of which token files each split takes: the data section as parts of an Order.

Splits that nobody asked for are left out: megatron-core counts epochs of an empty split for ever.
"""

from collections.abc import Sequence

from ml_train.config.sections.data import DataSection, parse_blend
from ml_train.data.files import TokenFiles, read_token_files, tokens_in
from ml_train.data.order import Part
from ml_train.errors import DataError

SPLITS = ("train", "valid", "test")


def selected_parts(
    data: DataSection,
    *,
    samples: tuple[int, int, int],
    sequence_length: int,
    seed: int,
    vocab_size: int | None = None,
) -> list[list[Part]]:
    """The parts of train, valid and test; none where no samples are wanted.

    Reads and hashes the files. Raises DataError for files that are absent or damaged, and for a
    split without a document.
    """
    per_split = (data.train_data_path, data.valid_data_path, data.test_data_path)
    words = (data.data_path,) * 3 if data.data_path else per_split
    if not any(words):
        raise DataError(
            "No data: give --data-path PREFIX (what ml-data tokenize wrote), or --mock-data."
        )
    bounds = _split_bounds(data.split) if data.data_path else [(0.0, 1.0)] * 3
    for name, wanted, part in zip(SPLITS, samples, words, strict=True):
        if wanted and not part:
            raise DataError(f"The run wants {name} sequences: give --{name}-data-path as well.")
    files: dict[str, TokenFiles] = {}
    chosen: list[list[Part]] = []
    for name, wanted, part, shares in zip(SPLITS, samples, words, bounds, strict=True):
        prefixes, weights = parse_blend(part, "--data-path")
        for prefix in prefixes:
            files[prefix] = files.get(prefix) or read_token_files(prefix, vocab_size=vocab_size)
        if weights is None:
            # Without weights each prefix counts by its tokens, so that one epoch is one epoch.
            weights = [float(files[prefix].num_tokens) for prefix in prefixes]
        if len(prefixes) == 1:
            weights = [1.0]
        chosen.append(
            [
                _part(files[p], w, name, shares, data.split, sequence_length, seed)
                for p, w in zip(prefixes, weights, strict=True)
            ]
            if wanted
            else []
        )
    return chosen


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


def _part(
    files: TokenFiles,
    weight: float,
    name: str,
    shares: tuple[float, float],
    split: str,
    sequence_length: int,
    seed: int,
) -> Part:
    first, end = (round(share * files.num_sequences) for share in shares)
    num_tokens = tokens_in(files.prefix, first, end)
    if num_tokens == 0:
        raise DataError(
            f"--split {split} leaves no document of {files.prefix} ({files.num_sequences} "
            f"documents) for the {name} split, which the run needs. Give it a larger share"
            + ("." if name == "train" else ", or set --eval-iters 0.")
        )
    return Part(
        prefix=files.prefix,
        weight=weight,
        idx_sha256=files.idx_sha256,
        bin_sha256=files.bin_sha256,
        first=first,
        end=end,
        num_tokens=num_tokens,
        sequence_length=sequence_length,
        seed=seed,
    )


def _split_bounds(split: str) -> list[tuple[float, float]]:
    """Begin and end of train, valid and test as shares of the documents."""
    shares = [float(part) for part in split.split(",")] + [0.0, 0.0]
    total = sum(shares)
    edges = [0.0]
    for share in shares[:3]:
        edges.append(edges[-1] + share / total)
    return list(zip(edges[:-1], edges[1:], strict=True))
