"""Every form of attention gives the reference's output and gradients, computed in fp64.

Lengths that are no multiple of a block, batches, groups of heads, with a cap and without.
"""

import math
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from model_checks import attention_contracts as contracts
from torch import Tensor

from ml_models.kernels.attention import flex
from ml_models.kernels.attention.forms import ATTENTION
from ml_models.kernels.attention.functions import CAUSAL_ATTENTION
from ml_models.kernels.selection import Situation, choose
from ml_models.scoring import Scoring

SIZES = (
    # S, B, N, G, D
    (1, 1, 2, 1, 8),
    (150, 2, 6, 2, 16),
    (257, 1, 4, 4, 8),
    (300, 2, 4, 1, 16),
)
RULES = (Scoring(scale=0.3), Scoring(scale=0.3, cap=2.0), Scoring(scale=0.3, cap=50.0))
TEMPERED = (Scoring(0.3, 2.0, temperature_length=100), Scoring(0.3, temperature_length=40))
TIGHT = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Largest difference of a tensor from the fp64 reference, as a share of its norm."""


def expected(inputs: list[Tensor], scoring: Scoring, grad: Tensor) -> list[Tensor]:
    """Output and gradients in fp64, head by head."""
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in inputs)
    length, _, heads, _ = query.shape
    repeat = heads // key.shape[2]
    outputs = []
    for head in range(heads):
        q, k, v = (
            t[:, :, h].transpose(0, 1)
            for t, h in ((query, head), (key, head // repeat), (value, head // repeat))
        )
        scores = q @ k.transpose(1, 2) * scoring.scale
        if scoring.cap is not None:
            scores = scoring.cap * torch.tanh(scores / scoring.cap)
        if (first := scoring.temperature_length) is not None:
            factors = [math.log2(max(p, first)) / math.log2(first) for p in range(length)]
            scores = scores * torch.tensor(factors, dtype=torch.float64)[:, None]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)
        outputs.append((weights @ v).transpose(0, 1))
    out = torch.cat(outputs, dim=-1)
    return [out, *torch.autograd.grad(out, (query, key, value), grad.double())]


def check(
    form: str,
    dtype: torch.dtype,
    size: tuple[int, ...],
    scoring: Scoring,
    limit: float | None = None,
) -> None:
    length, batch, heads, groups, channels = size
    generator = torch.Generator().manual_seed(sum(size))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    # As the layers give them: query and key from rotary positions, the value a view of all three.
    query, key = draw(length, batch, heads, channels), draw(length, batch, groups, channels)
    value = draw(length, batch, groups, 3 * channels)[..., channels : 2 * channels]
    inputs = [tensor.requires_grad_() for tensor in (query, key, value.detach())]
    grad = draw(length, batch, heads * channels)
    out = CAUSAL_ATTENTION[form](*inputs, scoring, False)
    results = [out, *torch.autograd.grad(out, inputs, grad)]
    for name, result, wanted in zip(
        ("output", "query", "key", "value"), results, expected(inputs, scoring, grad), strict=True
    ):
        assert result.dtype == dtype and result.shape == wanted.shape
        # A single token's gradient of the query is 0: what is left there is rounding.
        off = ((result.double() - wanted).norm() / wanted.norm().clamp(min=1.0)).item()
        assert off < (limit or TIGHT[dtype]), (name, off)


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("scoring", RULES + TEMPERED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["reference", "blocked"])
def test_forms_of_plain_torch(
    form: str, size: tuple[int, ...], scoring: Scoring, dtype: torch.dtype
) -> None:
    check(form, dtype, size, scoring)


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("size", SIZES)
def test_sdpa(size: tuple[int, ...], dtype: torch.dtype) -> None:
    check("sdpa", dtype, size, RULES[0])


@pytest.mark.parametrize("scoring", RULES + TEMPERED)
@pytest.mark.parametrize("size", SIZES)
def test_flex_by_its_own_formula(
    size: tuple[int, ...], scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule, the mask and the grouping, with flex_attention's formula in place of its kernels.

    torch refuses the backward pass on a CPU because it has no kernel there; the formula has no such
    limit.
    """
    module = sys.modules["torch.nn.attention.flex_attention"]
    torch._dynamo.reset()  # Else a second cap is an input of unknown value, which it refuses.
    monkeypatch.setattr(module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "_compiled_flex_attention", lambda: module.flex_attention)
    limit = 1e-12 if scoring.temperature_length is None else 1e-6  # its table is fp32
    check("flex", torch.float64, size, scoring, limit)


