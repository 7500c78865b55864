"""A step on fake tensors launches what the same step launches on real ones."""

from collections import Counter

import pytest
import torch
from torch._inductor.graph import GraphLowering

from ml_models.costs.layer_step import LayerStep, StepCosts, fake_step, real_step
from ml_models.grok1.config import Grok1Config

pytestmark = [
    pytest.mark.usefixtures("no_group"),
    pytest.mark.skipif(not hasattr(GraphLowering, "_update_scheduler"), reason="torch is too old"),
]

MODEL = Grok1Config(
    num_layers=1,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=16,
    num_experts=4,
    moe_router_topk=2,
    vocab_size=128,
    seq_length=64,
)


def names(costs: StepCosts) -> Counter[tuple[str, str, bool]]:
    return Counter((kernel.name, kernel.part, kernel.backward) for kernel in costs.kernels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_and_real_step_launch_the_same(dtype: torch.dtype) -> None:
    step = LayerStep(model=MODEL, seq_length=48, micro_batch_size=2, dtype=dtype)
    fake, real = fake_step(step), real_step(step)
    assert names(fake) == names(real)
    # The real router spreads tokens unevenly: an expert's share differs, their sum does not.
    assert sum(k.flops for k in fake.kernels) == sum(k.flops for k in real.kernels) > 0
    assert sum(k.moved_bytes for k in fake.kernels) == sum(k.moved_bytes for k in real.kernels)


def test_products_are_those_of_the_formula() -> None:
    step = LayerStep(model=MODEL, seq_length=64)
    kernels = fake_step(step).kernels
    experts = [k for k in kernels if k.part == "mlp.experts" and k.kind == "product"]
    rows = 64 * MODEL.moe_router_topk
    forward = 2 * rows * 3 * MODEL.hidden_size * MODEL.ffn_hidden_size
    assert sum(k.flops for k in experts if not k.backward) == forward
    assert sum(k.flops for k in experts if k.backward) == 2 * forward


def test_rank_of_a_layout_has_its_share() -> None:
    whole = fake_step(LayerStep(model=MODEL, seq_length=64))
    rank = fake_step(LayerStep(model=MODEL, seq_length=64, tp=2, ep=2, etp=2))
    for part in ("mlp.experts", "self_attention.core_attention", "self_attention.linear_qkv"):
        whole_flops = sum(k.flops for k in whole.kernels if k.part == part)
        assert sum(k.flops for k in rank.kernels if k.part == part) == whole_flops // 2, part
    assert all(k.kind != "communication" for k in whole.kernels)
    assert any(k.kind == "communication" and k.moved_bytes for k in rank.kernels)


@pytest.mark.parametrize("layout", [{}, {"tp": 2, "ep": 2, "etp": 2}])
def test_host_waits_stay_below_four(layout: dict[str, int]) -> None:
    waits = fake_step(LayerStep(model=MODEL, seq_length=64, **layout)).host_waits
    assert len(waits) <= 4, waits


@pytest.mark.parametrize(
    ("packages", "attention"),
    [({"triton"}, "flex_attention"), ({"triton", "flash_attn"}, "flash_attn")],
)
def test_forms_of_a_gpu(packages: set[str], attention: str) -> None:
    step = LayerStep(model=MODEL, seq_length=64, device="cuda", packages=frozenset(packages))
    costs = fake_step(step)
    # 4 experts with 2 + 4 products each, and little beside them.
    assert len(costs.kernels) < 150
    forward, backward = (k for k in costs.kernels if k.kind == "attention")
    assert (forward.name, backward.name) == (attention, f"{attention} backward")
    assert forward.flops == 2 * 64 * 65 * 4 * 16
    assert 2 * backward.flops == 5 * forward.flops
    # Weight gradients go to the fp32 buffer by the products themselves, attention's two as well.
    added = [k for k in costs.kernels if k.name == "addmm"]
    assert len(added) == 2 * MODEL.num_experts + 2 and all(k.kind == "product" for k in added)
    assert any(k.name == "rotate (compiled)" and k.moved_bytes for k in costs.kernels)
