"""SentencePiece at ten times its speed: each distinct unit between two cuts is encoded once.

1. `cuts` cuts a text into units, only where a cut cannot change its ids.
2. `unit_table` looks the units up among those seen before.
3. SentencePiece encodes the units that are new.
4. Arrow puts the ids of all units together.

So every id comes from SentencePiece. The method is exact if the ids of a unit do not depend on its
neighbours, which holds for every text under the models that `reason_against` admits. A sample of
each batch is compared with SentencePiece all the same.

The table of cuts is made for the first text, in the thread that encodes it: the run reads its next
batches meanwhile, and a command that only asks for ids of tokens needs no table.

Trade-off: the units seen take memory (bounded, about 150 MB at most). Text without any cut, such as
one word of megabytes, takes the time that SentencePiece takes.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.arrow import call, integers, offsets_of, strings
from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import NORMAL, UNUSED, USER_DEFINED, ModelFacts
from ml_data.tokenizers.cuts import Bytes, CutTable
from ml_data.tokenizers.protocol import Ids, check_values
from ml_data.tokenizers.sampled_engine import SampledEngine
from ml_data.tokenizers.sentencepiece_model import SentencePieceTokenizer
from ml_data.tokenizers.unit_table import Rows, UnitEncoder

# Text handled at once. Smaller windows look the same units up more often; larger ones leave the
# processor's caches and need more memory.
WINDOW_BYTES = 2 << 20
# A text without a cut is encoded as a whole up to this size, which takes SentencePiece a minute.
_LARGEST_WINDOW_BYTES = 1 << 28
# Private-use characters. The first of them that no piece holds is the guard. It stands in front of
# a unit that SentencePiece encodes, and its ids are cut off. The library puts its dummy prefix in
# front of the guard, and no merge crosses from the guard into the unit.
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
    # The model holds other texts than its pieces, too. A guard in one of them is passed over.
    return next((guard for guard in _GUARDS if guard.encode() not in facts.raw), None)


class NotAdmittedError(TokenizerError):
    """A model that this engine would encode wrongly."""


class UnitTokenizer(SampledEngine):
    """SentencePiece over one admitted model file, through a table of units."""

    engine_name = "sentencepiece-units"

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        super().__init__(path, parse_special_tokens=parse_special_tokens)
        facts = self._facts
        reason, guard = reason_against(facts), _guard(facts)
        if reason or guard is None:
            raise NotAdmittedError(f"{path} cannot use the fast engine: {reason}")
        self._made_cuts: CutTable | None = None
        self._lock = threading.Lock()
        self._units = UnitEncoder(self._processor, guard)
        self._prefix = " " if facts.add_dummy_prefix else ""

    @property
    def _cuts(self) -> CutTable:
        """The table of cuts, which the first text makes; other threads wait for it."""
        with self._lock:
            if self._made_cuts is None:
                self._made_cuts = CutTable(self._facts.text_of_types(NORMAL, USER_DEFINED))
            return self._made_cuts

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        values = check_values(values)
        lengths = np.zeros(len(values), np.int32)
        # Rows without text have no units. They keep the length 0.
        sizes = np.diff(offsets_of(values)) if len(values) else lengths
        rows = np.flatnonzero(sizes)
        filled = values if len(rows) == len(values) else call("take", values, integers(rows))
        ends = np.cumsum(sizes[rows], dtype=np.int64)
        parts: list[Ids] = [np.empty(0, np.int32)]
        row = 0
        while row < len(rows):
            before = ends[row - 1] if row else 0
            stop = int(np.searchsorted(ends, before + WINDOW_BYTES, side="right"))
            if stop <= row:  # a row larger than a window
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

    def _encode_rows(self, rows: pa.Array) -> tuple[Ids, Ids]:
        """Ids and lengths of a few rows, none of them empty."""
        if self._prefix:
            prefix, empty = strings([self._prefix.encode(), b""], rows.type)
            rows = call("binary_join_element_wise", empty, rows, prefix)
        offsets = offsets_of(rows)
        text = np.frombuffer(rows.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        cut = self._cuts.cuts(text)
        # Texts end where rows end, whatever the table says of the characters there.
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
            while end < len(row) and row[end] & 0xC0 == 0x80:  # within a UTF-8 character
                end += 1
            text = np.concatenate((np.frombuffer(prefix, np.uint8), row[start:end]))
            cut = self._cuts.cuts(text)
            if end < len(row):
                # The end of the window is no cut: the text goes on there.
                last = int(np.flatnonzero(cut[:-1])[-1])
                # Without a cut the window grows until there is one.
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

    def _encode_units(self, text: Bytes, cut: NDArray[np.bool_]) -> tuple[Ids, Ids, Rows]:
        """(flat ids, number of ids before each cut, positions of the cuts)."""
        positions = np.flatnonzero(cut)
        ids, unit_ends = self._units.encode(text, positions)
        return ids, unit_ends, positions


def open_model(path: Path, *, engine: str, parse_special_tokens: bool) -> SentencePieceTokenizer:
    """A model for the engine auto, fast or sentencepiece; auto is fast where that is admitted."""
    if engine != "sentencepiece":
        try:
            return UnitTokenizer(path, parse_special_tokens=parse_special_tokens)
        except NotAdmittedError as error:
            if engine == "fast":
                raise TokenizerError(f"{error}; use the engine auto or sentencepiece") from error
    return SentencePieceTokenizer(path, parse_special_tokens=parse_special_tokens)


def _bytes_of(values: pa.Array, row: int) -> Bytes:
    """The UTF-8 bytes of one value, without a copy."""
    offsets = offsets_of(values)
    return np.frombuffer(values.buffers()[2], np.uint8)[offsets[row] : offsets[row + 1]]
