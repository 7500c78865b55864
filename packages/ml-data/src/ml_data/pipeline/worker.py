"""A worker process: batches in, ids out, until the run closes the channel.

The process is started as a plain command. multiprocessing would import the main script again: a
script that calls `ml_data.tokenize` would need an `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import ml_data.errors
from ml_data.documents.batch import Batch
from ml_data.errors import MlDataError, WorkerError
from ml_data.pipeline import frames
from ml_data.pipeline.encode import EncodedBatch, EncodingJob, encode_batch

_START = (
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The workers ignore them, as
    # the run ends its workers itself.
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    # The child finds the same packages, also where the parent changed sys.path.
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from ml_data.pipeline.worker import main; sys.exit(main())"
)


def serve(channel: Connection) -> None:
    """Answer batches until the run closes the channel."""
    header, _ = frames.receive(channel)
    job = EncodingJob.from_json(header["job"])
    tokenizer = None
    while True:
        try:
            frame = frames.receive(channel)
        except EOFError:
            return
        try:
            tokenizer = tokenizer or job.load()
            answer = frames.pack_results(encode_batch(frames.unpack_batch(frame), job, tokenizer))
        except MemoryError:
            answer = {"error": "a worker process is out of memory", "kind": "WorkerError"}, []
        except MlDataError as error:
            answer = {"error": str(error), "kind": type(error).__name__}, []
        frames.send(channel, *answer)


class WorkerProcess:
    """A worker process, as the run calls it."""

    def __init__(self, job: EncodingJob) -> None:
        run_side, worker_side = socket.socketpair()
        number = worker_side.fileno()
        command = [sys.executable, "-c", _START, str(number), *sys.path]
        # The parent's copy of the worker's end is closed after the start. Otherwise a dead worker
        # would not end the channel.
        with worker_side:
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL)
        self._channel = Connection(run_side.detach())
        # Sent with the first batch, so that the processes start while the first batches are read.
        self._header: dict[str, object] = {"job": job.to_json()}

    def encode(self, batch: Batch) -> list[EncodedBatch]:
        """Results of a batch. Raises WorkerError when the process is gone."""
        try:
            if self._header:
                frames.send(self._channel, self._header, [])
                self._header = {}
            frames.send(self._channel, *frames.pack_batch(batch))
            frame = frames.receive(self._channel)
        except (EOFError, OSError) as error:
            raise WorkerError(f"a worker process {self._death()}") from error
        if "error" in frame[0]:
            # The exception of the worker is raised here with its own class: its exit code counts.
            kind = getattr(ml_data.errors, frame[0]["kind"], MlDataError)
            raise kind(frame[0]["error"])
        return frames.unpack_results(frame)

    def _death(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its channel"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = " (out of memory, as a rule)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"

    def close(self) -> None:
        """Kill the process. It writes no files, so nothing can be left half done."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


def main() -> int:
    """Entry point of the process."""
    try:
        serve(Connection(int(sys.argv[1])))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return 1
    return 0
