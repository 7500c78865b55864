"""Core's linear layers add their weights' gradients to the fp32 buffer, without bf16 between."""

from typing import Any

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from ml_models import registry
from ml_models.build import build_model, make_transformer_config
from ml_models.kernels import weight_gradient
from ml_models.layers.linear import add_gradients_to_buffers
from ml_models.platforms.device_core import WEIGHT_GRADIENTS, WeightGradientProducts
from ml_models.platforms.patch import temporarily

SIZES = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 32, "vocab_size": 64}


def small_model(form: str) -> DistributedDataParallel:
    """bf16, one process, with the form on every linear layer of core."""
    model = registry.get("grok1-tiny").replace(**SIZES)
    config = make_transformer_config(model, bf16=True, params_dtype=torch.bfloat16)
    built = build_model(model, config, padded_vocab_size=64, pre_process=True, post_process=True)
    for module in built.modules():
        if isinstance(module, (ColumnParallelLinear, RowParallelLinear)):
            assert module.kernel_forms == {"weight_gradient": "add"}
            module.kernel_forms = {"weight_gradient": form}
    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    wrapped = DistributedDataParallel(config, ddp, built)
    add_gradients_to_buffers(wrapped)
    return wrapped


def errors_of(form: str) -> dict[str, float]:
    """Per linear layer with a weight of its own: the buffer against its factors' fp64 product."""
    torch.manual_seed(0)
    wrapped = small_model(form)
    factors: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any, outputs: Any) -> None:
            kept = factors[name] = [inputs[0].detach().flatten(0, 1).double()]
            outputs[0].register_hook(lambda grad: kept.append(grad.flatten(0, 1).double()))

        return hook

    layers = {
        name: module
        for name, module in wrapped.named_modules()
        if isinstance(module, (ColumnParallelLinear, RowParallelLinear))
        and module.weight is not None
    }
    for name, module in layers.items():
        module.register_forward_hook(keep(name))
    wrapped.zero_grad_buffer()
    ids = torch.arange(48).view(2, 24)
    wrapped(ids, torch.arange(24).expand(2, -1), None, labels=ids.roll(-1, 1)).sum().backward()
    errors = {}
    for name, module in layers.items():
        inner, grad = factors[name]
        wanted = grad.t() @ inner
        errors[name] = float((module.weight.main_grad.double() - wanted).norm() / wanted.norm())
    return errors


def test_projections_add_in_fp32(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_cublas(target: Any, first: Any, second: Any, *, out_dtype: Any, out: Any) -> Any:
        assert first.dtype == second.dtype == torch.bfloat16 and out_dtype == torch.float32
        return out.copy_(target + first.float() @ second.float())

    before = errors_of("add")
    assert {name.rpartition(".")[2] for name in before} >= {"linear_qkv", "linear_proj"}
    with temporarily((WEIGHT_GRADIENTS,)), monkeypatch.context() as patched:
        patched.setattr(torch, "addmm", as_cublas)
        after = errors_of("addmm")
    for name, error in after.items():
        assert error < 1e-6 < before[name], name


def test_apexs_own_product_is_kept() -> None:
    apex = object()
    assert WEIGHT_GRADIENTS.make(apex) is apex


def test_a_buffer_of_the_factors_dtype_takes_the_same_call() -> None:
    first, second, target = torch.randn(9, 3), torch.randn(9, 2), torch.ones(2, 3)
    WeightGradientProducts().wgrad_gemm_accum_fp16(first, second, target)
    torch.testing.assert_close(target, 1 + second.t() @ first)
    assert weight_gradient.ends_of([2, 0, 3], target.device).tolist() == [2, 2, 5]
