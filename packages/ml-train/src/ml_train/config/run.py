"""RunConfig: all sections of a run, and the checks that span sections."""

from dataclasses import dataclass, field

from ml_train.checkpoint.config import CheckpointConfig
from ml_train.config.logging import LoggingConfig
from ml_train.config.model import ModelSection
from ml_train.config.tokenizer import TokenizerSection
from ml_train.data.config import DataConfig
from ml_train.errors import ConfigError
from ml_train.health.config import HealthConfig
from ml_train.parallel.config import ParallelConfig
from ml_train.training.config import OptimizerSettings, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run. Sections are the tables of a TOML file."""

    model: ModelSection = field(default_factory=ModelSection)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    health: HealthConfig = field(default_factory=HealthConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def check(self) -> None:
        """Rules that span sections. Raises ConfigError."""
        parallel, optimizer = self.parallel, self.optimizer
        if self.model.moe_expert_capacity_factor is not None and (
            parallel.tensor_model_parallel_size > 1
        ):
            raise ConfigError(
                f"--moe-expert-capacity-factor {self.model.moe_expert_capacity_factor} with "
                f"--tensor-model-parallel-size {parallel.tensor_model_parallel_size}: each rank "
                "would drop tokens of its own part of the sequence, so that the result depends on "
                "TP; rule: TP 1. Drop one of the two flags; PP, EP and DP go with token dropping."
            )
        if parallel.overlap_param_gather and not optimizer.use_distributed_optimizer:
            raise ConfigError(
                "--overlap-param-gather gathers the distributed optimizer's shards: add "
                "--use-distributed-optimizer or drop it."
            )
        if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
            raise ConfigError("--overlap-param-gather needs --overlap-grad-reduce as well.")
        checkpoint = self.checkpoint
        if self.health.uses("rollback") and (
            checkpoint.save is None or checkpoint.save_interval is None or checkpoint.no_save_optim
        ):
            raise ConfigError(
                "A rollback policy goes back to a checkpoint of this run: give --save and "
                "--save-interval, without --no-save-optim, or choose stop or skip."
            )
        if self.logging.wandb_project and self.checkpoint.save is None:
            raise ConfigError(
                f"--wandb-project {self.logging.wandb_project} keeps its files below --save, which "
                "is not given."
            )
        if (
            optimizer.lr_decay_iters is not None
            and optimizer.lr_decay_style != "constant"
            and optimizer.lr_warmup_iters >= optimizer.lr_decay_iters
        ):
            raise ConfigError(
                f"--lr-warmup-iters {optimizer.lr_warmup_iters} is not below --lr-decay-iters "
                f"{optimizer.lr_decay_iters}; warm-up is part of the decay."
            )
