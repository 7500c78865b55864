"""Recipes that come with the package: Python functions that return a RunConfig."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ml_train.config.run import RunConfig
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.optimizer import OptimizerSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection


def grok1_tiny() -> RunConfig:
    """A minute on a CPU: 8 processes as TP2 PP2 EP2, fp32."""
    return RunConfig(
        model=ModelSection(model="grok1-tiny"),
        parallel=ParallelSection(
            tensor_model_parallel_size=2,
            pipeline_model_parallel_size=2,
            expert_model_parallel_size=2,
        ),
        training=TrainingSection(micro_batch_size=1, global_batch_size=8, train_iters=20),
        optimizer=OptimizerSection(lr=1e-3, min_lr=1e-4, lr_warmup_iters=2),
    )


def grok1_40b() -> RunConfig:
    """The guide's run on 16 devices, TP4 PP2 EP2 with ETP = TP, of the faithful model."""
    return _guide("grok1-40b")


def grok1_40b_guide() -> RunConfig:
    """The guide's run on 16 devices, of the guide's own variant of the model."""
    return _guide("grok1-40b-guide")


def _guide(model: str) -> RunConfig:
    # The numbers are those of the guide's pretraining script for Grok-1 40B.
    return RunConfig(
        model=ModelSection(model=model, init_method_std=0.01, moe_aux_loss_coeff=1e-2),
        parallel=ParallelSection(
            tensor_model_parallel_size=4,
            pipeline_model_parallel_size=2,
            expert_model_parallel_size=2,
        ),
        training=TrainingSection(
            micro_batch_size=1,
            global_batch_size=128,
            seq_length=8192,
            train_iters=5000,
            eval_interval=5000,
            eval_iters=100,
            bf16=True,
        ),
        optimizer=OptimizerSection(
            lr=1e-5,
            min_lr=1e-6,
            lr_decay_iters=1280,
            lr_warmup_iters=2,
            weight_decay=0.1,
            clip_grad=1.0,
            use_distributed_optimizer=True,
        ),
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {"grok1-tiny": grok1_tiny, "grok1-40b": grok1_40b, "grok1-40b-guide": grok1_40b_guide}
)
