"""Every form gives the formula's values and gradients, computed anew here in float64."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from model_checks.npu_kernels import module as stand_in_npu
from torch import Tensor

from ml_models import registry
from ml_models.errors import ConfigError
from ml_models.kernels import execution, forms
from ml_models.kernels.activation import gated_product_of
from ml_models.kernels.experts.functions import EXPERT_FUNCTIONS
from ml_models.kernels.experts.loop import Product
from ml_models.kernels.norm import NORMS
from ml_models.kernels.rotary import ROTATIONS
from ml_models.kernels.selection import Situation, choose
from ml_models.kernels.table import situation_of
from ml_models.kernels.weight_gradient import NPU_ADD, add_product

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_erf": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


@pytest.fixture(autouse=True)
def kernels_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_npu by its contract, and compiled forms without a compiler, which the CPU may lack."""
    monkeypatch.setitem(sys.modules, "torch_npu", stand_in_npu())
    monkeypatch.setattr(execution, "_compiled", lambda function: function)
    torch.manual_seed(0)


def gradients(result: Tensor, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    return [result, *torch.autograd.grad(result, inputs, upstream.to(result.dtype))]


def assert_equal(results: list[Tensor], expected: list[Tensor]) -> None:
    for number, (result, other) in enumerate(zip(results, expected, strict=True)):
        error = (result.double() - other).norm() / other.norm()
        assert error < 2e-6, (number, error)


def twice(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs as they are and in float64, both recording gradients."""
    single = [tensor.clone().requires_grad_() for tensor in tensors]
    return single, [tensor.double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("form", sorted(NORMS))
def test_norm(form: str) -> None:
    inputs, doubles = twice(torch.randn(5, 3, 37), torch.rand(37) + 0.5)
    upstream = torch.randn(5, 3, 37)
    x, weight = doubles
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    result = NORMS[form](*inputs, 1e-5, False)
    assert_equal(gradients(result, inputs, upstream), gradients(expected, doubles, upstream))


@pytest.mark.parametrize("form", sorted(ROTATIONS))
def test_rotation(form: str) -> None:
    inputs, doubles = twice(torch.randn(7, 2, 3, 10))
    angles = torch.rand(9, 1, 1, 5).repeat(1, 1, 1, 2) * 6
    upstream = torch.randn(7, 2, 3, 10)
    pairs = torch.complex(*doubles[0].chunk(2, dim=-1))
    turned = pairs * torch.polar(torch.ones(()).double(), angles[:7, ..., :5].double())
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    result = ROTATIONS[form](*inputs, angles, False)
    assert_equal(gradients(result, inputs, upstream), gradients(expected, doubles, upstream))


GATED = [("torch", name) for name in GATES]
GATED += [("compiled", "gelu_tanh"), ("compiled", "silu"), ("npu_swiglu", "silu")]


@pytest.mark.parametrize(("form", "activation"), GATED)
def test_gated_product(form: str, activation: str) -> None:
    inner, probs, grad = torch.randn(11, 26), torch.rand(11) + 0.1, torch.randn(11, 13)
    doubles = [inner.double().requires_grad_(), probs.double().requires_grad_()]
    gate, value = doubles[0].chunk(2, dim=-1)
    acted = GATES[activation](gate) * value
    expected = acted * doubles[1][:, None]
    product = gated_product_of(form, False)
    weighted = grad * probs[:, None]
    results = product.backward(weighted, inner, probs, activation)
    assert_equal(
        [product.forward(inner, probs, activation), results[1], results[2], results[0]],
        [*gradients(expected, doubles, grad), acted],
    )


def experts_in_double(
    x: Tensor, probs: Tensor, fc1: Tensor, fc2: Tensor, counts: list[int], activation: str
) -> Tensor:
    parts = []
    for expert, (rows, shares) in enumerate(zip(x.split(counts), probs.split(counts), strict=True)):
        gate, value = rows @ fc1[expert, 0].t(), rows @ fc1[expert, 1].t()
        parts.append(GATES[activation](gate) * value * shares[:, None] @ fc2[expert].t())
    return torch.cat(parts)


CASES = [
    ("loop", "torch", "gelu_tanh"),
    ("grouped_mm", "compiled", "gelu_tanh"),
    ("npu_grouped_matmul", "npu_swiglu", "silu"),
]


@pytest.mark.parametrize(("form", "gated", "activation"), CASES)
@pytest.mark.parametrize("counts", [[5, 0, 9, 1], [0, 0, 0, 15], [0, 0, 0, 0]])
def test_experts(form: str, gated: str, activation: str, counts: list[int]) -> None:
    # grouped_mm takes widths of 16 bytes' multiples alone: 8 and 12 are, in float32.
    rows = sum(counts)
    inputs, doubles = twice(
        torch.randn(rows, 8), torch.rand(rows), torch.randn(4, 2, 12, 8), torch.randn(4, 8, 12)
    )
    upstream = torch.randn(rows, 8)
    product = Product(activation=activation, compiled=False, experts=form, gated=gated)
    result = EXPERT_FUNCTIONS[form].apply(*inputs, counts, product)
    found = gradients(result, inputs, upstream)
    if not rows:
        # No token at all: the weights' gradients are zeros, never absent.
        assert [tensor.abs().sum().item() for tensor in found] == [0.0] * 5
        return
    expected = experts_in_double(*doubles, counts, activation)
    assert_equal(found, gradients(expected, doubles, upstream))


def as_cublas(
    target: Tensor, first: Tensor, second: Tensor, *, out_dtype: torch.dtype, out: Tensor
) -> Tensor:
    """torch.addmm of a GPU with a dtype of its own: bf16 factors, sums and result in fp32."""
    assert first.dtype == second.dtype == torch.bfloat16
    assert out_dtype == target.dtype == out.dtype == torch.float32
    return out.copy_(target + first.float() @ second.float())


@pytest.mark.parametrize("counts", [[3, 0, 6], [0, 9, 0], [9]])
@pytest.mark.parametrize("form", ["loop", "npu_grouped_matmul"])
def test_weight_gradients_reach_the_fp32_buffer_without_bf16(
    form: str, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "addmm", as_cublas)
    x, probs, number = torch.randn(9, 8).bfloat16(), torch.rand(9), len(counts)
    weights = [torch.randn(number, 2, 12, 8).bfloat16(), torch.randn(number, 8, 12).bfloat16()]
    errors = {}
    for gradient in ("add", "addmm", NPU_ADD):
        made = [weight.clone().requires_grad_() for weight in weights]
        for weight in made:
            weight.main_grad = torch.ones(weight.shape)
            weight.grad_added_to_main_grad = False
        product = Product(activation="silu", compiled=False, experts=form, weight_gradient=gradient)
        EXPERT_FUNCTIONS[form].apply(x, probs, *made, counts, product).sum().backward()
        doubles = [weight.double().requires_grad_() for weight in weights]
        experts_in_double(x.double(), probs.double(), *doubles, counts, "silu").sum().backward()
        assert all(weight.grad_added_to_main_grad for weight in made)
        # An expert without tokens keeps what the buffer held.
        for expert in (expert for expert, count in enumerate(counts) if not count):
            assert all((weight.main_grad[expert] == 1).all() for weight in made)
        second = made[1].main_grad - 1
        errors[gradient] = (second - doubles[1].grad).norm() / doubles[1].grad.norm()
    assert errors["addmm"] < errors["add"]
    assert errors[NPU_ADD] < errors["add"]


@pytest.mark.parametrize("form", ["addmm", NPU_ADD])
def test_a_product_is_added_in_fp32(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "addmm", as_cublas)
    first, second, target = torch.randn(31, 5).bfloat16(), torch.randn(31, 7).bfloat16(), None
    for tokens in (31, 0):
        target = torch.full((5, 7), 0.25)
        add_product(target, first[:tokens], second[:tokens], form)
        wanted = 0.25 + first[:tokens].double().t() @ second[:tokens].double()
        assert_equal([target], [wanted])
    narrow = torch.zeros(5, 7).bfloat16()
    add_product(narrow, first, second, form)
    assert (narrow.double() - first.double().t() @ second.double()).abs().max() < 0.1


HERE = Situation(
    device="cuda",
    dtype="bfloat16",
    scoring=registry.get("grok1-tiny").attention_scoring,
    head_size=16,
    activation="gelu_tanh",
    widths=(64, 128),
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What counts as installed; the torch of this process is newer than every bound."""
    modules = {"triton", "torch_npu"}
    monkeypatch.setattr(forms, "is_importable", lambda name: name in modules)
    monkeypatch.setattr(forms, "is_cpu_build", lambda: False)
    return modules


def test_forms_of_a_gpu_and_of_an_npu(installed: set[str]) -> None:
    names = ("experts", "weight_gradient", "norm", "gated_activation", "rotary")
    operations = [getattr(forms, name.upper()) for name in names]
    on_gpu = [choose(operation, HERE).form for operation in operations]
    assert on_gpu == ["loop", "addmm", "fused", "compiled", "compiled"]
    npu = replace(HERE, device="npu", activation="silu")
    on_npu = [choose(operation, npu).form for operation in operations]
    assert on_npu == ["npu_grouped_matmul", NPU_ADD, "npu_rms_norm", "npu_swiglu", "npu_rotary_mul"]
    on_cpu = [choose(operation, replace(HERE, device="cpu")).form for operation in operations]
    assert on_cpu == ["loop", "add", "torch", "torch", "torch"]
    installed.discard("triton")
    without = choose(forms.ROTARY, HERE)
    assert without.form == "torch"
    assert without.reason == "the default on cuda; not compiled: triton is not installed"


def test_a_build_for_cpus_has_no_kernels_of_a_gpu(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "is_cpu_build", lambda: True)
    installed.discard("triton")
    for operation, form in ((forms.NORM, "torch"), (forms.WEIGHT_GRADIENT, "add")):
        choice = choose(operation, HERE)
        assert choice.form == form
        assert "build for CPUs" in choice.reason


def test_swiglu_is_refused_for_gelu_by_name(installed: set[str]) -> None:
    npu = replace(HERE, device="npu")
    assert choose(forms.GATED_ACTIVATION, npu).form == "torch"
    with pytest.raises(ConfigError, match="--use-fused-swiglu.*npu_swiglu computes SiLU.*gelu_tan"):
        choose(forms.GATED_ACTIVATION, npu, "fused")
    with pytest.raises(ConfigError, match="--use-fused-rmsnorm.*device is cpu"):
        choose(forms.NORM, replace(HERE, device="cpu"), "fused")


def test_older_torch_and_odd_widths_are_refused_by_name(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="a width must be a multiple of 8, and 100 is not"):
        choose(forms.EXPERTS, replace(HERE, widths=(64, 100)), "grouped")
    with pytest.raises(ConfigError, match="grouped_mm multiplies bfloat16, not float32"):
        choose(forms.EXPERTS, replace(HERE, dtype="float32"), "grouped")
    monkeypatch.setattr(
        forms, "needs_version", lambda name, lowest: f"it needs {name} {lowest[0]}.{lowest[1]}"
    )
    with pytest.raises(ConfigError, match="not grouped_mm: it needs torch 2.10"):
        choose(forms.EXPERTS, HERE, "grouped")
    assert choose(forms.WEIGHT_GRADIENT, HERE).form == "add"
    assert choose(forms.NORM, HERE).form == "compiled"


def test_a_models_activation_reaches_the_choice() -> None:
    for model, activation in (("grok1-tiny", "gelu_tanh"), ("mixtral-tiny", "silu")):
        situation = situation_of(registry.get(model), device="npu", dtype="bfloat16")
        assert situation.activation == activation


def test_torch_npus_limits_are_told(installed: set[str]) -> None:
    npu = replace(HERE, device="npu", activation="silu")
    wide = choose(forms.EXPERTS, replace(npu, widths=(6144, 32768)))
    assert wide.form == "loop" and "fewer than 65536 numbers there, not 65536" in wide.reason
    assert choose(forms.EXPERTS, replace(npu, widths=(6144, 16384))).form == "npu_grouped_matmul"
    assert choose(forms.ROTARY, replace(npu, head_size=896)).form == "torch"
    assert choose(forms.NORM, replace(npu, dtype="float64")).form == "torch"


def test_fused_permutation_is_transformer_engines_or_refused(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(forms.PERMUTATION, HERE).form == "core"
    with pytest.raises(ConfigError, match="--moe-permute-fusion.*transformer_engine is not inst"):
        choose(forms.PERMUTATION, HERE, "fused")
    installed.add("transformer_engine")
    monkeypatch.setattr(forms, "needs_version", lambda *_: "")
    assert choose(forms.PERMUTATION, HERE, "fused").form == "transformer_engine"
    with pytest.raises(ConfigError, match="runs on cuda, and the device is npu"):
        choose(forms.PERMUTATION, replace(HERE, device="npu"), "fused")
