"""One module speaks for ml-train, by level and by rank; what is promised to be told is told.

tools/check_house.py sees to it that no other module writes to a terminal.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from token_files import write_tokens

from ml_data.errors import ExitCode
from ml_models import errors as model_errors
from ml_train import errors, terminal
from ml_train.config.sections.data import DataSection
from ml_train.data.manifest import ExpectedTokens, check_manifests


def say_all() -> None:
    terminal.error("e")
    terminal.warning("w")
    terminal.notice("n")
    terminal.result("r")


def test_other_ranks_keep_to_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    with terminal.speaking("detail"):
        say_all()
    shown = capsys.readouterr()
    assert shown.err == "ml-train: error (rank 3): e\nwarning: rank 3: w\n"
    monkeypatch.setenv("RANK", "0")
    with terminal.speaking("notice", log_to_stdout=True):
        say_all()
    assert capsys.readouterr() == ("warning: w\nn\nr\n", "ml-train: error: e\n")


def test_a_pair_without_a_manifest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = write_tokens(tmp_path / "tokens", lengths=[20] * 4)
    data = DataSection(data_path=(prefix,))
    with terminal.speaking():
        check_manifests(data, ExpectedTokens())
    warning = f"{prefix} has no manifest: tokenizer and checksums are not checked\n"
    assert capsys.readouterr().err == warning


def test_the_level_is_a_flag_of_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ml_train.cli", "show-config", "--logging-level", "loud"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "invalid choice: 'loud'" in done.stderr


def test_exit_codes_are_the_same_in_all_packages() -> None:
    names = ("DONE", "FAILED", "INTERRUPTED", "TERMINATED")
    for name in names:
        assert ExitCode[name] == getattr(model_errors, name) == getattr(errors, name)
    assert ExitCode.USAGE == model_errors.BAD_USAGE == errors.BAD_USAGE == 2
    assert [ExitCode[name].value for name in names] == [0, 1, 130, 143]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.LayoutError("x"), 2),
        (errors.StartError("x"), 1),
        (errors.DataError("x"), 1),
        (errors.CheckpointError("x"), 1),
        (errors.TrainingError("x"), 1),
        (model_errors.ConfigError("x"), 2),
        (model_errors.LayoutError("x"), 2),
        (model_errors.UnknownPlatformError("x"), 2),
        (model_errors.PlatformError("x"), 1),
        (model_errors.WeightError("x"), 1),
        (PermissionError("x"), 1),
        (KeyboardInterrupt(), 130),
        (errors.Terminated(), 143),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_table_of_exit_codes(error: BaseException, code: int) -> None:
    assert model_errors.exit_code(error, errors.EXIT_CODES) == code