@pytest.mark.parametrize("scoring", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_flash_keeps_the_packages_contract(
    size: tuple[int, ...], scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_and_double = (torch.float16, torch.bfloat16, torch.float64)
    monkeypatch.setitem(sys.modules, "flash_attn", contracts.flash_attn(half_and_double))
    check("flash", torch.float64, size, scoring)
    check("flash", torch.bfloat16, size, scoring)
    with pytest.raises(RuntimeError, match="fp16 and bf16"):
        check("flash", torch.float32, size, scoring)


def test_flash_is_deterministic_where_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    package = contracts.flash_attn((torch.float64,))
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    switch = torch.are_deterministic_algorithms_enabled.__name__
    for wanted in (True, False):
        monkeypatch.setattr(torch, switch, lambda answer=wanted: answer)
        check("flash", torch.float64, SIZES[0], RULES[1])
        assert package.deterministic is wanted


@pytest.mark.parametrize("size", SIZES)
def test_npu_fusion_keeps_torch_npus_contract(
    size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", contracts.torch_npu())
    check("npu_fusion", torch.float32, size, RULES[0])
    check("npu_fusion", torch.bfloat16, size, RULES[0])


def test_causal_blocks_are_the_causal_mask() -> None:
    for length in (1, 127, 128, 129, 300):
        blocks = flex.causal_blocks(length, torch.device("cpu")).to_dense()[0, 0]
        count = -(-length // flex.BLOCK)
        assert torch.equal(blocks, torch.ones(count, count, dtype=blocks.dtype).tril())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("scoring", RULES[:2] + TEMPERED[:1])
def test_flex_compiles_to_the_same_output(scoring: Scoring) -> None:
    """torch's compiled kernel of a CPU, which has a forward pass."""
    inputs = [torch.randn(150, 2, heads, 16) for heads in (4, 2, 2)]
    with torch.no_grad():
        out = CAUSAL_ATTENTION["flex"](*inputs, scoring, False)
        wanted = CAUSAL_ATTENTION["reference"](*inputs, scoring, False)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


GPU = Situation(device="cuda", dtype="bfloat16", scoring=Scoring(0.1, 30.0), head_size=128)
NPU = replace(GPU, device="npu", scoring=Scoring(0.1))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of what counts as installed; a test adds to it."""
    names: set[str] = set()
    module = "ml_models.kernels.attention.forms"
    monkeypatch.setattr(f"{module}.is_importable", names.__contains__)
    monkeypatch.setattr(
        f"{module}.needs_version", lambda name, _: "" if name in names else f"no {name}"
    )
    return names


def test_with_a_cap_a_gpu_has_flash_then_flex_then_blocks(installed: set[str]) -> None:
    choice = choose(ATTENTION, GPU)
    assert choice.form == "blocked"
    for words in ("not sdpa: it has no cap", "not flash: no flash-attn", "not flex: triton"):
        assert words in choice.reason
    installed |= {"triton", "torch"}
    assert choose(ATTENTION, GPU).form == "flex"
    installed.add("flash-attn")
    assert choose(ATTENTION, GPU).form == "flash"
    assert choose(ATTENTION, replace(GPU, dtype="float32")).form == "flex"
    assert choose(ATTENTION, replace(GPU, head_size=320)).form == "flex"
    tempered = choose(ATTENTION, replace(GPU, scoring=TEMPERED[0]))
    assert tempered.form == "flex" and "not flash: it has no temperature" in tempered.reason


def test_without_a_cap_torchs_own_kernel_comes_first(installed: set[str]) -> None:
    uncapped = replace(GPU, scoring=Scoring(0.1))
    assert choose(ATTENTION, uncapped).form == "sdpa"
    installed |= {"triton", "torch"}
    choice = choose(ATTENTION, replace(uncapped, dtype="float32"))
    assert choice.form == "flex" and "float32" in choice.reason


def test_an_npu_has_its_fused_attention_without_a_cap(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(ATTENTION, NPU).form == "blocked"
    installed.add("torch_npu")
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
    assert choose(ATTENTION, NPU).form == "npu_fusion"
    assert choose(ATTENTION, NPU, "flash").form == "npu_fusion"
    monkeypatch.setitem(sys.modules, "torch_npu", contracts.flash_attn(()))
    assert "has no npu_fusion_attention" in choose(ATTENTION, NPU).reason
    capped = choose(ATTENTION, replace(NPU, scoring=GPU.scoring))
    assert capped.form == "blocked"


@pytest.mark.parametrize(
    ("situation", "asked", "form"),
    [
        (replace(GPU, scoring=Scoring(0.1)), "fused", "sdpa"),
        (replace(GPU, device="cpu", dtype="float32", scoring=Scoring(0.1)), "flash", "sdpa"),
        (GPU, "unfused", "reference"),
        (GPU, "local", "blocked"),
    ],
)
def test_megatrons_choices(situation: Situation, asked: str, form: str) -> None:
    assert choose(ATTENTION, situation, asked).form == form
