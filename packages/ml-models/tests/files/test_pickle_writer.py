"""Pickle streams written without the classes that they name, against Python's own pickler."""

import io
import pickle
import sys

import numpy as np
import pytest

from ml_models.files.allow_lists import XAI_SHARD
from ml_models.files.inert import Call, Span
from ml_models.files.pickle_writer import ByteBlocks, PickleWriter
from ml_models.files.pickles import interpret


def rewritten(stream: bytes) -> bytes:
    """A stream taken apart by the interpreter and put together by the writer."""

    def arrays_in_blocks(value: object) -> object:
        if isinstance(value, Call):
            value.state = arrays_in_blocks(value.state)
        elif isinstance(value, dict):
            return {key: arrays_in_blocks(item) for key, item in value.items()}
        elif isinstance(value, tuple) and len(value) == 5:
            data = value[-1]
            if isinstance(data, Span):
                data = stream[data.offset : data.offset + data.length]
            parts = [memoryview(data[at : at + 50_000]) for at in range(0, len(data), 50_000)]
            return (*value[:-1], ByteBlocks(len(data), lambda: parts))
        return value

    value = arrays_in_blocks(interpret(io.BytesIO(stream), "stream", XAI_SHARD))
    out = io.BytesIO()
    PickleWriter(out.write).dump(value)
    return out.getvalue()


@pytest.mark.parametrize("size", [1, 255, 256, 65_000, 65_300, 65_400, 65_535, 65_536, 300_000])
def test_streams_are_those_of_pythons_pickler(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames close where Python closes them, around 64 KiB too."""
    array = np.arange(size, dtype=np.uint32).astype(np.int8)
    stream = pickle.dumps(array.reshape(1, -1, 1), 4)
    assert rewritten(stream) == stream
    stand_in = type("QuantizedWeight8bit", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "QuantizedWeight8bit", stand_in, raising=False)
    for other in (1, 100, 40_000, 65_100 - size % 65_000, 65_536, 70_000):
        pair = stand_in()
        pair.weight = array
        pair.scales = np.zeros(max(1, other // 2), dtype=np.uint16)
        stream = pickle.dumps(pair, 4)
        assert rewritten(stream) == stream, (size, other)
