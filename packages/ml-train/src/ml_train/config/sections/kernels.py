"""Which form of an operation computes it; docs/kernels.md has the forms and their conditions."""

from dataclasses import dataclass
from typing import Literal

from ml_models.kernels.selection import AUTO
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

    moe_grouped_gemm: bool = False
    """Grouped products for all experts of a rank. Without it each device has its default."""

    no_gradient_accumulation_fusion: bool = False
    """Weight gradients of experts in the weights' dtype, then added to the fp32 buffer. Without it
    products on cuda add to the buffer."""

    use_fused_rmsnorm: bool = False
    """A fused kernel for norms, or an error where there is none. Without it each device has its
    default."""

    use_fused_swiglu: bool = False
    """A fused kernel for the experts' gated activation, or an error where there is none."""

    use_fused_rotary_pos_emb: bool = False
    """A fused kernel for rotary positions, or an error where there is none."""

    moe_permute_fusion: bool = False
    """TransformerEngine's fused token permutation, or an error where it is not installed. Without
    it megatron-core's index_select."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_flash_attn and self.attention_backend not in ("auto", "flash"):
            raise ConfigError(
                f"--use-flash-attn and --attention-backend {self.attention_backend} contradict "
                "each other: the first is --attention-backend flash. Drop one of them."
            )

    def settings(self) -> KernelSettings:
        """The requests by operation."""
        return KernelSettings(
            attention="flash" if self.use_flash_attn else self.attention_backend,
            experts="grouped" if self.moe_grouped_gemm else AUTO,
            weight_gradient="unfused" if self.no_gradient_accumulation_fusion else AUTO,
            norm="fused" if self.use_fused_rmsnorm else AUTO,
            gated_activation="fused" if self.use_fused_swiglu else AUTO,
            permutation="fused" if self.moe_permute_fusion else AUTO,
            rotary="fused" if self.use_fused_rotary_pos_emb else AUTO,
        )
