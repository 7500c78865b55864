"""SentencePiece at ten times its speed: each distinct unit between two cuts is encoded once.

Text is cut where its ids cannot change (`cuts`), units are looked up in a table (`unit_table`),
those not seen before are encoded by SentencePiece itself, and the ids are put together by Arrow. So
every id comes from the truth; what this module adds is that a unit's ids do
not depend on its neighbours. That holds for the models that `reason_against` admits, and for every
text: no text needs to be diverted. A sample of each batch is held to the truth all the same.

Trade-off: memory for the units seen (bounded, about 150 MB at most), and text without any cut, such
as one word of megabytes, costs what SentencePiece costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_data.arrow import integers, offsets_of, strings
from ml_data.errors import TokenizerError
from ml_data.tokenizers.cuts import Bytes, CutTable
from ml_data.tokenizers.model_facts import NORMAL, UNUSED, USER_DEFINED, ModelFacts, read_facts
from ml_data.tokenizers.protocol import check_text, check_values
from ml_data.tokenizers.sample_check import compare_sample
from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer
from ml_data.tokenizers.unit_table import UnitEncoder

Ids = NDArray[np.int32]
# Text handled at once: small enough for the processor's caches and for a bounded memory.
WINDOW_BYTES = 2 << 20
_LARGEST_WINDOW_BYTES = 1 << 28
# Characters for private use; the first one that no piece holds stands before each unit.
_GUARDS = [chr(code) for code in (0x10FFFD, 0x10FFFC, 0xF8FF, 0xE000, 0xFFFFD)]


def reason_against(facts: ModelFacts) -> str | None:
    """Why a model is not admitted to this engine; None when it is.

    Admitted: BPE with byte fallback whose normalizer changes nothing but spaces (to U+2581, with
    or without one in front of the text), without unused pieces.
    """
    if not facts.is_bpe:
        return "it is not a BPE model"
    if not facts.byte_fallback:
        return "it has no byte fallback, so that neighbouring unknown characters become one token"
    if facts.has_character_map:
        return "its normalizer maps characters"
    if facts.remove_extra_whitespaces or not facts.escape_whitespaces:
        return "its normalizer removes spaces or keeps them unescaped"
    if facts.whitespace_as_suffix:
        return "it treats white space as a suffix"
    if UNUSED in facts.types:
        return "it has unused pieces, which are split again"
    if _guard(facts) is None:
        return "its pieces hold all private-use characters that could serve as a guard"
    return None


def _guard(facts: ModelFacts) -> str | None:
    return next((one for one in _GUARDS if one.encode() not in facts.all_text), None)


class NotAdmittedError(TokenizerError):
    """A model that this engine would encode wrongly."""


class UnitTokenizer(SentencePieceTokenizer):
    """SentencePiece over one admitted model file, through a table of units."""

    engine_name = "sentencepiece-units"
    releases_gil = True

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(path, parse_special_tokens=parse_special_tokens)
        facts = read_facts(self._raw)
        reason, guard = reason_against(facts), _guard(facts)
        if reason or guard is None:
            raise NotAdmittedError(f"{path} cannot use the fast engine: {reason}")
        in_text = facts.of_types(NORMAL, USER_DEFINED)
        self._cuts = CutTable(in_text)
        self._units = UnitEncoder(self._processor, guard)
        self._prefix = " " if facts.add_dummy_prefix else ""
        self.num_checked = 0

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return self.encode_arrow(strings([text.encode() for text in texts]))

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        values = check_values(values)
        lengths = np.zeros(len(values), np.int32)
        sizes = np.diff(offsets_of(values)) if len(values) else lengths
        rows = np.flatnonzero(sizes)
        filled = values if len(rows) == len(values) else values.take(integers(rows))
        ends = np.cumsum(sizes[rows], dtype=np.int64)
        parts: list[Ids] = [np.empty(0, np.int32)]
        row = 0
        while row < len(rows):
            before = ends[row - 1] if row else 0
            stop = int(np.searchsorted(ends, before + WINDOW_BYTES, side="right"))
            if stop <= row:
                stop = row + 1
                ids = self._encode_long(_bytes_of(filled, row))
                lengths[rows[row]] = len(ids)
            else:
                ids, lengths[rows[row:stop]] = self._encode_rows(filled.slice(row, stop - row))
            parts.append(ids)
            row = stop
        ids = np.concatenate(parts)
        self.num_checked += self.check_sample(values, ids, lengths)
        return ids, lengths

    def check_sample(self, values: pa.Array, ids: Ids, lengths: Ids) -> int:
        """Hold one text in a thousand, at least one, to SentencePiece; how many were compared."""
        return compare_sample(self.engine_name, self._processor, values, ids, lengths)

    def _encode_rows(self, rows: pa.Array) -> tuple[Ids, Ids]:
        """Ids and lengths of a few rows, none of them empty."""
        if self._prefix:
            prefix, empty = strings([self._prefix.encode(), b""]).cast(rows.type)
            rows = pc.binary_join_element_wise(empty, rows, prefix)
        offsets = offsets_of(rows)
        text = np.frombuffer(rows.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        cut = self._cuts.cuts(text)
        cut[offsets] = True
        ids, unit_ends, positions = self._encode_units(text, cut)
        row_ends = unit_ends[np.searchsorted(positions, offsets)]
        return ids, np.diff(row_ends)

    def _encode_long(self, row: Bytes) -> Ids:
        """Ids of one text of any size, window by window; each window ends at a cut."""
        parts: list[Ids] = []
        prefix = self._prefix.encode()
        start, size = 0, WINDOW_BYTES
        while start < len(row):
            end = min(start + size, len(row))
            while end < len(row) and row[end] & 0xC0 == 0x80:
                end += 1
            text = np.concatenate((np.frombuffer(prefix, np.uint8), row[start:end]))
            cut = self._cuts.cuts(text)
            if end < len(row):
                last = int(np.flatnonzero(cut[:-1])[-1])
                if last == 0 and size < _LARGEST_WINDOW_BYTES:
                    size *= 2
                    continue
                if last == 0:
                    raise TokenizerError(
                        f"a text of {len(row)} bytes has {size} bytes without a single place "
                        "where it could be cut: split it first"
                    )
                text, cut = text[:last], cut[: last + 1]
            ids, _, _ = self._encode_units(text, cut)
            parts.append(ids)
            start, size, prefix = start + len(text) - len(prefix), WINDOW_BYTES, b""
        return np.concatenate(parts)

    def _encode_units(self, text: Bytes, cut: NDArray[np.bool_]) -> tuple[Ids, Ids, Ids]:
        """(flat ids, number of ids before each cut, positions of the cuts)."""
        positions = np.flatnonzero(cut).astype(np.int32)
        ids, unit_ends = self._units.encode(text, positions)
        return ids, unit_ends, positions


def _bytes_of(values: pa.Array, row: int) -> Bytes:
    """The UTF-8 bytes of one value, without a copy."""
    offsets = offsets_of(values)
    return np.frombuffer(values.buffers()[2], np.uint8)[offsets[row] : offsets[row + 1]]
