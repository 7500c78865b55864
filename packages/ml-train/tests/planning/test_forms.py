"""The forms that a plan is made for are those of the device, with their memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ml_models.kernels.attention import blocked
from ml_models.kernels.attention.functions import CAUSAL_ATTENTION
from ml_models.kernels.table import KernelSettings
from ml_models.platforms.devices import device
from ml_models.scoring import Scoring
from ml_train.cli import main
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.meter import Meter
from ml_train.planning.plan import device_forms
from ml_train.planning.rank_plan import RankPlan, plan_rank

GROK = ("--model", "grok1-tiny", "--bf16", "--seq-length", "256", "--global-batch-size", "2")
MIXTRAL = ("--model", "mixtral-8x7b", "--bf16")


def form_of(operation: str, target: str, *words: str) -> str:
    forms = device_forms(load_config(parse(words)), device(target))
    return next(choice.form for choice in forms if choice.operation == operation)


@pytest.mark.parametrize(
    ("target", "words", "form"),
    [
        ("h100", GROK, "flex"),
        ("h100", (*GROK, "--use-flash-attn"), "flash"),
        ("h100", (*GROK, "--attention-backend", "local"), "blocked"),
        ("h100", (*GROK, "--attention-backend", "unfused"), "reference"),
        ("h100", MIXTRAL, "sdpa"),
        # npu_fusion_attention has no cap on scores, which Grok-1 has.
        ("ascend-910b", GROK, "blocked"),
        ("ascend-910b", MIXTRAL, "npu_fusion"),
    ],
)
def test_attention_has_the_form_of_the_device(
    target: str, words: tuple[str, ...], form: str
) -> None:
    assert form_of("attention", target, *words) == form


def test_the_other_operations_have_theirs() -> None:
    names = ("norm", "experts", "rotary", "gated_activation", "weight_gradient")
    assert [form_of(name, "ascend-910b", *MIXTRAL) for name in names] == [
        *("npu_rms_norm", "npu_grouped_matmul", "npu_rotary_mul", "npu_swiglu"),
        "npu_grouped_matmul_add_",
    ]
    assert form_of("norm", "h100", *GROK) in ("fused", "compiled")  # fused came with torch 2.9


def test_a_rank_of_experts_that_are_divided_has_narrower_matrices() -> None:
    """torch_npu's grouped product takes less than 65,536 numbers a row: what Grok-1's has."""
    words = ("--model", "grok1-40b", "--bf16")
    assert form_of("experts", "ascend-910b", *words) == "loop"
    for flag in ("--tensor-model-parallel-size", "--expert-tensor-parallel-size"):
        assert form_of("experts", "ascend-910b", *words, flag, "2") == "npu_grouped_matmul"


@contextmanager
def running(target: str, settings: KernelSettings | None = None) -> Iterator[Meter]:
    """Inside, forms run without values as on a device of that type, and memory is counted."""
    platform = MetaPlatform(target)
    platform.apply()
    meter = Meter()
    with platform.context(), platform.forms(settings or KernelSettings(), meter), meter:
        yield meter


SIZES = {"length": 96, "heads": 4, "groups": 2, "size": 16}


def kept_by(target: str, form: str, cap: float | None = None) -> int:
    """Bytes that attention keeps for its backward pass, beside the inputs."""
    length, heads, groups, size = SIZES.values()
    with running(target) as meter:
        shapes = ((length, 1, heads, size), *((length, 1, groups, size),) * 2)
        inputs = [
            torch.empty(shape, device="meta", dtype=torch.bfloat16, requires_grad=True)
            for shape in shapes
        ]
        before = meter.live_bytes
        out = CAUSAL_ATTENTION[form](*inputs, Scoring(scale=0.1, cap=cap), False)
        kept = meter.live_bytes - before
        out.backward(torch.empty_like(out))
        assert [tensor.grad.shape for tensor in inputs if tensor.grad is not None] == [*shapes]
    return kept


OUTPUT = SIZES["length"] * SIZES["heads"] * SIZES["size"] * 2
ROWS = SIZES["length"] * SIZES["heads"] * 4


@pytest.mark.parametrize(
    ("target", "form", "cap", "kept"),
    [
        ("cuda", "flex", 30.0, OUTPUT + ROWS),
        ("cuda", "sdpa", None, OUTPUT + ROWS),
        ("npu", "npu_fusion", None, OUTPUT + 2 * 8 * ROWS),
    ],
)
def test_a_fused_form_keeps_its_output_and_numbers_per_row(
    target: str, form: str, cap: float | None, kept: int
) -> None:
    kept_by(target, form, cap)  # the mask of npu_fusion stays from the first call on
    assert kept_by(target, form, cap) == kept


@pytest.mark.parametrize("length", [1024, 1100])
@pytest.mark.parametrize("target", ["cpu", "npu"])
def test_the_largest_blocks_decide_the_memory(
    monkeypatch: pytest.MonkeyPatch, length: int, target: str
) -> None:
    def peaks() -> tuple[int, int]:
        with running(target) as meter:
            query, key, value = (
                torch.empty(length, 1, 2, 16, device="meta", requires_grad=True) for _ in range(3)
            )
            meter.phase = "forward"
            out = blocked.causal_attention(query, key, value, Scoring(scale=0.1, cap=30.0))
            meter.phase = "backward"
            out.backward(torch.empty_like(out))
        return meter.peaks["forward"], meter.peaks["backward"]

    shortened = peaks()
    monkeypatch.setattr("ml_models.costs.largest_blocks.KEPT", 10_000)
    assert peaks() == shortened


def test_only_the_results_of_a_compiled_function_take_memory() -> None:
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return (x + x).mul(1.0)

    with running("cuda") as meter:
        x = torch.empty(100, device="meta")
        meter.peaks.clear()
        result = meter.as_kernel(doubled)(x)
        assert meter.live_bytes == 800
    assert meter.peaks[""] == 800
    del result


def plan(target: str, *words: str) -> RankPlan:
    loaded = load_config(parse([*GROK, *words]))
    layout = layout_of(loaded.config, loaded.model, 1)
    platform = MetaPlatform(target)
    platform.apply()
    with platform.context():
        return plan_rank(loaded.config, loaded.model, layout, 0, platform=platform)


def test_full_score_matrices_take_their_memory() -> None:
    fused, full = plan("cuda"), plan("cuda", "--attention-backend", "unfused")
    model = load_config(parse(GROK)).model
    scores = 256 * 256 * model.num_attention_heads * 2  # the smallest of a layer, in bf16
    assert full.activations - fused.activations > model.num_layers * scores
    assert full.held == fused.held


def test_a_form_that_the_device_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--recipe", "grok1-40b", "--device", "ascend-910b", "--nnodes", "2"]
    assert main([*words, "--attention-backend", "flash"]) == 2
    assert "it has no cap on scores" in capsys.readouterr().err


def test_a_file_names_the_platform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "card.toml"
    path.write_text(
        'platform = "tpu"\nmemory_bytes = 96e9\ntflops = { bfloat16 = 500.0 }\n'
        "memory_bytes_per_second = 3e12\nintra_node_bytes_per_second = 200e9\n"
        "devices_per_node = 4\n",
        encoding="utf-8",
    )
    assert main(["plan", *GROK, "--device", str(path), "--nproc-per-node", "1"]) == 2
    assert "platform is 'tpu'" in capsys.readouterr().err
