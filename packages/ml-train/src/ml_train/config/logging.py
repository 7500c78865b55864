"""What a run reports, how often, and where to."""

from dataclasses import dataclass

from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Console always; TensorBoard and JSON lines when a directory is given."""

    log_interval: int = 1
    """Steps between two reports."""

    tensorboard_dir: str | None = None
    """Directory of TensorBoard's event files. Unset: <save>/tensorboard where there is --save."""

    metrics_file: str | None = None
    """File of JSON lines, one per report. Unset: <save>/metrics.jsonl where there is --save."""

    peak_tflops_per_device: float | None = None
    """Dense peak of one device in the run's precision, for MFU. Unset: from the device's table."""

    wandb_project: str | None = None
    """Weights & Biases project to report to as well; needs pip install wandb."""

    wandb_exp_name: str | None = None
    """Name of the run there. Unset: W&B chooses one."""

    profile: bool = False
    """Record some steps with torch.profiler, as traces in <save>/profile (or ./profile)."""

    profile_step_start: int = 10
    """First step that is recorded."""

    profile_step_end: int = 12
    """The first step that is not recorded any more."""

    profile_ranks: tuple[int, ...] = (0,)
    """Ranks that record."""

    router_logits_dir: str | None = None
    """Write every token's router logits of every step here: to compare expert choices of runs."""

    def __post_init__(self) -> None:
        if self.log_interval < 1:
            raise ConfigError(f"--log-interval is {self.log_interval}; it must be 1 or more.")
        if not 1 <= self.profile_step_start < self.profile_step_end:
            raise ConfigError(
                f"--profile-step-start {self.profile_step_start} and --profile-step-end "
                f"{self.profile_step_end}: rule: 1 <= start < end."
            )
