"""The cuda platform, with stand-in functions for a GPU, which is not here."""

import pytest
import torch

from ml_models.platforms.cuda import CudaPlatform


def test_cuda_peak_is_the_dense_one_of_the_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, peak in (
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce GT 710", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index, name=name: name)
        assert CudaPlatform().peak_tflops(torch.bfloat16) == peak


def test_cuda_sets_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    platform = CudaPlatform()
    platform.set_device(2)
    assert chosen == [2]
    assert platform.device == torch.device("cuda", 2)
