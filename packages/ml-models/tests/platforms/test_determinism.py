"""--deterministic-mode: torch's mode and the switches of each platform's libraries."""

import os
from collections.abc import Iterator

import pytest
import torch

from ml_models.errors import PlatformError
from ml_models.platforms import determinism
from ml_models.platforms.cpu import CpuPlatform
from ml_models.platforms.cuda import CudaPlatform
from ml_models.platforms.determinism import make_deterministic
from ml_models.platforms.npu import NpuPlatform

PLATFORMS = (CpuPlatform, CudaPlatform, NpuPlatform)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    names = {row.name for platform in PLATFORMS for row in platform.deterministic_switches}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", kept)
    yield
    torch.use_deterministic_algorithms(False)


def test_what_nccl_and_cublas_need_is_set() -> None:
    make_deterministic("cuda", determinism.CUDA)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["NCCL_ALGO"] == "Ring"
    # A second run in the process finds its own values.
    make_deterministic("cuda", determinism.CUDA)


def test_a_deterministic_value_of_the_user_is_kept() -> None:
    os.environ.update(CUBLAS_WORKSPACE_CONFIG=":16:8", HCCL_DETERMINISTIC="TRUE")
    make_deterministic("cuda", determinism.CUDA)
    make_deterministic("npu", determinism.NPU)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["HCCL_DETERMINISTIC"] == "TRUE"


@pytest.mark.parametrize("row", [*determinism.CUDA, *determinism.NPU], ids=lambda row: row.name)
def test_another_value_of_the_user_is_refused(row: determinism.Switch) -> None:
    os.environ[row.name] = "false"
    with pytest.raises(PlatformError, match=f"{row.name}=false: .*Set it to .*, unset it, or drop"):
        make_deterministic("cuda", (row,))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_platform_that_names_no_switches_refuses_the_flag() -> None:
    with pytest.raises(PlatformError, match="--deterministic-mode on the platform tpu: "):
        make_deterministic("tpu", None)
