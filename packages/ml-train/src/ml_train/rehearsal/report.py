"""A rehearsal for a terminal and as a JSON document."""

from dataclasses import asdict
from typing import Any

from ml_train.planning.legality import words
from ml_train.rehearsal.finding import Finding
from ml_train.rehearsal.rehearse import Rehearsal

SCHEMA = 1
"""Version of the JSON document: docs/planning.md describes it."""


def text(rehearsal: Rehearsal) -> str:
    """What is sound, what was left out, then what is wrong, and the verdict."""
    lines = [
        f"ok       {finding.subject}: {finding.what}"
        for finding in rehearsal.findings
        if finding.severity == "ok"
    ]
    lines += [f"left out {sentence}" for sentence in rehearsal.skipped]
    for severity in ("warning", "error"):
        for finding in rehearsal.findings:
            if finding.severity == severity:
                lines += _lines_of(finding)
    return "\n".join([*lines, verdict(rehearsal)])


def _lines_of(finding: Finding) -> list[str]:
    return [
        f"{finding.severity:<8} {finding.subject}: {finding.what}",
        f"         fix: {finding.fix}",
    ]


def verdict(rehearsal: Rehearsal) -> str:
    """Whether the job would run, in a sentence."""
    number = len(rehearsal.errors)
    if number == 0:
        return "The job would start: nothing that was looked at would fail."
    return f"The job would fail: {number} {'fault' if number == 1 else 'faults'}."


def document(rehearsal: Rehearsal) -> dict[str, Any]:
    """The JSON document."""
    job = rehearsal.job
    layout = job.layout if job is not None else None
    return {
        "schema": SCHEMA,
        "sound": not rehearsal.errors,
        "device": job.cluster.device.name if job is not None else None,
        "processes": job.cluster.num_processes if job is not None else None,
        "layout": words(layout) if layout is not None else None,
        "findings": [asdict(item) for item in rehearsal.findings if item.severity != "ok"],
        "checked": [asdict(item) for item in rehearsal.findings if item.severity == "ok"],
        "left_out": rehearsal.skipped,
    }
