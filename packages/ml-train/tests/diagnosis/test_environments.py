"""Environments that a user names: what is wrong with each is one sentence and exit code 2."""

import json
import os
import sys
import venv
from pathlib import Path

import pytest

from ml_train import __version__, cli, terminal
from ml_train.diagnosis import environments
from ml_train.diagnosis.environments import open_environment
from ml_train.diagnosis.work_folder import work_folder
from ml_train.errors import ConfigError, MlTrainError


def script(path: Path, text: str) -> Path:
    """A program that stands in for an environment's Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def answer(**facts: object) -> str:
    """A shell command that answers as a Python would."""
    names = dict.fromkeys(environments._INSTALLED, "1.0.0")
    values = {"python": "3.12.1", "errors": {}, **names, "ml-train": __version__, **facts}
    return f"echo some notice of a library\necho '{environments._MARK}{json.dumps(values)}'"


def refusal(given: Path | str, capfd: pytest.CaptureFixture[str]) -> str:
    """What verify-upgrade says of an environment: one sentence on standard error, nothing run."""
    words = ["verify-upgrade", "--recipe", "grok1-tiny", "--from", str(given), "--to", str(given)]
    assert cli.main(words) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"ml-train: error: --from {given}: ")
    return captured.err


def test_a_folder_and_a_python_are_the_same_environment(tmp_path: Path) -> None:
    python = script(tmp_path / "bin" / "python", answer(torch="2.13.0"))
    folder, program = (open_environment("--to", str(path)) for path in (tmp_path, python))
    assert folder.python == program.python == python
    assert folder.versions == program.versions
    assert str(folder) == (
        f"--to {tmp_path}: python 3.12.1, torch 2.13.0, megatron-core 1.0.0, ml-train {__version__}"
    )


def test_this_environment() -> None:
    own = open_environment("--from", sys.executable)
    assert own.versions["ml-train"] == __version__
    assert own.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert own.python == Path(sys.executable).absolute()


def test_a_python_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = script(tmp_path / "python-of-mine", answer())
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert open_environment("--from", "python-of-mine").python == python


def test_what_is_no_environment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no such folder or Python" in refusal(tmp_path / "absent", capfd)
    assert "no environment, it has no bin/python" in refusal(tmp_path, capfd)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/usr/lib/python-of-last-year")
    text = refusal(tmp_path, capfd)
    assert "a link to /usr/lib/python-of-last-year, which is not there any more" in text
    assert "which is not there" in refusal(tmp_path / "bin" / "python", capfd)
    (tmp_path / "file").write_text("")
    assert "a file that cannot be run" in refusal(tmp_path / "file", capfd)


def test_what_is_no_python_that_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = script(tmp_path / "broken", "echo 'No module named encodings' >&2\nexit 3")
    text = refusal(broken, capfd)
    assert "ended with exit code 3 (No module named encodings)" in text
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF" + bytes(60))
    garbage.chmod(0o755)
    assert "cannot be started" in refusal(garbage, capfd)
    silent = script(tmp_path / "silent", f"echo '{environments._MARK}no JSON'")
    assert "is no Python that works" in refusal(silent, capfd)


def test_an_environment_without_ml_train(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "bare", with_pip=False)
    text = refusal(tmp_path / "bare", capfd)
    python = tmp_path / "bare" / "bin" / "python"
    assert f"ml-train is not installed there; install it with {python} -m pip install" in text


def test_an_environment_with_another_ml_train(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = script(tmp_path / "other", answer(**{"ml-train": "0.9.1"}))
    text = refusal(other, capfd)
    assert f"ml-train 0.9.1 is installed there and {__version__} here" in text
    assert "--ml-train-may-differ" in text


def test_an_environment_whose_libraries_fail(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = "ImportError: libcudart.so.12: cannot open shared object file\\nmore of it"
    damaged = script(tmp_path / "damaged", answer(errors={"torch": error}))
    text = refusal(damaged, capfd)
    assert "torch cannot be imported there (ImportError: libcudart.so.12: cannot open" in text


def test_a_work_folder_stays_where_a_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with work_folder(None, "x-") as folder:
        (folder / "log").write_text("fine")
    assert not folder.exists()
    with terminal.speaking(), pytest.raises(MlTrainError), work_folder(None, "x-") as folder:
        (folder / "log").write_text("why")
        raise MlTrainError("a run failed")
    assert (folder / "log").read_text() == "why"
    assert f"kept for its logs: {folder}" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="is not empty"), work_folder(str(folder), "x-"):
        pytest.fail("a folder with files was used")
    with (
        pytest.raises(ConfigError, match="cannot be used"),
        work_folder(str(folder / "log" / "inner"), "x-"),
    ):
        pytest.fail("a file was used as a folder")
