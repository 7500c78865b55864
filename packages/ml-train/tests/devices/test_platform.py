"""The npu platform on the simulated device: what it is called, and what torch and it agree on."""

import json
import subprocess
import sys
from typing import Any

import pytest
from device_runs import HERE, environment


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What platform_script.py prints."""
    done = subprocess.run(
        [sys.executable, str(HERE / "platform_script.py")],
        env=environment("npu"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_auto_is_the_npu_before_and_after_torch_cuda_means_it(facts: dict[str, Any]) -> None:
    assert facts["auto"] == ["npu", "npu"]
    assert facts["applied twice"]


def test_the_device_is_no_cpu_in_disguise(facts: dict[str, Any]) -> None:
    assert "Expected all tensors to be on the same device" in facts["mixed"]
    assert facts["device"] == "npu:3"
    assert facts["type"] == "torch.npu.FloatTensor"
    assert facts["memory"]


def test_torch_broadcasts_although_torch_npu_knows_no_capability(facts: dict[str, Any]) -> None:
    assert facts["broadcast"] == [3.0]
    assert facts["capability"] == [0, 0]
