"""Who encodes the batches: threads of this process, or worker processes behind threads.

Results come back in the order of the batches. The number of batches in flight is bounded, so the
reader waits when the workers are busy. The first failure of any batch ends the run at once.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Protocol

from ml_data.documents.batch import Batch
from ml_data.errors import WorkerError
from ml_data.pipeline.encode import EncodedBatch, EncodingJob, encode_batch
from ml_data.pipeline.plan import TokenizePlan
from ml_data.tokenizers import Tokenizer

# Bound on the texts that wait or are being encoded. A batch larger than this (a huge cell) goes
# through alone.
IN_FLIGHT_BYTES = 256 << 20

BatchResult = tuple[Batch, list[EncodedBatch]]


class Encoder(Protocol):
    """Encodes a batch at a time."""

    def encode(self, batch: Batch) -> list[EncodedBatch]:
        """Results, one per key."""
        ...

    def close(self) -> None:
        """Free its process or actor."""
        ...


class InProcessEncoder:
    """Encodes in the calling thread."""

    def __init__(self, job: EncodingJob, tokenizer: Tokenizer) -> None:
        self._job, self._tokenizer = job, tokenizer

    def encode(self, batch: Batch) -> list[EncodedBatch]:
        """Results, one per key."""
        return encode_batch(batch, self._job, self._tokenizer)

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class LocalExecutor:
    """`workers` encoders, made by `make` when a batch first needs one."""

    def __init__(self, make: Callable[[], Encoder], workers: int) -> None:
        self._make, self._workers = make, workers
        self._all: list[Encoder] = []
        self._idle: queue.SimpleQueue[Encoder] = queue.SimpleQueue()
        self._lock, self._closed = Lock(), False

    def run(self, batches: Iterator[Batch]) -> Generator[BatchResult, None, None]:
        """Results in the order of `batches`. Raises the first failure of any batch."""
        pending: deque[tuple[Batch, Future[list[EncodedBatch]]]] = deque()
        in_flight_bytes = 0
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="encode")

        def next_result() -> BatchResult:
            # Results go out in the order of the batches, so this waits for the oldest.
            oldest = pending[0][1]
            running = {future for _, future in pending}
            while not oldest.done():
                # A later batch that fails ends the wait, too: a run with a dead worker stops at
                # once, rather than after the batches that are still being encoded.
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
            batch, _ = pending.popleft()
            return batch, oldest.result()

        try:
            for batch in batches:
                # A batch per worker is being encoded and another waits for it. Two more keep the
                # workers busy while this thread writes results.
                while pending and (
                    len(pending) >= 2 * self._workers + 2
                    or in_flight_bytes + batch.num_bytes > IN_FLIGHT_BYTES
                ):
                    result = next_result()
                    in_flight_bytes -= result[0].num_bytes
                    yield result
                future = pool.submit(self._encode, batch)
                pending.append((batch, future))
                in_flight_bytes += batch.num_bytes
                # Finished results go out before the next batch is read, so that they leave memory.
                while pending[0][1].done():
                    result = next_result()
                    in_flight_bytes -= result[0].num_bytes
                    yield result
                    if not pending:
                        break
            while pending:
                yield next_result()
        finally:
            # First the encoders: a thread that waits for a worker process ends with the process.
            self.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _encode(self, batch: Batch) -> list[EncodedBatch]:
        try:
            encoder = self._idle.get_nowait()
        except queue.Empty:
            # An encoder is made when a batch needs it, so a small input starts few processes.
            with self._lock:
                # A batch that was queued when the run ended must not start another process.
                if self._closed:
                    raise WorkerError("the run is over") from None
                encoder = self._make()
                self._all.append(encoder)
        try:
            return encoder.encode(batch)
        except WorkerError as error:
            raise WorkerError(
                f"{error} in {batch.describe()}. Finished shards are kept: the same command goes "
                "on after the last of them (with fewer --workers it needs less memory)"
            ) from error
        finally:
            self._idle.put(encoder)

    def close(self) -> None:
        """End the encoders."""
        with self._lock:
            self._closed = True
            while self._all:
                self._all.pop().close()


def make_executor(plan: TokenizePlan) -> LocalExecutor:
    """Ray actors where asked for; threads where the engine frees the interpreter; else processes.

    A small input gets fewer workers: starting a process costs as much as encoding a mebibyte.
    """
    options, job = plan.options, plan.job
    size = sum(plan.sources[segment.file].num_bytes for segment in plan.segments)
    workers = max(1, min(options.workers, -(-size // options.batch_bytes)))
    if options.executor == "ray":
        # Imported here, as only the runs that ask for Ray need its module.
        from ml_data.pipeline.ray_worker import connect, make_ray_worker

        connect()
        return LocalExecutor(lambda: make_ray_worker(job), options.workers)
    if workers == 1 or plan.tokenizer.releases_gil:
        return LocalExecutor(lambda: InProcessEncoder(job, plan.tokenizer), workers)
    # Imported here for start-up time: it brings subprocess and multiprocessing.
    from ml_data.pipeline.worker import WorkerProcess

    return LocalExecutor(lambda: WorkerProcess(job), workers)
