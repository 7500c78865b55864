"""Workers on a Ray cluster: the same batches, encoded by actors.

The run itself (reading, writing, journal) stays where it was started, so the bytes and the way to
go on after a crash are those of a local run. The tokenizer's path must exist on every node. For
inputs that one reader cannot feed, use --num-tasks instead.
"""

from __future__ import annotations

import os
from typing import Any

import ml_data.errors
from ml_data.documents.batch import Batch
from ml_data.errors import MlDataError, UsageError, WorkerError
from ml_data.pipeline import frames
from ml_data.pipeline.encode import EncodedBatch, EncodingJob, encode_batch
from ml_data.tokenizers import Tokenizer


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--executor ray needs Ray: pip install 'ml-data[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False if not address else None
        )


class RayEncoder:
    """The actor."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = EncodingJob(**{**job, "keys": tuple(job["keys"])})
        self._tokenizer: Tokenizer | None = None

    def encode(self, header: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], list]:
        """A message in, a message out, as for a worker process."""
        try:
            self._tokenizer = self._tokenizer or self._job.load()
            batch = frames.unpack_batch((header, buffers))
            answer, parts = frames.pack_results(encode_batch(batch, self._job, self._tokenizer))
        except MlDataError as error:
            return {"error": str(error), "kind": type(error).__name__}, []
        return answer, [bytes(one) for one in parts]


class RayWorker:
    """The run's side of one actor."""

    def __init__(self, job: EncodingJob) -> None:
        import ray

        self._ray = ray
        self._actor = ray.remote(RayEncoder).options(num_cpus=1).remote(job.to_dict())

    def encode(self, batch: Batch) -> list[EncodedBatch]:
        """Results of one batch. Raises WorkerError when the actor is gone."""
        header, buffers = frames.pack_batch(batch)
        call = self._actor.encode.remote(header, [bytes(one) for one in buffers])
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
    """One actor with the tokenizer of `job`."""
    return RayWorker(job)
