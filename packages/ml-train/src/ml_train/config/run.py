"""RunConfig: all sections of a run, and the checks that span sections."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.data import DataSection
from ml_train.config.sections.health import HealthSection
from ml_train.config.sections.kernels import KernelsSection
from ml_train.config.sections.logging import LoggingSection
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.optimizer import OptimizerSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.config.sections.training import TrainingSection
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run. Sections are the tables of a TOML file."""

    model: ModelSection = field(default_factory=ModelSection)
    parallel: ParallelSection = field(default_factory=ParallelSection)
    kernels: KernelsSection = field(default_factory=KernelsSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    data: DataSection = field(default_factory=DataSection)
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    health: HealthSection = field(default_factory=HealthSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    logging: LoggingSection = field(default_factory=LoggingSection)

    def check(self) -> None:
        """Rules that span sections. Raises ConfigError for the first that is broken."""
        for fault in self.faults():
            raise ConfigError(fault)

    def faults(self) -> Iterator[str]:
        """A sentence for each broken rule that spans sections."""
        parallel, optimizer = self.parallel, self.optimizer
        if self.model.moe_expert_capacity_factor is not None and (
            parallel.tensor_model_parallel_size > 1
        ):
            yield (
                f"--moe-expert-capacity-factor {self.model.moe_expert_capacity_factor} with "
                f"--tensor-model-parallel-size {parallel.tensor_model_parallel_size}: each rank "
                "would drop tokens of its own part of the sequence, so that the result depends on "
                "TP; rule: TP 1. Drop one of the two flags; PP, EP and DP go with token dropping."
            )
        # The next two rules are Megatron-LM's own.
        if parallel.overlap_param_gather and not optimizer.use_distributed_optimizer:
            yield (
                "--overlap-param-gather gathers the distributed optimizer's shards: add "
                "--use-distributed-optimizer or drop it."
            )
        if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
            yield "--overlap-param-gather needs --overlap-grad-reduce as well."
        # A rollback loads a whole checkpoint, optimizer included, so there has to be a recent one.
        checkpoint = self.checkpoint
        if self.health.uses("rollback") and (
            checkpoint.save is None or checkpoint.save_interval is None or checkpoint.no_save_optim
        ):
            yield (
                "A rollback policy goes back to a checkpoint of this run: give --save and "
                "--save-interval, without --no-save-optim, or choose stop or skip."
            )
        if self.logging.wandb_project and self.checkpoint.save is None:
            yield (
                f"--wandb-project {self.logging.wandb_project} keeps its files below --save, which "
                "is not given."
            )
        # megatron-core's schedule asserts that the warm-up ends before the decay does.
        if (
            optimizer.lr_decay_iters is not None
            and optimizer.lr_decay_style != "constant"
            and optimizer.lr_warmup_iters >= optimizer.lr_decay_iters
        ):
            yield (
                f"--lr-warmup-iters {optimizer.lr_warmup_iters} is not below --lr-decay-iters "
                f"{optimizer.lr_decay_iters}; warm-up is part of the decay."
            )
