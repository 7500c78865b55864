"""The npu platform, with stand-in modules for Ascend's libraries, which are not here."""

import sys
from types import ModuleType

import pytest
import torch

from ml_models.errors import PlatformError
from ml_models.megatron_core import lines
from ml_models.platforms import get_platform, patch
from ml_models.platforms.ascend_adaptors import MINDSPEED
from ml_models.platforms.cpu_core import TYPE_NAMES, WITHOUT_TRANSFORMER_ENGINE
from ml_models.platforms.npu import NpuPlatform


@pytest.fixture
def ascend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins of torch_npu, MindSpeed and Ascend's apex; the list says which were imported."""
    imported: list[str] = []
    modules = {
        "torch_npu": ModuleType("torch_npu"),
        "torch_npu.contrib": ModuleType("torch_npu.contrib"),
        "torch_npu.contrib.transfer_to_npu": ModuleType("transfer_to_npu"),
        "mindspeed": ModuleType("mindspeed"),
        "mindspeed.megatron_adaptor": ModuleType("megatron_adaptor"),
        **{name: ModuleType(name) for name in MINDSPEED.needs},
        "apex": ModuleType("apex"),
        "apex.optimizers": ModuleType("apex.optimizers"),
    }
    modules["apex.optimizers"].NpuFusedAdamW = type("NpuFusedAdamW", (), {})
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    from ml_models.platforms import npu

    real_import = npu.importlib.import_module

    def import_module(name: str, *rest: object) -> ModuleType:
        if name in modules and name not in imported:
            imported.append(name)
        return real_import(name, *rest)

    monkeypatch.setattr(npu.importlib, "import_module", import_module)
    monkeypatch.setattr(
        npu.importlib.util,
        "find_spec",
        lambda name: object() if name in sys.modules else None,
    )
    return imported


ORDER = ["torch_npu", "torch_npu.contrib.transfer_to_npu", "mindspeed.megatron_adaptor"]


def test_npu_loads_its_adapters_in_order_once(
    ascend: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "installed_line", lambda: "0.12")
    monkeypatch.setattr(patch, "apply", lambda patches, line: [row.target for row in patches])
    platform = NpuPlatform()
    first = platform.apply()
    assert ascend == ORDER
    # Ascend's apex is there, and its Adam is not taken: it needs apex's own mixed precision.
    assert "megatron.core.optimizer:Adam" not in first
    assert {row.target for row in (*WITHOUT_TRANSFORMER_ENGINE, *TYPE_NAMES)} <= set(first)
    assert platform.apply() == first
    assert ascend == ORDER


def test_npu_refuses_mindspeed_on_another_line(
    ascend: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "installed_line", lambda: "0.19")
    with pytest.raises(
        PlatformError, match=r"megatron-core is 0\.19\. Install a megatron-core that"
    ):
        NpuPlatform().apply()


def test_npu_refuses_when_megatron_core_came_first(
    ascend: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "installed_line", lambda: "0.12")
    monkeypatch.setitem(sys.modules, "megatron.core", ModuleType("megatron.core"))
    monkeypatch.delitem(sys.modules, "mindspeed.megatron_adaptor")
    with pytest.raises(PlatformError, match="imported before the npu platform"):
        NpuPlatform().apply()


def test_npu_without_cann_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(PlatformError, match="needs torch_npu and Ascend's CANN"):
        NpuPlatform().apply()


def test_npu_uses_torch_npu(ascend: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    device = ModuleType("npu")
    device.is_available = lambda: True
    device.set_device = lambda index: calls.append(index)
    device.synchronize = lambda: calls.append("synchronize")
    device.max_memory_allocated = lambda: 42
    device.reset_peak_memory_stats = lambda: calls.append("reset")
    device.get_rng_state = lambda: torch.zeros(3)
    device.set_rng_state = lambda state: calls.append("rng")
    monkeypatch.setattr(torch, "npu", device, raising=False)
    platform = get_platform("npu")
    platform.set_device(3)
    platform.synchronize()
    platform.reset_peak_memory()
    platform.set_rng_state(platform.rng_state())
    assert calls == [3, "synchronize", "reset", "rng"]
    assert platform.memory_bytes() == 42
    assert platform.backend == "hccl"
