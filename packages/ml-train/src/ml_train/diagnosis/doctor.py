"""What ml-train doctor looks at: an installation, its device and its environment, before a run.

A check gives findings. A fault would end a run or hang it, and its text says the fix. A note is
worth knowing. Checks that need torch come after those that tell why it cannot be imported.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from ml_models import platforms
from ml_models.errors import MlModelsError
from ml_models.megatron_core import lines, requirements
from ml_models.platforms import ascend_adaptors
from ml_models.platforms.devices import reported_device
from ml_models.platforms.variables import Run, for_run
from ml_models.platforms.versions import differences, nearest

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform

Verdict = Literal["ok", "note", "fault"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the report."""

    verdict: Verdict
    subject: str
    text: str


def findings(device: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    """All findings for the platform called `device`, or for the one that is there (auto).

    A fault that makes later checks impossible is the last finding.
    """
    yield Finding(verdict="ok", subject="Python", text=sys.version.split()[0])
    for subject, check in (
        ("megatron-core", requirements.require_core),
        ("torch", requirements.require_torch),
    ):
        fault = _fault_of(check)
        if fault is not None:
            yield Finding(verdict="fault", subject=subject, text=fault)
            return
    # Only now: these need torch.
    try:
        platform = platforms.platform_class(device)
    except MlModelsError as error:
        yield Finding(verdict="fault", subject="device", text=str(error))
        return
    name = platform.name
    yield from _versions(name)
    if name == "npu":
        yield from _adaptor()
    yield from _environment(platform, environment)
    yield from _device(name)


def _fault_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except MlModelsError as error:
        return str(error)
    return None


def _installed() -> dict[str, str]:
    versions = {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "megatron_core": lines.installed_version(),
    }
    for component, distribution in (("torch", "torch"), ("torch_npu", "torch-npu")):
        try:
            versions[component] = metadata.version(distribution).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return versions


def _versions(platform: str) -> Iterator[Finding]:
    installed = _installed()
    shown = ", ".join(f"{name} {version}" for name, version in installed.items())
    row = nearest(platform, installed)
    if row is None:
        yield Finding(verdict="ok", subject="versions", text=shown)
        return
    others = differences(row, installed)
    if not others:
        yield Finding(verdict="ok", subject="versions", text=f"{shown} ({row.name})")
        return
    wanted = ", ".join(f"{name} {version}" for name, version in others.items())
    yield Finding(
        verdict="note",
        subject="versions",
        text=f"{shown}. The nearest combination that is known to work, {row.name}, has {wanted}: "
        f"{row.source['title']}",
    )


def _adaptor() -> Iterator[Finding]:
    try:
        adaptor = ascend_adaptors.choose(lines.installed_line())
    except MlModelsError as error:
        yield Finding(verdict="fault", subject="adaptor", text=str(error))
        return
    text = adaptor.name if adaptor else "none; torch_npu alone"
    yield Finding(verdict="ok", subject="adaptor", text=text)


def _environment(platform: "type[Platform]", environment: Mapping[str, str]) -> Iterator[Finding]:
    yield from _contradictions(environment)
    numbers = re.findall(r"\d+", requirements.torch_version() or "2.6")
    run = Run(tensor_model_parallel_size=2, torch=(int(numbers[0]), int(numbers[1])))
    decided = for_run(getattr(platform, "variables", ()), run, environment)
    for what, values in (("ml-train-launch sets", decided.values), ("set by you", decided.kept)):
        if values:
            pairs = ", ".join(f"{name}={value}" for name, value in values.items())
            yield Finding(verdict="ok", subject="environment", text=f"{what}: {pairs}")


def _contradictions(environment: Mapping[str, str]) -> Iterator[Finding]:
    both = ("PYTORCH_NPU_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    if all(name in environment for name in both):
        yield Finding(
            verdict="fault",
            subject="environment",
            text=f"{both[0]} and {both[1]} are both set, and torch_npu ends the process then. "
            f"Unset {both[1]}.",
        )
    seconds = [environment.get(f"HCCL_{kind}_TIMEOUT", "") for kind in ("EXEC", "EVENT")]
    if all(text.isdecimal() for text in seconds) and 0 < int(seconds[1]) <= int(seconds[0]):
        yield Finding(
            verdict="fault",
            subject="environment",
            text=f"HCCL_EVENT_TIMEOUT is {seconds[1]}, HCCL_EXEC_TIMEOUT {seconds[0]}; the first "
            "must be longer. Unset both, and ml-train-launch sets them.",
        )


def _device(name: str) -> Iterator[Finding]:
    # By name: at the top of the file a broken torch would end the command before its report.
    torch = importlib.import_module("torch")
    try:
        platform = platforms.get_platform(name)
        platform.set_device(0)
        ones = torch.ones(64, 64).to(platform.device)
        total = float((ones @ ones[:, :1]).sum())
    except (MlModelsError, RuntimeError, AssertionError) as error:
        lines_of_error = str(error).strip().splitlines() or [type(error).__name__]
        yield Finding(verdict="fault", subject="device", text=lines_of_error[0])
        return
    if total != 64.0 * 64.0:
        text = f"{name} computes a sum of 4096 ones as {total:g}: its driver or kernels are broken"
        yield Finding(verdict="fault", subject="device", text=text)
        return
    yield Finding(verdict="ok", subject="device", text=f"{name} computes")
    if name not in ("cuda", "npu"):
        return
    reported = str(getattr(torch, name).get_device_name(0))
    row = reported_device(reported)
    yield (
        Finding(verdict="ok", subject="device", text=f"{reported}: {row.title}")
        if row
        else Finding(
            verdict="note",
            subject="device",
            text=f"{reported} is not in the table of devices, so a run reports no share of its "
            "peak; --peak-tflops-per-device gives one",
        )
    )


def own_environment() -> Mapping[str, str]:
    """The variables of this process."""
    return dict(os.environ)
