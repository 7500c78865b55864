"""Batches, steps, precision and recomputation of a run; the optimizer and its schedule."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ml_train.config.rules import COUNT, NUMBER_OR_NONE, POSITIVE, Range, Section
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """What one step is and how many there are."""

    micro_batch_size: Annotated[int, COUNT] = 1
    """Sequences that one process works on at a time."""

    global_batch_size: Annotated[int | None, COUNT] = None
    """Sequences per optimizer step over all processes. Unset: micro batch size x DP."""

    seq_length: Annotated[int | None, COUNT] = None
    """Tokens per sequence. Unset: the model's own."""

    train_iters: Annotated[int, NUMBER_OR_NONE] = 10
    """Optimizer steps in the whole run, counted from the very first one."""

    eval_interval: Annotated[int, COUNT] = 1000
    """Steps between validations."""

    eval_iters: Annotated[int, NUMBER_OR_NONE] = 0
    """Global batches per validation; 0 turns validation off."""

    exit_interval: Annotated[int | None, COUNT] = None
    """Save and leave after a step whose number is divisible by this."""

    exit_duration_in_mins: Annotated[float | None, POSITIVE] = None
    """Save and leave once the run has lasted this many minutes."""

    exit_signal_handler: bool = True
    """On SIGTERM, SIGUSR1, SIGHUP or Ctrl-C: finish the step, save, and leave."""

    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 1234
    """Seed of the initial weights, the data order and every random state."""

    bf16: bool = False
    """Compute in bfloat16, with main parameters and gradients in float32."""

    recompute_granularity: Literal["full", "selective"] | None = None
    """full or selective: recompute activations in the backward pass to save memory."""

    recompute_method: Literal["uniform", "block"] | None = None
    """uniform or block; goes with full recomputation."""

    recompute_num_layers: Annotated[int | None, COUNT] = None
    """Layers per recomputed unit (uniform) or recomputed layers per stage (block)."""

    deterministic_mode: bool = False
    """Choose only operations whose result does not depend on timing."""

    device: str = "auto"
    """Platform: cpu, cuda, npu, or auto for the first that has a device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (
            ("--recompute-method", self.recompute_method),
            ("--recompute-num-layers", self.recompute_num_layers),
        ):
            if self.recompute_granularity == "full" and value is None:
                raise ConfigError(f"--recompute-granularity full needs {flag} as well.")
            if value is not None and self.recompute_granularity != "full":
                raise ConfigError(
                    f"{flag} {value} has an effect only with --recompute-granularity full."
                )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Section):
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
