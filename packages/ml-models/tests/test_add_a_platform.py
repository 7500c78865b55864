"""docs/add-a-platform.md, followed: its files as they stand there, its tests, and a run on it."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_checks.process import add_path
from model_checks.written_pages import install, python_path, write_files

from ml_models import platforms
from ml_models.errors import PlatformError
from ml_models.platforms import get_platform, patch, platform_names
from ml_models.platforms.base import Platform

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "add-a-platform.md"
FILES = {
    "pyproject.toml",
    "toy_platform/platform.py",
    "toy_platform/patches.py",
    "tests/test_patches.py",
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("toy")
    assert set(write_files(DOCUMENT, folder)) == FILES
    install(folder)
    add_path(str(folder))
    yield folder
    sys.path.remove(str(folder))


def toy_class() -> type[Platform]:
    return type(get_platform("toy"))


def started(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the folder, with the platform installed."""
    environment = {**os.environ, "PYTHONPATH": python_path(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env={**environment, **variables},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_it_is_found_by_name_and_by_auto_where_its_device_is(
    plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "toy" in platform_names()
    monkeypatch.setenv("TOY_DEVICES", "1")
    assert get_platform("toy").name == "toy"
    if not torch.cuda.is_available():
        assert get_platform("auto").name == "toy"
    monkeypatch.delenv("TOY_DEVICES")
    assert get_platform("auto").name != "toy"
    with pytest.raises(PlatformError, match="toy has no device here: TOY_DEVICES is not set"):
        get_platform("toy")


def test_it_keeps_the_contract(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_DEVICES", "1")
    for name in vars(Platform):
        if not name.startswith("_"):
            assert hasattr(toy_class(), name), name
    platform = get_platform("toy")
    platform.set_device(0)
    with pytest.raises(PlatformError, match="Process 1 of this machine has no toy device"):
        platform.set_device(1)
    state = platform.rng_state()
    drawn = torch.rand(3)
    platform.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)
    assert platform.memory_bytes() > 2**20
    assert platform.peak_tflops(torch.bfloat16) == 2.0
    assert platform.peak_tflops(torch.float64) is None


def test_registered_in_a_script(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way of the page: a call. A name is given once."""
    monkeypatch.setenv("TOY_DEVICES", "1")
    monkeypatch.setattr(platforms, "_registered", {})
    scripted = type("Scripted", (toy_class(),), {"name": "scripted"})
    platforms.register(scripted)
    assert "scripted" in platform_names()
    assert type(get_platform("scripted")) is scripted
    for taken in ("scripted", "toy", "cpu", "auto"):
        with pytest.raises(PlatformError, match=f"'{taken}' is taken; known: auto, cpu"):
            platforms.register(type("Other", (scripted,), {"name": taken}))


def test_its_tests_pass_and_fail_without_the_row(plugin: Path, tmp_path: Path) -> None:
    command = shlex.split(re.findall(r"^TOY_DEVICES=1 python (.*)$", DOCUMENT.read_text(), re.M)[0])
    done = started(plugin, *command, "-q", "-p", "no:cacheprovider", TOY_DEVICES="1")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    write_files(DOCUMENT, tmp_path)
    install(tmp_path)
    rows = tmp_path / "toy_platform" / "patches.py"
    rows.write_text(rows.read_text().replace("PATCHES = (", "PATCHES = ()\nLEFT_OUT = ("))
    done = started(tmp_path, *command, "-q", "-p", "no:cacheprovider", TOY_DEVICES="1")
    assert done.returncode == 1 and "2 failed, 1 passed" in done.stdout, done.stdout


def test_the_row_has_a_reason_and_is_undone(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core import optimizer
    from toy_platform.patches import PATCHES

    stock = optimizer.Adam
    for row in PATCHES:
        assert row.reason and row.link.startswith("https://")
    with patch.temporarily(PATCHES):
        assert issubclass(optimizer.Adam, stock) and optimizer.Adam is not stock
    assert optimizer.Adam is stock


@pytest.mark.skipif(importlib.util.find_spec("ml_train") is None, reason="needs ml-train")
def test_a_run_on_it(plugin: Path) -> None:
    """The page's own command, in which ml-train finds the platform without a change."""
    words = shlex.split(re.findall(r"^ml-train (pretrain .*)$", DOCUMENT.read_text(), re.M)[0])
    words += ["--log-interval", "1"]
    done = started(plugin, "-m", "ml_train.cli", *words, TOY_DEVICES="8")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MFU" in done.stdout, "the device's peak is known"
    on_cpu = [word if word != "toy" else "cpu" for word in words]
    expected = started(plugin, "-m", "ml_train.cli", *on_cpu)
    assert "MFU" not in expected.stdout
    losses = re.findall(r"loss (\S+)", done.stdout)
    assert len(losses) == 2 and losses == re.findall(r"loss (\S+)", expected.stdout)
    refused = started(plugin, "-m", "ml_train.cli", *words)
    assert refused.returncode == 1
    assert "The platform toy has no device here" in refused.stderr
    launcher = (ROOT / "examples" / "grok1" / "pretrain_grok1_tiny.sh").read_text()
    assert '--device "$DEVICE"' in launcher and "$GPUS_PER_NODE" in launcher
