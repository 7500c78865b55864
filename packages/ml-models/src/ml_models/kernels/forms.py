"""The forms of every operation but attention, and which serves where; docs/kernels.md has a table.

On cuda, a product that adds to an fp32 buffer, torch's fused norm and compiled element-wise work
come first: benchmarks/device/README.md has what each saves. grouped_mm is used on request alone,
because products per expert are large enough in these models and every torch has them.
"""

import sys

from ml_models.kernels.installed import is_importable, needs_version
from ml_models.kernels.selection import ANY_DEVICE, Form, Hindrance, Operation, Request, Situation
from ml_models.megatron_core.requirements import is_cpu_build

ALIGNMENT_BYTES = 16
"""Rows of grouped_mm's factors must begin at multiples of it (its own check of strides)."""

# Limits of torch_npu, from docs/zh/custom_APIs/torch_npu of github.com/Ascend/op-plugin.
NPU_ROW = 65536
"""npu_grouped_matmul: the last dimension of each factor is below it ("InnerLimit")."""
NPU_ROTARY_HEAD = 896
"""npu_rotary_mul: channels of a head are below it."""

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


def _all_of(*hindrances: Hindrance) -> Hindrance:
    """The first hindrance that holds."""

    def hindrance(situation: Situation) -> str:
        return next((text for check in hindrances if (text := check(situation))), "")

    return hindrance


def _only_on(*devices: str) -> Hindrance:
    def hindrance(situation: Situation) -> str:
        if situation.device in devices:
            return ""
        return f"it runs on {' and '.join(devices)}, and the device is {situation.device}"

    return hindrance


def _needs_torch(major: int, minor: int) -> Hindrance:
    return lambda _: needs_version("torch", (major, minor))


def _needs_cuda_build(_: Situation) -> str:
    return "this torch is a build for CPUs, without kernels for cuda" if is_cpu_build() else ""


def _needs_package(name: str) -> Hindrance:
    return lambda _: "" if is_importable(name) else f"{name} is not installed"


def _needs_dtype(name: str, why: str) -> Hindrance:
    return lambda situation: "" if situation.dtype == name else f"{why}, not {situation.dtype}"


def _aligned(situation: Situation) -> str:
    size = ELEMENT_BYTES.get(situation.dtype, 1)
    odd = [str(width) for width in situation.widths if width * size % ALIGNMENT_BYTES]
    if not odd:
        return ""
    return (
        f"a width must be a multiple of {ALIGNMENT_BYTES // size}, and {' and '.join(odd)} is not"
    )


def _swish_gate(situation: Situation) -> str:
    if situation.activation == "silu":
        return ""
    return f"npu_swiglu computes SiLU, and the model has {situation.activation}"


def _within_npus_rows(situation: Situation) -> str:
    # Gate and value are one product: its result, and the factor of its gradient, are twice as wide.
    hidden, part = situation.widths or (0, 0)
    if max(hidden, 2 * part) < NPU_ROW:
        return ""
    return f"a row of a factor has fewer than {NPU_ROW} numbers there, not {max(hidden, 2 * part)}"


def _within_npus_heads(situation: Situation) -> str:
    if situation.head_size < NPU_ROTARY_HEAD:
        return ""
    return f"a head has fewer than {NPU_ROTARY_HEAD} channels there, not {situation.head_size}"


def _compiled(text: str) -> Form:
    hindrance = _all_of(_only_on("cuda"), _needs_package("triton"))
    return Form(name="compiled", text=text, hindrance=hindrance)


def _npu(name: str, text: str, *more: Hindrance) -> Form:
    """A form that is called as the function of torch_npu is."""

    def is_there(_: Situation) -> str:
        # A run has imported torch_npu before it asks; show-config on another machine has not.
        imported = sys.modules.get("torch_npu")
        if imported is None:
            return "" if is_importable("torch_npu") else "torch_npu is not installed"
        return "" if hasattr(imported, name) else f"this torch_npu has no {name}"

    def narrow(situation: Situation) -> str:
        return "it does not compute in float64" if situation.dtype == "float64" else ""

    hindrance = _all_of(_only_on("npu"), is_there, narrow, *more)
    return Form(name=name, text=text, hindrance=hindrance)


