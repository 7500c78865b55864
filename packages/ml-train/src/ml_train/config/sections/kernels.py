"""Which form of an operation computes it; docs/kernels.md has the forms and their conditions."""

from dataclasses import dataclass
from typing import Literal

from ml_models.kernels.table import KernelSettings
from ml_train.config.sections.rules import Section
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KernelsSection(Section):
    """Requests that a form meets or that end the command. Without them the device's defaults."""

    attention_backend: Literal["auto", "flash", "fused", "unfused", "local"] = "auto"
    """auto: the device's default. flash: flash-attn, npu_fusion_attention, or torch's flash kernel
    where scores have no cap. fused: a kernel of torch's (flex_attention with a cap). unfused: full
    score matrices. local: blocks of queries in torch operations."""

    use_flash_attn: bool = False
    """The same as --attention-backend flash."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_flash_attn and self.attention_backend not in ("auto", "flash"):
            raise ConfigError(
                f"--use-flash-attn and --attention-backend {self.attention_backend} contradict "
                "each other: the first is --attention-backend flash. Drop one of them."
            )

    def settings(self) -> KernelSettings:
        """The requests by operation."""
        return KernelSettings(attention="flash" if self.use_flash_attn else self.attention_backend)
