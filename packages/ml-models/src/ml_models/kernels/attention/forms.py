"""The forms of attention, and which serves where. docs/kernels.md has the table."""

import sys

from ml_models.kernels.installed import is_importable, needs_version
from ml_models.kernels.selection import ANY_DEVICE, Form, Operation, Request, Situation

FLEX_TORCH = (2, 7)  # The oldest whose masks take lengths that are no multiple of 128.
FLASH_ATTN = (2, 6)  # The first with softcap.
FLEX_HEAD_SIZE = 16  # The smallest factor of a product that triton makes.
FLASH_HEAD_SIZE = 256
NPU_HEAD_SIZE = 512  # The documents of torch_npu up to 2.6 say so; the newest say 768.


def _plain_scores(situation: Situation) -> str:
    if situation.scoring.cap is not None:
        return "it has no cap on scores"
    return _temperature(situation)


def _temperature(situation: Situation) -> str:
    return "it has no temperature by position" if situation.scoring.temperature_length else ""


def _sdpa(situation: Situation) -> str:
    if situation.device == "cuda" and situation.dtype == "float32":
        # torch's fused kernels for grouped heads need half precision; the rest is full matrices.
        return "torch has no fused kernel for grouped heads in float32 on cuda"
    return _plain_scores(situation)


def _flex(situation: Situation) -> str:
    if situation.device != "cuda":
        return f"flex_attention has no backward pass on {situation.device}"
    if situation.head_size < FLEX_HEAD_SIZE:
        return f"a head of {situation.head_size} channels is below its {FLEX_HEAD_SIZE}"
    if not is_importable("triton"):
        return "triton is not installed, by which torch.compile makes its kernels"
    return needs_version("torch", FLEX_TORCH)


def _flash(situation: Situation) -> str:
    if situation.device != "cuda":
        return f"flash-attn runs on cuda, not on {situation.device}"
    if situation.dtype != "bfloat16":
        return f"flash-attn computes in half precision, not in {situation.dtype}"
    if situation.head_size > FLASH_HEAD_SIZE:
        return f"a head of {situation.head_size} channels is above its {FLASH_HEAD_SIZE}"
    return _temperature(situation) or needs_version("flash-attn", FLASH_ATTN)


def _npu_fusion(situation: Situation) -> str:
    if situation.device != "npu":
        return f"npu_fusion_attention runs on npu, not on {situation.device}"
    if situation.dtype == "float64":
        return "npu_fusion_attention does not compute in float64"
    if situation.head_size > NPU_HEAD_SIZE:
        return f"a head of {situation.head_size} channels is above its {NPU_HEAD_SIZE}"
    # A run has imported torch_npu before it asks; show-config on another machine has not.
    imported = sys.modules.get("torch_npu")
    if imported is None and not is_importable("torch_npu"):
        return "torch_npu is not installed"
    if imported is not None and not hasattr(imported, "npu_fusion_attention"):
        return "this torch_npu has no npu_fusion_attention"
    return _plain_scores(situation)


ATTENTION = Operation(
    name="attention",
    forms=(
        Form(name="reference", text="full score matrices in torch operations"),
        Form(name="blocked", text="blocks of queries in torch operations, recomputed backward"),
        Form(name="sdpa", text="torch's scaled_dot_product_attention", hindrance=_sdpa),
        Form(name="flex", text="torch's flex_attention, compiled", hindrance=_flex),
        Form(name="flash", text="the package flash-attn", hindrance=_flash),
        Form(name="npu_fusion", text="torch_npu's npu_fusion_attention", hindrance=_npu_fusion),
    ),
    order={
        # torch's own kernels for a GPU come first where both can serve: they need no other package.
        "cuda": ("sdpa", "flash", "flex", "blocked"),
        "npu": ("npu_fusion", "blocked"),
        ANY_DEVICE: ("blocked",),
    },
    requests={
        "flash": Request(
            flag="--attention-backend flash (also --use-flash-attn)",
            forms=("flash", "npu_fusion", "sdpa"),
        ),
        "fused": Request(flag="--attention-backend fused", forms=("sdpa", "flex", "npu_fusion")),
        "unfused": Request(flag="--attention-backend unfused", forms=("reference",)),
        "local": Request(flag="--attention-backend local", forms=("blocked",)),
    },
)
