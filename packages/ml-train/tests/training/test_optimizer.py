"""torch's Adam is fused on devices; other optimizers, and the CPU, stay as they are."""

import copy
import sys
from types import ModuleType

import pytest
import torch
from group_step_adam import FusedAdam

from ml_models.kernels.adam import why_not_fused
from ml_train.checkpoint.tensors.adam import initialise_adam, set_adam_step
from ml_train.training.optimizer import fuse_adam


class Wrapped:
    """megatron-core's wrapper, as far as it is read."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_fused_adam_has_its_steps_on_the_parameters_device() -> None:
    parameters = [torch.nn.Parameter(torch.empty(2, device="meta")) for _ in range(2)]
    groups = [{"params": [parameter]} for parameter in parameters]
    wrapped = Wrapped(torch.optim.AdamW(groups))
    fuse_adam(wrapped)
    assert [group["fused"] for group in wrapped.optimizer.param_groups] == [True, True]
    initialise_adam(wrapped)
    set_adam_step(wrapped, 5)
    steps = [wrapped.optimizer.state[parameter]["step"] for parameter in parameters]
    assert [(step.device.type, step.dtype) for step in steps] == [("meta", torch.float32)] * 2
    assert steps[0] is not steps[1]


def test_a_fused_update_behind_a_load_is_the_update_without_it() -> None:
    torch.manual_seed(0)
    kept, loaded = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    first, second = (Wrapped(torch.optim.AdamW([item], lr=0.1)) for item in (kept, loaded))
    for wrapped in (first, second):
        fuse_adam(wrapped)
    gradients = torch.randn(4, 7)
    for gradient in gradients[:3]:
        kept.grad = gradient.clone()
        first.optimizer.step()
    # As a load does it: moments and weights from the checkpoint, the step from run_state.json.
    initialise_adam(second)
    loaded.data.copy_(kept.data)
    for name in ("exp_avg", "exp_avg_sq"):
        moment = copy.deepcopy(first.optimizer.state[kept][name])
        second.optimizer.state[loaded][name].copy_(moment)
    set_adam_step(second, 3)
    for wrapped, parameter in ((first, kept), (second, loaded)):
        parameter.grad = gradients[3].clone()
        wrapped.optimizer.step()
    assert torch.equal(kept, loaded)


def test_another_librarys_adam_is_left_alone() -> None:
    wrapped = Wrapped(FusedAdam([torch.nn.Parameter(torch.zeros(2))]))
    fuse_adam(wrapped)
    assert "fused" not in wrapped.optimizer.param_groups[0]


def test_where_torch_has_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_fused("cuda") == ""
    assert "device is cpu" in why_not_fused("cpu")
    assert "device is toy" in why_not_fused("toy")
    # The dispatcher of this process knows of no kernel for an NPU.
    monkeypatch.setitem(sys.modules, "torch_npu", ModuleType("torch_npu"))
    assert why_not_fused("npu") == "this torch_npu has no _fused_adamw_"
