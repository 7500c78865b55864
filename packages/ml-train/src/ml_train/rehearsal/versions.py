"""Versions of this installation, and of the nodes whose lists of packages are given.

A list is what `pip freeze` prints. Without one the cluster's versions are not known, and this
installation stands for it as far as the line of megatron-core goes.
"""

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from ml_models.errors import MlModelsError
from ml_models.megatron_core import lines
from ml_models.platforms.versions import Combination, combinations, differences, nearest
from ml_train.config.facts import DISTRIBUTIONS, OPTIONAL_DISTRIBUTIONS
from ml_train.diagnosis.doctor import findings as doctors_findings
from ml_train.diagnosis.doctor import own_environment
from ml_train.errors import MlTrainError
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job
from ml_train.text_files import read_text

SUBJECT = "versions"
_OURS = ("ml-train", "ml-models", "ml-data")
_COMPARED = (*DISTRIBUTIONS, *OPTIONAL_DISTRIBUTIONS)
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)")
_WHEEL = re.compile(r"/([A-Za-z0-9_.]+)-([0-9][A-Za-z0-9.!+_]*)-[^/]*\.whl")


def check(job: Job) -> Iterator[Finding]:
    """This installation, then every list of packages, then the lists against each other."""
    platform = job.cluster.device.platform
    yield from _own(platform)
    lists: dict[Path, dict[str, str]] = {}
    for path in job.cluster.package_lists:
        try:
            lists[path] = packages_of(read_text(path, "--packages"))
        except MlTrainError as error:
            yield wrong(SUBJECT, error, fix="Give a file that `pip freeze` wrote.")
            continue
        yield from _of_list(path, lists[path], platform)
    yield from _between(lists)


def packages_of(text: str) -> dict[str, str]:
    """Distribution -> version, from what `pip freeze` prints. Names are in lower case.

    An editable package stands in a comment, a wheel's version in the name of its file.
    """
    packages: dict[str, str] = {}
    for line in text.splitlines():
        match = _PINNED.search(line) or _WHEEL.search(line)
        if match:
            packages[_normal(match[1])] = match[2]
    return packages


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _own(platform: str | None) -> Iterator[Finding]:
    """What doctor says of this machine, and whether its packages go together."""
    for item in doctors_findings("cpu", own_environment()):
        if item.verdict == "fault":
            yield wrong(SUBJECT, f"{item.subject}: {item.text}", fix="See ml-train doctor.")
    installed = {name: _installed(name) for name in _COMPARED}
    there = {name: version for name, version in installed.items() if version is not None}
    yield from _of_requirements("this installation", there, strict=True)
    try:
        core = lines.installed_version()
    except MlModelsError:
        return  # doctor has told it
    yield from _of_core("this installation", core, platform)
    shown = ", ".join(f"{name} {version}" for name, version in there.items())
    yield sound(SUBJECT, f"this installation: {shown}")
    row = nearest(platform, {"megatron_core": core}) if platform else None
    if row is not None:
        yield sound(SUBJECT, f"known to work on {platform}: {_recommended(row)}")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _of_list(path: Path, packages: Mapping[str, str], platform: str | None) -> Iterator[Finding]:
    needed = [name for name in ("ml-train", "torch", "megatron-core") if name not in packages]
    if needed:
        yield wrong(
            SUBJECT,
            f"{path} lists no {', no '.join(needed)}.",
            fix="Install it there; the file is what `pip freeze` prints in the job's environment.",
        )
    yield from _of_requirements(str(path), packages, strict=False)
    if "megatron-core" in packages:
        yield from _of_core(str(path), packages["megatron-core"], platform)
    if platform is None:
        return
    components = {
        name.replace("-", "_"): packages[name].partition("+")[0]
        for name in ("torch", "torch-npu", "megatron-core")
        if name in packages
    }
    row = nearest(platform, components)
    if row is None:
        return
    if platform == "npu" and "torch_npu" not in components:
        text = f"{path} lists no torch-npu, without which the device cannot be used."
        yield wrong(SUBJECT, text, fix=_recommended(row))
    others = differences(row, components)
    if not others:
        yield sound(SUBJECT, f"{path}: {row.name}, {row.source['title']}")
        return
    yield wrong(
        SUBJECT,
        f"{path} has {_listed(components)}, and the nearest combination that is known to work on "
        f"{platform} ({row.name}) has {_listed(others)}.",
        fix=_recommended(row),
        severity="error" if _torch_npu_is_of_another_torch(components) else "warning",
    )


def _torch_npu_is_of_another_torch(components: Mapping[str, str]) -> bool:
    """torch_npu is compiled for a release of torch, whose major and minor version it has."""
    both = [components.get(name) for name in ("torch", "torch_npu")]
    releases = {".".join(version.split(".")[:2]) for version in both if version}
    return len(releases) > 1


def _of_core(where: str, version: str, platform: str | None) -> Iterator[Finding]:
    """The line of megatron-core: tested at all, and known on the platform."""
    line = ".".join(version.split(".")[:2])
    names = ", ".join(supported.name for supported in reversed(lines.SUPPORTED))
    if not lines.is_supported(line):
        yield wrong(
            SUBJECT,
            f"{where} has megatron-core {version}, and ml-train supports the lines {names}.",
            fix=f"Run: pip install megatron-core=={lines.default_release()}",
            severity="warning" if lines.is_newer(line) else "error",
        )
        return
    rows = combinations(platform) if platform else ()
    known = {row.megatron_core.rpartition(".")[0] for row in rows}
    if known and line not in known:
        yield wrong(
            SUBJECT,
            f"{where} has megatron-core {version}, and no combination with it is known to work on "
            f"{platform}; known there: {', '.join(sorted(known, key=lines.order_of))}.",
            fix=f"Install {_recommended(rows[0])}",
            severity="warning",
        )


def _of_requirements(where: str, packages: Mapping[str, str], *, strict: bool) -> Iterator[Finding]:
    """What our packages declare that they need, against the versions that are there.

    The declarations are those of this installation. strict: what is absent is a fault as well.
    """
    for name in _OURS:
        if name not in packages:
            continue
        for text in _declared(name):
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = packages.get(_normal(requirement.name))
            if version is None and strict:
                version = _installed(requirement.name)
            if version is not None and not _admits(requirement, version):
                yield wrong(
                    SUBJECT,
                    f"{where}: {name} {packages[name]} needs {requirement.name}"
                    f"{requirement.specifier}, and {version} is there.",
                    fix=f"Run: pip install '{requirement.name}{requirement.specifier}'",
                )


def _declared(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _admits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # a source tree's name for itself: nothing can be said


def _between(lists: Mapping[Path, Mapping[str, str]]) -> Iterator[Finding]:
    """Nodes compare these versions at their start, and a difference ends the job."""
    for name in _COMPARED:
        versions: dict[str, list[str]] = {}
        for path, packages in lists.items():
            versions.setdefault(packages.get(name, "absent"), []).append(path.name)
        if len(versions) > 1:
            shown = "; ".join(f"{v} in {', '.join(names)}" for v, names in versions.items())
            yield wrong(
                SUBJECT,
                f"The nodes have different versions of {name}: {shown}.",
                fix="Install the same on every node: a start compares them and ends.",
            )


def _recommended(row: Combination) -> str:
    adaptor = f" and {row.adaptor}" if row.adaptor else ""
    return f"{', '.join(row.requirements())}{adaptor} ({row.source['title']})."


def _listed(components: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in components.items())
