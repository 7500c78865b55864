"""Which form of an operation computes it; docs/kernels.md has the forms and their conditions."""

from dataclasses import dataclass
from typing import Literal

from ml_models.kernels.table import KernelSettings
from ml_train.config.sections.rules import Section


@dataclass(frozen=True, kw_only=True)
class KernelsSection(Section):
    """Requests that a form meets or that end the command. Without them the device's defaults."""

    attention_backend: Literal["auto", "unfused", "local"] = "auto"
    """auto: the device's default. unfused: full score matrices. local: blocks of queries in torch
    operations."""

    def settings(self) -> KernelSettings:
        """The requests by operation."""
        return KernelSettings(attention=self.attention_backend)
