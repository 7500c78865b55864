"""From the number of a sample back to its documents and token offsets."""

from typing import Any

import numpy as np

from ml_data.indexed.reader import IndexedDataset


def parts_of_sample(dataset: Any, number: int) -> list[dict[str, Any]]:
    """Where the tokens of one sample of a dataset are from: one entry per document, in order."""
    if hasattr(dataset, "origin"):
        origin: list[dict[str, Any]] = dataset.origin(number)
        return origin
    dataset[number]  # the core opens its index files at the first use
    if hasattr(dataset, "datasets"):
        which = int(dataset.dataset_index[number])
        return parts_of_sample(dataset.datasets[which], int(dataset.dataset_sample_index[number]))
    place = int(dataset.shuffle_index[number])
    first, first_token = (int(value) for value in dataset.sample_index[place])
    last, last_token = (int(value) for value in dataset.sample_index[place + 1])
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
            after = np.searchsorted(tokens.document_indices, sequence, side="right")
            pointer = int(tokens.sequence_pointers[sequence])
            parts.append(
                {
                    "prefix": str(prefix),
                    "sequence": sequence,
                    "document": int(after) - 1,
                    "first_token": begin,
                    "num_tokens": end - begin,
                    "byte_offset": pointer + begin * tokens.dtype.itemsize,
                }
            )
    return parts
