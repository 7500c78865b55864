"""From a sequence of a run, or a token of a .bin, back to its document and offset.

Ids outside the vocabulary have to be caught here: a vocabulary that is split over tensor-parallel
ranks looks such an id up on none of them and trains on zeros without any error.
"""

from typing import Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from ml_data.indexed.reader import IndexedDataset
from ml_train.errors import DataError


class _Source(TypedDict):
    prefix: str
    sequence: int
    """Its number in the .idx; for made-up tokens, its number in the run."""
    num_tokens: int


class TokenSpan(_Source, total=False):
    """Consecutive tokens of a document, as JSON values.

    Made-up tokens have the fields of _Source only.
    """

    document: int
    first_token: int
    """Counted from the start of the .idx sequence."""
    byte_offset: int
    """Of the first token in the .bin."""


class _Documents(Protocol):
    path_prefix: str


class CoreDataset(Protocol):
    """What is read of megatron-core's GPTDataset."""

    dataset: _Documents
    document_index: NDArray[np.int32]
    sample_index: NDArray[np.int32]
    """(position in document_index, token) of the first token of each sample."""
    shuffle_index: NDArray[np.uint32]

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]: ...

    def __len__(self) -> int: ...


class Located(Protocol):
    """A dataset that says where its sequences are from."""

    def origin(self, index: int) -> list[TokenSpan]:
        """The spans of a sequence, in order."""
        ...


def spans_of_sample(dataset: CoreDataset, number: int) -> list[TokenSpan]:
    """Where the tokens of one sample are from: one span per document, in order."""
    dataset[number]  # megatron-core opens its index files at the first use
    shuffled = int(dataset.shuffle_index[number])
    first, first_token = (int(value) for value in dataset.sample_index[shuffled])
    last, last_token = (int(value) for value in dataset.sample_index[shuffled + 1])
    prefix = dataset.dataset.path_prefix
    tokens = IndexedDataset(prefix)
    spans: list[TokenSpan] = []
    for position in range(first, last + 1):
        sequence = int(dataset.document_index[position])
        begin = first_token if position == first else 0
        length = int(tokens.sequence_lengths[sequence])
        # A sample is one token longer than the sequence length: the last token is a label only.
        end = min(last_token + 1, length) if position == last else length
        if end > begin:
            pointer = int(tokens.sequence_pointers[sequence])
            spans.append(
                {
                    "prefix": str(prefix),
                    "sequence": sequence,
                    "document": _document_of(tokens, sequence),
                    "first_token": begin,
                    "num_tokens": end - begin,
                    "byte_offset": pointer + begin * tokens.dtype.itemsize,
                }
            )
    return spans


def check_batch(
    tokens: torch.Tensor,
    labels: torch.Tensor,
    *,
    dataset: Located,
    numbers: list[int],
    vocab_size: int | None,
) -> None:
    """Raise DataError for the first id of a micro batch that is not in the vocabulary.

    tokens, labels: int64 [micro_batch, sequence] on the CPU; numbers: the sequences of the rows.
    Costs four reductions over the batch, some microseconds per thousand tokens.
    """
    if vocab_size is None or _all_within(tokens, vocab_size) and _all_within(labels, vocab_size):
        return
    for row, number in enumerate(numbers):
        # The last label is the token that follows the row.
        ids = torch.cat([tokens[row], labels[row, -1:]]).numpy()
        for span in dataset.origin(number):
            taken, ids = ids[: span["num_tokens"]], ids[span["num_tokens"] :]
            itemsize = IndexedDataset(span["prefix"]).dtype.itemsize
            check_ids(
                taken,
                prefix=span["prefix"],
                first_token=span["byte_offset"] // itemsize,
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
