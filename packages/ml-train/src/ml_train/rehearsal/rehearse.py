"""A rehearsal in a straight line: the configuration, every check, the run at toy width."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ml_data.errors import MlDataError
from ml_models.errors import MlModelsError
from ml_train.config.load import Attempt
from ml_train.errors import MlTrainError
from ml_train.rehearsal.checks import CHECKS, Check
from ml_train.rehearsal.finding import Finding, wrong
from ml_train.rehearsal.job import Cluster, Job

Progress = Callable[[str], None]


class Toy(Protocol):
    """The run at toy width."""

    def __call__(self, job: Job, *, with_data: bool) -> Iterator[Finding]:
        """with_data: whether the job's data may be read."""
        ...


@dataclass(kw_only=True)
class Rehearsal:
    """What came of it."""

    job: Job | None
    """None where the configuration is none."""
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Sentences on what was not looked at, and why."""

    @property
    def errors(self) -> list[Finding]:
        """What would fail."""
        return [finding for finding in self.findings if finding.severity == "error"]


def rehearse(
    attempt: Attempt, cluster: Cluster, *, progress: Progress, toy: Toy | None
) -> Rehearsal:
    """Every check that the configuration allows. toy: the run at toy width, None to leave it out.

    After ml_train.bring_up.start_platform. No error of a check ends the others.
    """
    job = None
    if attempt.loaded is not None:
        job = Job(loaded=attempt.loaded, cluster=cluster, progress=progress)
    rehearsal = Rehearsal(job=job)
    for error in attempt.errors:
        fix = "See ml-train pretrain --help."
        rehearsal.findings.append(wrong("settings", error, fix=fix))
    if job is None:
        rehearsal.skipped.append("Without a model nothing else was looked at.")
        return rehearsal
    for check in CHECKS:
        faulty = sorted(check.sections & attempt.faulty_sections)
        if faulty:
            rehearsal.skipped.append(
                f"{check.title}: not looked at, as the settings of {', '.join(faulty)} are faulty."
            )
        elif check.needs_layout and job.layout is None:
            rehearsal.skipped.append(f"{check.title}: not looked at, as the layout is not legal.")
        else:
            progress(f"checking {check.title}")
            rehearsal.findings += _findings_of(check, job)
    if toy is not None:
        _run_toy(rehearsal, job, attempt, toy)
    return rehearsal


def _findings_of(check: Check, job: Job) -> Iterator[Finding]:
    """What a check gives. An error of the job's files that it did not expect is a finding."""
    try:
        yield from check.run(job)
    except (MlTrainError, MlModelsError, MlDataError, OSError) as error:
        yield wrong(check.title, error, fix="Mend what the message names.")


def _run_toy(rehearsal: Rehearsal, job: Job, attempt: Attempt, toy: Toy) -> None:
    if attempt.errors or job.layout is None:
        rehearsal.skipped.append("The run at toy width needs a configuration and a legal layout.")
        return
    unsound = any(finding.subject == "data" for finding in rehearsal.errors)
    rehearsal.findings += toy(job, with_data=not unsound)
