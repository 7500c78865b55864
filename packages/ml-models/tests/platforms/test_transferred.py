"""torch.cuda once transfer_to_npu has made it mean the NPU."""

import sys
from types import ModuleType

import pytest
import torch

from ml_models.platforms import patch
from ml_models.platforms.cuda import CudaPlatform
from ml_models.platforms.transferred import TORCH_CUDA_ON_NPU, TRANSFER


def test_cuda_is_not_there_where_torch_cuda_means_the_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert CudaPlatform.available()
    monkeypatch.setitem(sys.modules, TRANSFER, ModuleType(TRANSFER))
    assert not CudaPlatform.available()
    assert "has made torch.cuda mean the NPU" in CudaPlatform.why_unavailable()


@pytest.mark.parametrize(("answer", "capability"), [(None, (0, 0)), ((8, 0), (8, 0))])
def test_a_capability_that_torch_can_compare(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, int] | None, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: answer)
    with patch.temporarily(TORCH_CUDA_ON_NPU):
        assert torch.cuda.get_device_capability("npu:0") == capability
