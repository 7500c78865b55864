"""The run at toy width: killed on real processes, resumed, equal to a run without a break."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "invariance"))
from forks import Forks
from rehearsed import cluster, sound_data, words_of

from ml_train.cli import main
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.errors import MlTrainError
from ml_train.rehearsal import toy
from ml_train.rehearsal.finding import Finding
from ml_train.rehearsal.job import Job
from ml_train.rehearsal.toy import ToyRun


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, so that none can stay without being seen."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def job_of(folder: Path, *more: str) -> Job:
    loaded = load_config(parse(words_of(folder, *more)))
    return Job(loaded=loaded, cluster=cluster(), progress=lambda _: None)


def children() -> set[int]:
    """Processes that this one has started and that run."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_job_with_data_is_killed_and_resumed_on_two_processes(
    tmp_path: Path, scratch: Path
) -> None:
    """The run that is killed is started by torchrun, as on a cluster."""
    with Forks() as forks:
        run = ToyRun(most_processes=2, start_run=forks.start)
        (finding,) = run(job_of(tmp_path), with_data=True)
    assert finding.severity == "ok", finding
    assert finding.what.startswith("TP2 PP1 EP2 ETP1 DP1 on 2 processes: killed after step ")
    assert finding.what.endswith("have the losses of the run without a break")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "save").exists() and not (tmp_path / "index_cache").exists()


@pytest.mark.slow
def test_the_whole_rehearsal_as_a_user_calls_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """TP2 PP2 EP2 on four processes, three times under torchrun."""
    words = ["--toy-processes", "4", *words_of(tmp_path)]
    assert main(["rehearse", "--device", "h100", *words]) == 0
    said = capfd.readouterr().out
    assert "toy run: TP2 PP2 EP2 ETP1 DP1 on 4 processes: killed after step" in said
    assert "The job would start" in said


def pretended(
    monkeypatch: pytest.MonkeyPatch, losses: Callable[[Path], dict[int, object]]
) -> ToyRun:
    """A run whose processes are not started: step 2 is saved, 3 was lost."""

    def killed(words: list[str], *_: Any, **__: Any) -> None:
        (Path(words[words.index("--save") + 1]) / "iter_0000002").mkdir(parents=True)

    monkeypatch.setattr(toy, "run_and_kill", killed)
    monkeypatch.setattr(toy, "_losses", losses)
    return ToyRun(most_processes=2, start_run=lambda *_: None)


def test_losses_that_differ_after_the_kill_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretended(monkeypatch, lambda save: {3: 1.0, 4: save.name, 5: save.name})
    (finding,) = run(job_of(tmp_path), with_data=True)
    assert finding.severity == "error" and "step 4 differs" in finding.what


def test_a_resumed_run_that_stops_early_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretended(monkeypatch, lambda _: {3: 1.0, 4: 1.0})
    (finding,) = run(job_of(tmp_path), with_data=True)
    assert finding.severity == "error" and "step 5 differs" in finding.what


def test_a_run_that_fails_gives_its_reason_and_leaves_no_process(
    tmp_path: Path, scratch: Path
) -> None:
    """Validation wants documents that the split does not give: training says so itself."""
    prefix = sound_data(tmp_path)
    before = children()
    words = [*words_of(tmp_path, data=""), "--data-path", prefix, "--split", "1,0,0"]
    job = Job(loaded=load_config(parse(words)), cluster=cluster(), progress=lambda _: None)
    (finding,) = ToyRun(most_processes=1)(job, with_data=True)
    assert finding.severity == "error"
    assert "leaves no document" in finding.what and str(scratch) not in finding.what
    assert children() == before
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, MlTrainError("it hangs.")])
def test_the_folder_is_gone_however_the_run_ends(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, ended_by: Any
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise ended_by

    monkeypatch.setattr(toy, "run_and_kill", end)
    findings: list[Finding] = []
    if isinstance(ended_by, MlTrainError):
        findings += ToyRun(most_processes=1)(job_of(tmp_path), with_data=False)
        assert "it hangs" in findings[0].what
    else:
        with pytest.raises(KeyboardInterrupt):
            findings += ToyRun(most_processes=1)(job_of(tmp_path), with_data=False)
    assert list(scratch.iterdir()) == []


def test_a_machine_without_cores_to_spare_runs_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretended(monkeypatch, lambda _: {3: 1.0, 4: 1.0, 5: 1.0})
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    default = ToyRun(start_run=run.start_run)
    (finding,) = default(job_of(tmp_path), with_data=True)
    assert "on 2 processes" in finding.what
