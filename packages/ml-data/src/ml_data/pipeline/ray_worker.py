"""Workers on a Ray cluster: the same batches, encoded by actors.

Reading, writing and the journal stay in the process that was started. So the bytes, and how a run
goes on after a crash, are those of a local run. The tokenizer's path must exist on every node.
Where a single reader is too slow for the cluster, use --num-tasks instead.
"""

from __future__ import annotations

import os

import ml_data.errors
from ml_data.documents.batch import Batch
from ml_data.errors import MlDataError, UsageError, WorkerError
from ml_data.pipeline import frames
from ml_data.pipeline.encode import EncodedBatch, EncodingJob, encode_batch
from ml_data.tokenizers import Tokenizer


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine."""
    try:
        import ray  # optional, and only the runs that ask for it wait for its import
    except ImportError as error:
        raise UsageError("--executor ray needs Ray: pip install 'ml-data[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False if not address else None
        )


class RayEncoder:
    """The actor, in a process of the cluster."""

    def __init__(self, job: dict[str, object]) -> None:
        self._job = EncodingJob.from_json(job)
        self._tokenizer: Tokenizer | None = None

    def encode(self, header: frames.Header, buffers: list[bytes]) -> frames.Frame:
        """A message in, a message out, as for a worker process."""
        try:
            self._tokenizer = self._tokenizer or self._job.load()
            batch = frames.unpack_batch((header, buffers))
            answer, parts = frames.pack_results(encode_batch(batch, self._job, self._tokenizer))
        except MlDataError as error:
            return {"error": str(error), "kind": type(error).__name__}, []
        return answer, [bytes(part) for part in parts]


class RayWorker:
    """An actor, as the run calls it."""

    def __init__(self, job: EncodingJob) -> None:
        import ray  # optional; `connect` has imported it

        self._ray = ray
        self._actor = ray.remote(RayEncoder).options(num_cpus=1).remote(job.to_json())

    def encode(self, batch: Batch) -> list[EncodedBatch]:
        """Results of a batch. Raises WorkerError when the actor is gone."""
        header, buffers = frames.pack_batch(batch)
        call = self._actor.encode.remote(header, [bytes(buffer) for buffer in buffers])
        try:
            answer, parts = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise WorkerError(f"a Ray worker died: {reason}") from error
        if "error" in answer:
            kind = getattr(ml_data.errors, answer["kind"], MlDataError)
            raise kind(answer["error"])
        return frames.unpack_results((answer, parts))

    def close(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor)


def make_ray_worker(job: EncodingJob) -> RayWorker:
    """An actor with the tokenizer of `job`."""
    return RayWorker(job)
