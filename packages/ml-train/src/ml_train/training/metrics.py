"""The metrics of a step; docs/metrics.md explains them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Of an optimizer step. They are the same on every rank."""

    iteration: int
    """1 for the first step of the run."""
    loss: float
    """Mean cross entropy per token over the global batch, in nats, without auxiliary losses."""
    aux_loss: float | None = None
    """Load-balancing loss before its coefficient, mean over layers and micro batches."""
    z_loss: float | None = None
    """Router z-loss, likewise; None where it is off."""
    learning_rate: float
    grad_norm: float | None
    """Global norm before clipping; None where the optimizer gives none."""
    tokens_per_second_per_device: float
    model_tflops_per_device: float
    """Model TFLOP/s, by ml_train.training.flops."""
    mfu: float | None = None
    """Share of the device's dense peak; None where the peak is not known."""
    memory_bytes: int
    """Peak of this process: device memory, or resident memory on the CPU."""
    expert_load: list[list[float]] = field(default_factory=list)
    """Per layer the share of token slots that each expert got; each row adds up to 1."""
    router_entropy: list[float] = field(default_factory=list)
    """Per layer the mean entropy of a token's distribution over all experts, in nats."""
    step_seconds: float
    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Of step_seconds on rank 0: data, forward, backward, communication, optimizer."""
    consumed_samples: int
    skipped: bool = False
    """The update was skipped, for instance for a gradient that is not finite."""
