"""The net below engines that are not SentencePiece itself: a sample of each batch is compared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import sentencepiece
from numpy.typing import NDArray

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import shorten

Ids = NDArray[np.int32]
# Longer texts are not compared with the truth, which takes a second for 5 MB.
LARGEST_CHECKED_CHARACTERS = 1 << 18


def compare_sample(
    engine: str,
    processor: sentencepiece.SentencePieceProcessor,
    values: pa.Array,
    ids: Ids,
    lengths: Ids,
) -> int:
    """Hold one text in a thousand, at least one, to SentencePiece; how many were compared.

    `ids` is flat [sum(lengths)], `lengths` [len(values)]. Raises TokenizerError naming `engine` and
    the first text that differs.
    """
    if not len(values):
        return 0
    chosen = np.arange(len(ids) % min(len(values), 1000), len(values), 1000)
    ends = np.cumsum(lengths, dtype=np.int64)
    checked = 0
    for row in chosen.tolist():
        text = values[row].as_py()
        if len(text) > LARGEST_CHECKED_CHARACTERS:
            continue
        given = ids[ends[row] - lengths[row] : ends[row]].tolist()
        truth = processor.encode(text)
        if given != truth:
            raise TokenizerError(
                f"engine {engine} gives other ids than SentencePiece for the text "
                f"{shorten(text)}: {given[:20]} instead of {truth[:20]}. Please report this "
                "text, and use --engine sentencepiece meanwhile"
            )
        checked += 1
    return checked
