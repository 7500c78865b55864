"""Batches, steps, precision and recomputation of a run; the optimizer and its schedule."""

from dataclasses import dataclass

from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What one step is and how many there are."""

    micro_batch_size: int = 1
    """Sequences that one process works on at a time."""

    global_batch_size: int | None = None
    """Sequences per optimizer step over all processes. Unset: micro batch size x DP."""

    seq_length: int | None = None
    """Tokens per sequence. Unset: the model's own."""

    train_iters: int = 10
    """Optimizer steps in the whole run, counted from the very first one."""

    eval_interval: int = 1000
    """Steps between validations."""

    eval_iters: int = 0
    """Global batches per validation; 0 turns validation off."""

    exit_interval: int | None = None
    """Save and leave after a step whose number is divisible by this."""

    exit_duration_in_mins: float | None = None
    """Save and leave once the run has lasted this many minutes."""

    exit_signal_handler: bool = True
    """On SIGTERM or SIGUSR1: finish the step, save, and leave."""

    seed: int = 1234
    """Seed of the initial weights, the data order and every random state."""

    bf16: bool = False
    """Compute in bfloat16, with main parameters and gradients in float32."""

    recompute_granularity: str | None = None
    """full or selective: recompute activations in the backward pass to save memory."""

    recompute_method: str | None = None
    """uniform or block; goes with full recomputation."""

    recompute_num_layers: int | None = None
    """Layers per recomputed unit (uniform) or recomputed layers per stage (block)."""

    deterministic_mode: bool = False
    """Choose only operations whose result does not depend on timing."""

    device: str = "auto"
    """Platform: cpu, cuda, npu, or auto for the first that has a device."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "micro_batch_size", "global_batch_size", "seq_length")
        _at_least(self, 1, "eval_interval", "exit_interval", "recompute_num_layers")
        _at_least(self, 0, "train_iters", "eval_iters")
        _one_of(self, "recompute_granularity", (None, "full", "selective"))
        _one_of(self, "recompute_method", (None, "uniform", "block"))
        if self.recompute_granularity == "full" and self.recompute_method is None:
            raise ConfigError("--recompute-granularity full needs --recompute-method as well.")
        if self.recompute_method and self.recompute_granularity != "full":
            raise ConfigError(
                f"--recompute-method {self.recompute_method} has an effect only with "
                "--recompute-granularity full."
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam, its learning rate over the run, and gradient clipping."""

    lr: float = 1e-3
    """Peak learning rate."""

    min_lr: float = 0.0
    """Learning rate at the end of the decay."""

    lr_decay_style: str = "cosine"
    """cosine, linear or constant."""

    lr_decay_iters: int | None = None
    """Steps until min_lr is reached, warm-up included. Unset: all of --train-iters."""

    lr_warmup_iters: int = 0
    """Steps of linear warm-up from 0."""

    lr_warmup_fraction: float | None = None
    """Warm-up as a fraction of the decay steps, instead of --lr-warmup-iters."""

    weight_decay: float = 0.1
    """Decoupled weight decay; biases and norm scales have none."""

    clip_grad: float = 1.0
    """Clip the global gradient norm to this; 0 turns clipping off."""

    adam_beta1: float = 0.9
    """Adam's decay of the first moment."""

    adam_beta2: float = 0.999
    """Adam's decay of the second moment."""

    adam_eps: float = 1e-8
    """Adam's term against division by zero."""

    use_distributed_optimizer: bool = False
    """Shard the optimizer's state over the data-parallel ranks."""

    def __post_init__(self) -> None:
        _one_of(self, "lr_decay_style", ("cosine", "linear", "constant"))
        _at_least(self, 0, "lr", "min_lr", "lr_warmup_iters", "weight_decay", "clip_grad")
        _at_least(self, 1, "lr_decay_iters")
        if self.min_lr > self.lr:
            raise ConfigError(f"--min-lr {self.min_lr} is above --lr {self.lr}.")
        if self.lr_warmup_fraction is not None and self.lr_warmup_iters:
            raise ConfigError("Give --lr-warmup-iters or --lr-warmup-fraction, not both.")
        if self.lr_warmup_fraction is not None and not 0 <= self.lr_warmup_fraction <= 1:
            raise ConfigError(f"--lr-warmup-fraction is {self.lr_warmup_fraction}; rule: 0 to 1.")


def _at_least(section: object, low: int, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value < low:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be {low} or more.")


def _one_of(section: object, name: str, allowed: tuple[str | None, ...]) -> None:
    value = getattr(section, name)
    if value not in allowed:
        choices = ", ".join(str(a) for a in allowed if a is not None)
        raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; it must be one of {choices}.")