EXPERTS = Operation(
    name="experts",
    forms=(
        Form(name="loop", text="two matrix products per expert"),
        Form(
            name="grouped_mm",
            text="two grouped products for all experts, by torch",
            hindrance=_all_of(
                _needs_torch(2, 10),
                _needs_dtype("bfloat16", "grouped_mm multiplies bfloat16"),
                _aligned,
            ),
        ),
        _npu(
            "npu_grouped_matmul",
            "two grouped products for all experts, by torch_npu",
            _within_npus_rows,
        ),
    ),
    order={"npu": ("npu_grouped_matmul", "loop"), ANY_DEVICE: ("loop",)},
    requests={
        "grouped": Request(flag="--moe-grouped-gemm", forms=("npu_grouped_matmul", "grouped_mm")),
    },
)

WEIGHT_GRADIENT = Operation(
    name="weight_gradient",
    forms=(
        Form(name="add", text="a product in the weights' dtype, then a sum"),
        Form(
            name="addmm",
            text="a product that adds to the fp32 buffer as it is computed",
            hindrance=_all_of(_only_on("cuda"), _needs_torch(2, 8), _needs_cuda_build),
        ),
        _npu("npu_grouped_matmul_add_", "torch_npu's product that adds to the fp32 buffer"),
    ),
    order={
        "cuda": ("addmm", "add"),
        "npu": ("npu_grouped_matmul_add_", "add"),
        ANY_DEVICE: ("add",),
    },
    requests={"unfused": Request(flag="--no-gradient-accumulation-fusion", forms=("add",))},
)

NORM = Operation(
    name="norm",
    forms=(
        Form(name="torch", text="torch operations in fp32"),
        _compiled("the same operations in kernels of torch.compile"),
        Form(
            name="fused",
            text="torch.nn.functional.rms_norm",
            hindrance=_all_of(_only_on("cuda"), _needs_torch(2, 9), _needs_cuda_build),
        ),
        _npu("npu_rms_norm", "torch_npu's kernel"),
    ),
    order={
        "cuda": ("fused", "compiled", "torch"),
        "npu": ("npu_rms_norm", "torch"),
        ANY_DEVICE: ("torch",),
    },
    requests={
        "fused": Request(flag="--use-fused-rmsnorm", forms=("npu_rms_norm", "fused", "compiled")),
    },
)

GATED_ACTIVATION = Operation(
    name="gated_activation",
    forms=(
        Form(name="torch", text="torch operations in fp32"),
        _compiled("the same operations in a kernel of torch.compile"),
        _npu("npu_swiglu", "torch_npu's kernel", _swish_gate),
    ),
    order={
        "cuda": ("compiled", "torch"),
        "npu": ("npu_swiglu", "torch"),
        ANY_DEVICE: ("torch",),
    },
    requests={"fused": Request(flag="--use-fused-swiglu", forms=("npu_swiglu", "compiled"))},
)

ROTARY = Operation(
    name="rotary",
    forms=(
        Form(name="torch", text="torch operations in fp32"),
        _compiled("the same operations in a kernel of torch.compile"),
        _npu("npu_rotary_mul", "torch_npu's kernel, in fp32", _within_npus_heads),
    ),
    order={
        "cuda": ("compiled", "torch"),
        "npu": ("npu_rotary_mul", "torch"),
        ANY_DEVICE: ("torch",),
    },
    requests={
        "fused": Request(flag="--use-fused-rotary-pos-emb", forms=("npu_rotary_mul", "compiled")),
    },
)

PERMUTATION = Operation(
    name="permutation",
    forms=(
        Form(name="core", text="megatron-core's index_select and scatter_add"),
        Form(
            name="transformer_engine",
            text="TransformerEngine's fused permutation, which megatron-core calls",
            hindrance=_all_of(
                _only_on("cuda"),
                _needs_package("transformer_engine"),
                lambda _: needs_version("transformer-engine", (2, 1)),
            ),
        ),
    ),
    # No fused form without a request, as in Megatron: index_select reads and writes rows once.
    order={ANY_DEVICE: ("core",)},
    requests={"fused": Request(flag="--moe-permute-fusion", forms=("transformer_engine",))},
)
