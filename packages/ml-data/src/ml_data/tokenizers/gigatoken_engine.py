"""gigatoken, an optional engine for an admitted tokenizer.model, chosen by name only.

gigatoken merges as SentencePiece does where a text consists of normal pieces and of symbols that
merges can express. `gigatoken_json` says which texts those are; SentencePiece encodes all others.
The merging is gigatoken's own code. So tests, and the sample of each batch that is compared with
SentencePiece, show that the ids are equal; the construction does not prove it, as it does for the
fast engine. That is why `auto` never chooses gigatoken.
"""

from __future__ import annotations

import importlib.util
import queue
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_data.arrow import offsets_of
from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import NORMAL, ModelFacts
from ml_data.tokenizers.gigatoken_json import convert
from ml_data.tokenizers.protocol import Ids, check_values
from ml_data.tokenizers.sampled_engine import SampledEngine
from ml_data.tokenizers.sentencepiece_units import NotAdmittedError, reason_against

if TYPE_CHECKING:
    import awkward
    import gigatoken

ENGINE = "gigatoken"
GIGATOKEN_EXTRA = "pip install 'ml-data[gigatoken]'"
# gigatoken and SentencePiece must agree on these when a tokenizer is opened, and on the symbols
# that the conversion expresses.
_PROBES = (
    "hello world",
    " a  b\u2581c ",
    "na\u00efve \u4f60\u597d \U0001f600",
    "\x00",
    "\u07ff",
    "",
)


class GigatokenTokenizer(SampledEngine):
    """gigatoken over one admitted model file. SentencePiece encodes the texts that it cannot.

    Threads share this object. A gigatoken tokenizer encodes one batch at a time, so a thread takes
    one from `_idle` while it encodes. `num_diverted` counts the texts that SentencePiece encoded.
    """

    engine_name = ENGINE

    def __init__(self, path: Path, *, parse_special_tokens: bool = False) -> None:
        if importlib.util.find_spec(ENGINE) is None:
            raise TokenizerError(f"engine {ENGINE!r} is not installed: {GIGATOKEN_EXTRA}")
        super().__init__(path, parse_special_tokens=parse_special_tokens)
        facts = self._facts
        reason = reason_against(facts) or self._scores_against(facts)
        if reason:
            raise NotAdmittedError(f"{path} cannot use the engine {ENGINE}: {reason}")
        conversion = convert(facts)
        self._json, self._diverted = conversion.json, conversion.diverted
        self._idle: queue.SimpleQueue[gigatoken.Tokenizer] = queue.SimpleQueue()
        self.num_diverted = 0
        self._probe([*_PROBES, *(f"a{symbol}b" for symbol in conversion.symbols)])

    def _scores_against(self, facts: ModelFacts) -> str | None:
        """Why scores forbid this engine: it ranks merges by piece order, SentencePiece by score."""
        rows = [row for row, kind in enumerate(facts.types) if kind == NORMAL]
        scores = np.array(self._processor.get_score(rows), np.float32)
        # Also equal scores: SentencePiece then takes the pair further left, a rank has no equals.
        if (np.diff(scores) >= 0).any():
            return "its pieces do not stand in the order of their scores"
        return None

    def _probe(self, texts: list[str]) -> None:
        """Refuse a model, or a version of gigatoken, with which a few texts already differ."""
        ids, lengths = self.encode_batch(texts)
        ends = np.cumsum(lengths)[:-1]
        for text, got in zip(texts, np.split(ids, ends), strict=True):
            if got.tolist() != self._processor.encode(text):
                raise NotAdmittedError(
                    f"{self.path} cannot use the engine {ENGINE}: the installed version gives "
                    f"other ids than SentencePiece for {ascii(text)}"
                )

    def encode_arrow(self, values: pa.Array) -> tuple[Ids, Ids]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        values = check_values(values)
        diverted = pc.match_substring_regex(values, self._diverted)
        # Not `true_count`, which ends the process in pyarrow 15.
        count = pc.sum(diverted).as_py() or 0
        if not count:
            ids, lengths = self._encode_admitted(values)
        elif count == len(values):
            ids, lengths = super().encode_arrow(values)
        else:
            is_diverted = np.array(diverted.to_pylist(), bool)
            lengths = np.empty(len(values), np.int32)
            admitted = values.filter(pc.invert(diverted))
            admitted_ids, lengths[~is_diverted] = self._encode_admitted(admitted)
            diverted_ids, lengths[is_diverted] = super().encode_arrow(values.filter(diverted))
            ids = np.empty(len(admitted_ids) + len(diverted_ids), np.int32)
            of_diverted = np.repeat(is_diverted, lengths)
            ids[~of_diverted], ids[of_diverted] = admitted_ids, diverted_ids
        self.num_diverted += count
        self.num_checked += self.check_sample(values, ids, lengths)
        return ids, lengths

    def _encode_admitted(self, values: pa.Array) -> tuple[Ids, Ids]:
        """gigatoken's ids of texts that the pattern `_diverted` does not match."""
        if not len(values) or values.buffers()[2] is None:
            return np.empty(0, np.int32), np.zeros(len(values), np.int32)
        try:
            tokenizer = self._idle.get_nowait()
        except queue.Empty:
            tokenizer = _open(self._json)
        try:
            encoded = tokenizer.encode_batch(_awkward(values), parallel=False).layout
        finally:
            self._idle.put(tokenizer)
        ends = np.asarray(encoded.offsets.data)
        # Ids are below 2^31, so that their bytes as uint32 are those of int32.
        ids = np.asarray(encoded.content.data)[ends[0] : ends[-1]].view(np.int32)
        return ids, np.diff(ends).astype(np.int32)


def _open(json: bytes) -> gigatoken.Tokenizer:
    # gigatoken is optional, and only the runs that chose it wait for its import.
    import gigatoken

    return gigatoken.Tokenizer.from_json(json)


def _awkward(values: pa.Array) -> awkward.Array:
    """The texts as gigatoken takes them without a copy: an awkward array over Arrow's buffers."""
    # awkward is optional, as gigatoken is.
    import awkward

    text = np.frombuffer(values.buffers()[2], np.uint8)
    characters = awkward.contents.NumpyArray(text, parameters={"__array__": "char"})
    offsets = awkward.index.Index64(offsets_of(values).astype(np.int64))
    texts = awkward.contents.ListOffsetArray(
        offsets, characters, parameters={"__array__": "string"}
    )
    return awkward.Array(texts)
