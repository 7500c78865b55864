"""Compare a sample of each batch with the reference tokenizer.

The comparison guards the engines that are faster than SentencePiece against errors of their own.
SentencePiece takes ten times as long as the fast engine for a text, so comparing one text in a
thousand takes about a hundredth of a run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import Ids, shorten

_TEXTS_PER_SAMPLE = 1000
# SentencePiece takes a second for 5 MB, so longer texts are not compared.
LARGEST_CHECKED_CHARACTERS = 1 << 18


def compare_sample(
    engine: str,
    reference: Callable[[str], list[int]],
    values: pa.Array,
    ids: Ids,
    lengths: Ids,
) -> int:
    """Compare one text in a thousand, at least one, with SentencePiece; how many were compared.

    `reference` encodes one text with SentencePiece. `ids` is flat [sum(lengths)], `lengths`
    [len(values)]. Raises TokenizerError naming `engine` and the first text that differs.
    """
    if not len(values):
        return 0
    # The number of ids picks the first row, so that batches of equal size sample different rows
    # and two runs over the same batch sample the same ones.
    first = len(ids) % min(len(values), _TEXTS_PER_SAMPLE)
    ends = np.cumsum(lengths, dtype=np.int64)
    checked = 0
    for row in range(first, len(values), _TEXTS_PER_SAMPLE):
        text = values[row].as_py()
        if len(text) > LARGEST_CHECKED_CHARACTERS:
            continue
        given = ids[ends[row] - lengths[row] : ends[row]].tolist()
        expected = reference(text)
        if given != expected:
            raise TokenizerError(
                f"engine {engine} gives other ids than SentencePiece for the text "
                f"{shorten(text)}: {given[:20]} instead of {expected[:20]}. Please report this "
                "text, and use --engine sentencepiece meanwhile"
            )
        checked += 1
    return checked
