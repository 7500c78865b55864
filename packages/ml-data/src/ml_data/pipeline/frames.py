"""Messages between a run and its worker processes: a JSON header, then raw buffers.

Nothing is pickled. A batch of text is an Arrow stream or its lines, a result the bytes of arrays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.documents.batch import Batch, Position
from ml_data.pipeline.encode import EncodedBatch

Header = dict[str, Any]
"""JSON values."""
Frame = tuple[Header, Sequence[bytes | memoryview]]


def send(channel: Connection, header: Header, buffers: Sequence[bytes | memoryview]) -> None:
    """Send a message."""
    header = {**header, "buffers": len(buffers)}
    channel.send_bytes(json.dumps(header).encode("utf-8"))
    for buffer in buffers:
        channel.send_bytes(buffer)


def receive(channel: Connection) -> Frame:
    """Receive a message; EOFError when the other side has closed the channel."""
    header = json.loads(channel.recv_bytes())
    return header, [channel.recv_bytes() for _ in range(header["buffers"])]


def pack_batch(batch: Batch) -> Frame:
    """A batch as a message."""
    header = {
        "source": batch.source,
        "first_row": batch.first_row,
        "num_rows": batch.num_rows,
        "is_lines": batch.lines is not None,
    }
    if batch.lines is not None:
        return header, [batch.lines]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.arrow_columns.schema) as writer:
        writer.write_batch(batch.arrow_columns)
    return header, [memoryview(sink.getvalue())]


def unpack_batch(frame: Frame) -> Batch:
    """The batch in a message (without its end, which only the run needs)."""
    header, buffers = frame
    columns = lines = None
    if header["is_lines"]:
        lines = bytes(buffers[0])
    else:
        columns = pa.ipc.open_stream(buffers[0]).read_next_batch()
    return Batch(
        source=header["source"],
        first_row=header["first_row"],
        num_rows=header["num_rows"],
        columns=columns,
        lines=lines,
        end=Position(),
    )


def pack_results(results: list[EncodedBatch]) -> Frame:
    """The results of a batch as a message."""
    facts = [
        {
            "dtype": result.ids.dtype.str,
            "num_empty": result.num_empty,
            "tokens_dropped": result.tokens_dropped,
            "bad": result.bad,
        }
        for result in results
    ]
    buffers = [_bytes_of(array) for result in results for array in (result.ids, result.lengths)]
    return {"results": facts}, buffers


def unpack_results(frame: Frame) -> list[EncodedBatch]:
    """The results in a message."""
    header, buffers = frame
    return [
        EncodedBatch(
            ids=np.frombuffer(buffers[2 * index], np.dtype(facts["dtype"])),
            lengths=np.frombuffer(buffers[2 * index + 1], np.int32),
            num_empty=facts["num_empty"],
            tokens_dropped=facts["tokens_dropped"],
            bad=facts["bad"],
        )
        for index, facts in enumerate(header["results"])
    ]


def _bytes_of(array: NDArray[np.integer]) -> bytes | memoryview:
    """The bytes of an array, without a copy; an empty array has none to give a view of."""
    return np.ascontiguousarray(array).data.cast("B") if len(array) else b""
