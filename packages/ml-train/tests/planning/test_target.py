"""The device of a plan: a name of the table, or a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_models.errors import UnknownDeviceError
from ml_train.errors import ConfigError
from ml_train.planning.target import target_device

FIGURES = """
memory_bytes = 96e9
tflops = { bfloat16 = 500.0 }
memory_bytes_per_second = 3e12
intra_node_bytes_per_second = 200e9
devices_per_node = 4
"""


def write(folder: Path, text: str) -> str:
    path = folder / "card.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_with_figures(tmp_path: Path) -> None:
    device = target_device(write(tmp_path, FIGURES))
    assert (device.name, device.memory_bytes, device.devices_per_node) == ("card", 96e9, 4)
    assert device.peak_tflops("bfloat16") == 500.0


def test_a_name_of_the_table() -> None:
    assert target_device("h100").memory_bytes == 80e9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("memory_bytes = 96e9", ""), "lacks memory_bytes"),
        (("memory_bytes = 96e9", "memory_bytes = -1"), "memory_bytes is -1"),
        (("memory_bytes = 96e9", "memory_bytes = 'much'"), "memory_bytes is 'much'"),
        (("memory_bytes = 96e9", "memory_bytes = nan"), "memory_bytes is nan"),
        (("tflops = { bfloat16 = 500.0 }", "tflops = 500.0"), "a table of dtypes"),
        (("devices_per_node = 4", "devices_per_node = 4.5"), "a whole number"),
        (("devices_per_node = 4", "devices_per_node = 4\nmemory = 3"), "memory is unknown"),
        (("devices_per_node = 4", "devices_per_node ="), "is not TOML"),
    ],
)
def test_odd_figures_are_refused(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        target_device(write(tmp_path, FIGURES.replace(*change)))


def test_an_absent_file_and_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        target_device(str(tmp_path / "none.toml"))
    with pytest.raises(UnknownDeviceError, match="h100"):
        target_device("h10")
