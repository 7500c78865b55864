"""What a run reports, how often, and where to."""

from dataclasses import dataclass
from typing import Annotated

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, POSITIVE, PerNode, Section
from ml_train.errors import ConfigError

_REPORTS = PerNode(reason="reports are written by rank 0 alone")


@dataclass(frozen=True, kw_only=True)
class LoggingSection(Section):
    """Console always; TensorBoard and JSON lines when a directory is given."""

    log_interval: Annotated[int, COUNT] = 1
    """Steps between two reports."""

    tensorboard_dir: Annotated[str | None, _REPORTS] = None
    """Directory of TensorBoard's event files. Unset: <save>/tensorboard where there is --save."""

    metrics_file: Annotated[str | None, _REPORTS] = None
    """File of JSON lines, one per report. Unset: <save>/metrics.jsonl where there is --save."""

    peak_tflops_per_device: Annotated[float | None, POSITIVE] = None
    """Dense peak of one device in the run's precision, for MFU. Unset: from the device's table."""

    wandb_project: str | None = None
    """Weights & Biases project to report to as well; needs pip install wandb."""

    wandb_exp_name: str | None = None
    """Name of the run there. Unset: W&B chooses one."""

    profile: bool = False
    """Record some steps with torch.profiler, as traces in <save>/profile (or ./profile)."""

    profile_step_start: Annotated[int, COUNT] = 10
    """First step that is recorded."""

    profile_step_end: Annotated[int, COUNT] = 12
    """The first step that is not recorded any more."""

    profile_ranks: Annotated[tuple[int, ...], NUMBER_OR_NONE] = (0,)
    """Ranks that record."""

    router_logits_dir: Annotated[str | None, PerNode(reason="each rank writes its own files")] = (
        None
    )
    """Write every token's router logits of every step here: to compare expert choices of runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.profile_step_start < self.profile_step_end:
            raise ConfigError(
                f"--profile-step-start {self.profile_step_start} and --profile-step-end "
                f"{self.profile_step_end}: rule: 1 <= start < end."
            )
