"""How long a planned run takes: a step, a checkpoint, and all of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.build import pad_vocab_size
from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout
from ml_train.planning.recorded_work import recorded_work
from ml_train.planning.time.cluster import Cluster
from ml_train.planning.time.facts import facts_of
from ml_train.planning.time.job import job_of
from ml_train.planning.time.step_time import StepTime, step_time

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.planning.rank_plan import RankPlan

STORAGE_BYTES_PER_SECOND = 1e9
"""What a node writes to a shared file system, unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True)
class RunScope:
    """How long a run trains, and what it is saved to."""

    train_tokens: int | None = None
    """None for the tokens of its iterations."""
    storage_bytes_per_second: float = STORAGE_BYTES_PER_SECOND
    """Of a node."""


@dataclass(frozen=True, kw_only=True)
class RunTime:
    """Seconds of a run, as a range where they depend on the model of a step."""

    step: StepTime
    stage: int
    """The pipeline stage that takes longest."""
    save_seconds: float
    """Until a checkpoint is written, with all nodes writing at the same time."""
    storage_bytes_per_second: float
    """Of a node."""
    tokens: int
    """Of the run."""
    steps: float
    """That these tokens take."""
    devices: int

    def run_seconds(self, step_seconds: float) -> float:
        """Of all tokens, with steps of so many seconds."""
        return self.steps * step_seconds

    def device_hours(self, step_seconds: float) -> float:
        """Of all devices together, for all tokens."""
        return self.run_seconds(step_seconds) * self.devices / 3600


def run_time(
    config: RunConfig,
    model: "ModelConfig",
    layout: Layout,
    cluster: Cluster,
    *,
    ranks: "Sequence[RankPlan]",
    checkpoint_bytes: int,
    scope: RunScope,
) -> RunTime:
    """The time of a run whose ranks were planned. The slowest of `ranks` decides."""
    vocabulary = pad_vocab_size(
        model.vocab_size, config.model.make_vocab_size_divisible_by, layout.tp
    )
    facts = facts_of(model, vocabulary)
    job = job_of(config, model, layout, cluster.devices_per_node)
    times = {
        rank.stage: step_time(
            recorded_work(rank, facts, job, fused=cluster.rates.fused),
            cluster.device,
            cluster.rates,
        )
        for rank in ranks
    }
    stage = max(times, key=lambda item: times[item].expected)
    step_tokens = layout.global_batch_size * model.seq_length
    tokens = scope.train_tokens or config.training.train_iters * step_tokens
    nodes = -(-layout.world // cluster.devices_per_node)
    return RunTime(
        step=times[stage],
        stage=stage,
        save_seconds=checkpoint_bytes / nodes / scope.storage_bytes_per_second,
        storage_bytes_per_second=scope.storage_bytes_per_second,
        tokens=tokens,
        steps=tokens / step_tokens,
        devices=layout.world,
    )
