"""ml-train doctor on machines that lack something, and on this one."""

import sys

import pytest
import torch

from ml_models.errors import PlatformError, RequirementError
from ml_models.platforms import ascend_adaptors, cuda, npu
from ml_train import cli
from ml_train.diagnosis import doctor


def report(device: str = "cpu", **environment: str) -> dict[tuple[str, str], str]:
    return {
        (finding.verdict, finding.subject): finding.text
        for finding in doctor.findings(device, environment)
    }


def test_this_machine_has_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert f"ok    Python         {sys.version.split()[0]}\n" in shown
    assert "ok    device         cpu computes\n" in shown and "fault" not in shown


def test_a_missing_core_is_told_and_ends_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise RequirementError("megatron-core is not installed. Run: pip install megatron-core")

    monkeypatch.setattr(doctor.requirements, "require_core", absent)
    assert cli.main(["doctor"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "fault megatron-core  megatron-core is not installed. Run: pip install megatron-core"
    )


def test_a_device_that_is_not_there_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.CudaPlatform, "available", classmethod(lambda cls: False))
    assert "cuda has no device here" in report("cuda")["fault", "device"]
    assert "No platform is called 'gpu'" in report("gpu")["fault", "device"]


def test_a_device_that_fails_at_work_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        device = torch.device("cpu")

        def set_device(self, _local_rank: int) -> None:
            raise RuntimeError("CUDA driver version is insufficient\nmore lines")

    monkeypatch.setattr(doctor.platforms, "get_platform", lambda name: Broken())
    assert report("cpu")["fault", "device"] == "CUDA driver version is insufficient"


def test_npu_tells_the_adaptor_and_versions_of_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu.NpuPlatform, "available", classmethod(lambda cls: False))
    monkeypatch.setattr(ascend_adaptors, "choose", lambda line: ascend_adaptors.MINDSPEED)
    monkeypatch.setattr(
        doctor,
        "_installed",
        lambda: {"python": "3.10", "torch": "2.13.0", "megatron_core": "0.12.1"},
    )
    found = report("npu")
    assert found["ok", "adaptor"] == "MindSpeed"
    assert "npu-mindspeed-0-12" in found["note", "versions"]
    assert "has torch 2.7.1:" in found["note", "versions"]

    def contradicts(line: str) -> None:
        raise PlatformError("two adaptors. Uninstall one.")

    monkeypatch.setattr(ascend_adaptors, "choose", contradicts)
    assert report("npu")["fault", "adaptor"] == "two adaptors. Uninstall one."


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PYTORCH_NPU_ALLOC_CONF": "a", "PYTORCH_ALLOC_CONF": "b"}, "are both set, and torch_npu"),
        ({"HCCL_EXEC_TIMEOUT": "600", "HCCL_EVENT_TIMEOUT": "600"}, "the first must be longer"),
    ],
)
def test_variables_that_contradict_are_faults(environment: dict[str, str], said: str) -> None:
    assert said in report("cpu", **environment)["fault", "environment"]


def test_the_report_says_what_a_launcher_would_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu.NpuPlatform, "available", classmethod(lambda cls: False))
    assert "ml-train-launch sets: CUDA_DEVICE_MAX_CONNECTIONS=1, PYTORCH_NPU_ALLOC_CONF=" in str(
        report("npu")
    )
    assert "set by you: HCCL_EXEC_TIMEOUT=77" in str(report("npu", HCCL_EXEC_TIMEOUT="77"))
