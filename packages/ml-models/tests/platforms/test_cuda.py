"""The cuda platform, with stand-in functions for a GPU, which is not here."""

from collections.abc import Iterable

import pytest
import torch

from ml_models.megatron_core import lines
from ml_models.platforms import patch
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


def test_what_the_oldest_line_lacks_without_transformer_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "installed_line", lambda: "0.12")

    def chosen(rows: Iterable[patch.Patch], line: str) -> list[str]:
        return [row.target.rpartition(":")[2] for row in rows if line in row.lines]

    monkeypatch.setattr(patch, "apply", chosen)
    # The distributed optimizer, numpy 2, the norm of the gradients, and apex's product.
    rows = ["quantize_param_shard", "np", "l2_norm_impl", "fused_weight_gradient_mlp_cuda"]
    assert CudaPlatform().apply() == rows
