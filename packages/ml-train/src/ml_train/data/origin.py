"""From a sample, or a token of a .bin, back to its document and offset.

Ids outside the vocabulary have to be found here: a vocabulary that is split over tensor-parallel
ranks looks such an id up on none of them and trains on zeros without any error.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml_data.indexed.reader import IndexedDataset
from ml_train.errors import DataError


def parts_of_sample(dataset: Any, number: int) -> list[dict[str, Any]]:
    """Where the tokens of one sample of a dataset are from: one entry per document, in order."""
    if hasattr(dataset, "origin"):
        origin: list[dict[str, Any]] = dataset.origin(number)
        return origin
    dataset[number]  # the core opens its index files at the first use
    shuffled = int(dataset.shuffle_index[number])
    first, first_token = (int(value) for value in dataset.sample_index[shuffled])
    last, last_token = (int(value) for value in dataset.sample_index[shuffled + 1])
    prefix = dataset.dataset.path_prefix
    tokens = IndexedDataset(prefix)
    parts = []
    for position in range(first, last + 1):
        sequence = int(dataset.document_index[position])
        begin = first_token if position == first else 0
        length = int(tokens.sequence_lengths[sequence])
        # One token more than the sequence length: the last one is a label only.
        end = min(last_token + 1, length) if position == last else length
        if end > begin:
            pointer = int(tokens.sequence_pointers[sequence])
            parts.append(
                {
                    "prefix": str(prefix),
                    "sequence": sequence,
                    "document": _document_of(tokens, sequence),
                    "first_token": begin,
                    "num_tokens": end - begin,
                    "byte_offset": pointer + begin * tokens.dtype.itemsize,
                }
            )
    return parts


def check_batch(
    tokens: torch.Tensor,
    labels: torch.Tensor,
    *,
    dataset: Any,
    numbers: list[int],
    vocab_size: int | None,
) -> None:
    """Raise DataError for the first id of a micro batch that is not in the vocabulary.

    tokens, labels: int64 [micro_batch, sequence] on the CPU; numbers: the samples of the rows.
    Costs four reductions over the batch, some microseconds per thousand tokens.
    """
    if vocab_size is None or _all_within(tokens, vocab_size) and _all_within(labels, vocab_size):
        return
    for row, number in enumerate(numbers):
        # A sample is one token longer than the sequence: the last label.
        ids = torch.cat([tokens[row], labels[row, -1:]]).numpy()
        for part in parts_of_sample(dataset, number):
            taken, ids = ids[: part["num_tokens"]], ids[part["num_tokens"] :]
            itemsize = IndexedDataset(part["prefix"]).dtype.itemsize
            check_ids(
                taken,
                prefix=part["prefix"],
                first_token=part["byte_offset"] // itemsize,
                vocab_size=vocab_size,
            )
    raise AssertionError("a batch holds an id that no document of it holds")


def check_ids(
    ids: NDArray[np.integer], *, prefix: str, first_token: int, vocab_size: int | None
) -> None:
    """Raise DataError for the first id outside 0 to vocab_size - 1.

    ids: consecutive ids of a .bin, which begin at its token number first_token. None as
    vocab_size checks nothing.
    """
    if vocab_size is None or not len(ids):
        return
    if int(ids.min()) >= 0 and int(ids.max()) < vocab_size:
        return
    wrong = int(np.flatnonzero((ids < 0) | (ids >= vocab_size))[0])
    tokens = IndexedDataset(prefix)
    byte = (first_token + wrong) * tokens.dtype.itemsize
    begins = tokens.sequence_pointers
    ends = begins + tokens.sequence_lengths.astype(np.int64) * tokens.dtype.itemsize
    sequence = int(np.flatnonzero((begins <= byte) & (byte < ends))[0])
    document = _document_of(tokens, sequence)
    offset = (byte - int(begins[tokens.document_indices[document]])) // tokens.dtype.itemsize
    raise DataError(
        f"{prefix}: document {document} holds the token id {int(ids[wrong])} at offset {offset}, "
        f"but the model's vocabulary has the ids 0 to {vocab_size - 1}: the file was made with "
        "another tokenizer, or is damaged. Tokenize again with the model's own tokenizer."
    )


def _all_within(ids: torch.Tensor, vocab_size: int) -> bool:
    return int(ids.min()) >= 0 and int(ids.max()) < vocab_size


def _document_of(tokens: IndexedDataset, sequence: int) -> int:
    return int(np.searchsorted(tokens.document_indices, sequence, side="right")) - 1
