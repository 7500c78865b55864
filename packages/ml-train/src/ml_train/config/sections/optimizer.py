"""The optimizer and its schedule of the learning rate."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, POSITIVE, Range, Section
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerSection(Section):
    """Adam, its learning rate over the run, and gradient clipping."""

    lr: Annotated[float, NUMBER_OR_NONE] = 1e-3
    """Peak learning rate."""

    min_lr: Annotated[float, NUMBER_OR_NONE] = 0.0
    """Learning rate at the end of the decay."""

    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"
    """cosine, linear or constant."""

    lr_decay_iters: Annotated[int | None, COUNT] = None
    """Steps until min_lr is reached, warm-up included. Unset: all of --train-iters."""

    lr_warmup_iters: Annotated[int, NUMBER_OR_NONE] = 0
    """Steps of linear warm-up from 0."""

    lr_warmup_fraction: Annotated[float | None, Range(at_least=0, at_most=1)] = None
    """Warm-up as a fraction of the decay steps, instead of --lr-warmup-iters."""

    weight_decay: Annotated[float, NUMBER_OR_NONE] = 0.1
    """Decoupled weight decay; biases and norm scales have none."""

    clip_grad: Annotated[float, NUMBER_OR_NONE] = 1.0
    """Clip the global gradient norm to this; 0 turns clipping off."""

    adam_beta1: Annotated[float, Range(at_least=0, below=1)] = 0.9
    """Adam's decay of the first moment."""

    adam_beta2: Annotated[float, Range(at_least=0, below=1)] = 0.999
    """Adam's decay of the second moment."""

    adam_eps: Annotated[float, POSITIVE] = 1e-8
    """Adam's term against division by zero."""

    use_distributed_optimizer: bool = False
    """Shard the optimizer's state over the data-parallel ranks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr > self.lr:
            raise ConfigError(f"--min-lr {self.min_lr} is above --lr {self.lr}.")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters:
            raise ConfigError("Give --lr-warmup-iters or --lr-warmup-fraction, not both.")
