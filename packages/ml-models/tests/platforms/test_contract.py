"""Names of platforms, what every platform has, and how plug-ins are found."""

import sys
from types import ModuleType

import pytest
import torch

from ml_models.errors import PlatformError
from ml_models.platforms import get_platform, platform_names
from ml_models.platforms.cpu import CpuPlatform
from ml_models.platforms.cuda import CudaPlatform
from ml_models.platforms.npu import NpuPlatform


def test_names_and_auto_without_a_device() -> None:
    assert {"cpu", "cuda", "npu"} <= set(platform_names())
    if not torch.cuda.is_available():
        assert get_platform().name == "cpu"
        with pytest.raises(PlatformError, match="cuda has no device"):
            get_platform("cuda")
    with pytest.raises(PlatformError, match="'tpu'; known: auto, cpu"):
        get_platform("tpu")


@pytest.mark.parametrize("platform", [CpuPlatform, CudaPlatform, NpuPlatform])
def test_every_platform_keeps_the_contract(platform: type) -> None:
    from ml_models.platforms.base import Platform

    for name in vars(Platform):
        if not name.startswith("_"):
            assert hasattr(platform, name), name


def test_a_plug_in_is_found_by_name_and_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    import ml_models.platforms as platforms

    class Other(CpuPlatform):
        name = "other"

    module = ModuleType("other_platform")
    module.Other = Other
    monkeypatch.setitem(sys.modules, "other_platform", module)
    point = EntryPoint(name="other", value="other_platform:Other", group=platforms.GROUP)
    monkeypatch.setattr(platforms, "entry_points", lambda group: [point])
    monkeypatch.setattr(CudaPlatform, "available", classmethod(lambda cls: False))
    assert get_platform("other").name == get_platform("auto").name == "other"
