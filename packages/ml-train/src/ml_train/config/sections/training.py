"""Batches, steps, precision and recomputation of a run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, POSITIVE, Range, Section
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingSection(Section):
    """What a step is, and how many steps a run has."""

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
    """Equal runs to the bit: torch's deterministic algorithms and the libraries' switches."""

    # Not a Literal: plug-ins add platforms. config/load.py checks the name.
    device: str = "auto"
    """Platform: cpu, cuda, npu, or auto for the first that has a device."""

    @property
    def parameter_bytes(self) -> int:
        """Of a parameter that the model computes with."""
        return 2 if self.bf16 else 4

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
