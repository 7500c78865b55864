"""The table of devices: every figure has a source, and a reported name means the right row."""

import pytest
import torch

from ml_models.errors import EXIT_CODES, UnknownDeviceError, exit_code
from ml_models.platforms import cuda, npu
from ml_models.platforms.devices import FIGURES, device, devices, reported_device

BFLOAT16_PEAKS = {
    # Dense peaks in TFLOP/s, written here a second time, from the makers' pages. NVIDIA's pages
    # quote 1,979 and 1,671 with sparsity for Hopper.
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A800-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 1979 / 2,
    "NVIDIA H800": 1979 / 2,
    "NVIDIA H100 PCIe": 1513 / 2,
    "NVIDIA H100 NVL": 1671 / 2,
    "NVIDIA H200": 1979 / 2,
    "NVIDIA H200 NVL": 1671 / 2,
    "NVIDIA GH200 480GB": 1979 / 2,
    # 16 x 16 x 16 products a cycle in each Cube unit: units x 8,192 operations x clock.
    "Ascend910B1": 25 * 8192 * 1.825e9 / 1e12,
    "Ascend910B2": 24 * 8192 * 1.8e9 / 1e12,
    "Ascend910B2C": 24 * 8192 * 1.8e9 / 1e12,
    "Ascend910B3": 20 * 8192 * 1.8e9 / 1e12,
    "Ascend910B4": 20 * 8192 * 1.5e9 / 1e12,
    "Ascend910_9392": 24 * 8192 * 1.8e9 / 1e12,
    "Ascend910_9362": 24 * 8192 * 1.8e9 / 1e12,
}


@pytest.mark.parametrize("name", BFLOAT16_PEAKS)
def test_a_reported_name_means_one_row_and_its_dense_peak(name: str) -> None:
    (row,) = [row for row in devices().values() if row.reports_as(name)]
    assert row is reported_device(name)
    assert row.peak_tflops("bfloat16") == pytest.approx(BFLOAT16_PEAKS[name], rel=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce GT 710",
        "NVIDIA H20",  # not an H200
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",  # a seventh of an H100
        "NVIDIA B200",
        "Ascend910",  # the first generation
        "Ascend910B4-1",
        "",
    ],
)
def test_a_device_that_the_table_lacks_has_no_peak(name: str) -> None:
    assert reported_device(name) is None


def test_every_figure_of_every_row_has_a_source_and_a_sensible_size() -> None:
    assert len(FIGURES) == 6
    for row in devices().values():
        for figure in FIGURES:
            assert row.source_of(figure).url.startswith("https://"), (row.name, figure)
        assert row.source_of("tflops").title
        assert 30e9 < row.memory_bytes < 150e9
        assert 0.7e12 < row.memory_bytes_per_second < 5e12
        # A link inside a node is faster than the network, and slower than the device's own memory.
        network = row.inter_node_bytes_per_second or 0
        assert network < row.intra_node_bytes_per_second < row.memory_bytes_per_second
        assert set(row.sources) <= set(FIGURES), "a source of a figure that no row has"


def test_rows_are_chosen_by_name_and_alias() -> None:
    assert device("ascend-910b").name == "ascend-910b3"
    assert device("h100").title == "NVIDIA H100 SXM 80 GB"
    with pytest.raises(UnknownDeviceError, match=r"'h100-nlv'; known: a100.*mean 'h100-nvl'"):
        device("h100-nlv")
    assert exit_code(UnknownDeviceError(), EXIT_CODES) == 2


def test_platforms_take_their_peak_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100 NVL")
    platform = cuda.CudaPlatform()
    assert platform.peak_tflops(torch.bfloat16) == 835.5
    assert platform.peak_tflops(torch.float32) == 60.0

    class TorchNpu:
        @staticmethod
        def get_device_name(index: int) -> str:
            return "Ascend910B3"

    monkeypatch.setattr(npu, "_npu", TorchNpu)
    assert npu.NpuPlatform().peak_tflops(torch.bfloat16) == 294.912
    # No public figure: --peak-tflops-per-device gives one.
    assert npu.NpuPlatform().peak_tflops(torch.float32) is None
