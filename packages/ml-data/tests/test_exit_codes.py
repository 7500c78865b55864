"""The table of exit codes in `errors`, held by every command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_data import cli
from ml_data.errors import ExitCode, InputError, Terminated, UsageError

from .conftest import write_lines


def test_the_table() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0, "FAILED": 1, "USAGE": 2, "INTERRUPTED": 130, "TERMINATED": 143,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (UsageError("a flag"), 2, "ml-data: error: a flag\n"),
        (InputError("a file"), 1, "ml-data: error: a file\n"),
        (KeyboardInterrupt(), 130, "ml-data: error: interrupted\n"),
        (Terminated(), 143, "ml-data: error: ended by SIGTERM\n"),
        (BrokenPipeError(), 1, ""),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(13, "Permission denied", "x.bin"), 1, "x.bin: Permission denied\n"),
        (OSError("odd"), 1, "ml-data: error: odd\n"),
    ],
)
def test_what_a_command_raises(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    words: str,
) -> None:
    def run(_: object) -> int:
        raise raised

    monkeypatch.setattr("ml_data.commands.verify.run", run)
    assert cli.main(["verify", "p"]) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == (1 if words else 0)


def test_a_mistake_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        raise KeyError("x")

    monkeypatch.setattr("ml_data.commands.verify.run", run)
    with pytest.raises(KeyError):
        cli.main(["verify", "p"])


@pytest.mark.parametrize(
    "words",
    [
        ["--engine", "quick"], ["--tokenizer-type", "Other"], ["--template", "alpcaa"],
        ["--template", "{a"], ["--template", "alpaca", "--json-keys", "a"], ["--workers", "0"],
        ["--executor", "slurm"], ["--on-error", "panic"], ["--task-index", "1"], ["--wrokers", "2"],
        ["--json-keys", "a", "a"], ["--max-document-tokens", "0"], ["--input-checksums", "some"],
    ],
)  # fmt: skip
def test_bad_usage_of_tokenize(
    tmp_path: Path, tokenizer_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    command = [
        *("tokenize", "--input", str(lines), "--tokenizer-name-or-path", str(tokenizer_path)),
        *("--output-prefix", str(tmp_path / "p"), *words),
    ]
    try:
        code = cli.main(command)
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    assert code == ExitCode.USAGE
    assert words[0] in capsys.readouterr().err
    assert not list(tmp_path.glob("p*"))


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "p", "--samples", "-1"], ["inspect", "p", "--tokens", "-1"],
        ["split", "p", "--output-prefix", "q"],
        ["split", "p", "--output-prefix", "q", "--parts", "0"],
        ["split", "p", "--output-prefix", "q", "--fractions", "nan"],
        ["merge", "p", "--output-prefix", "q"], ["merge", "p", "q"], ["merge", "--tasks", "none"],
        [], ["tokenise"], ["verify"],
    ],
)  # fmt: skip
def test_bad_usage_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(command)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_to_the_whole_group(
    tmp_path: Path, tokenizer_path: Path, number: int, code: int, told: str, workers: str
) -> None:
    """As a terminal and a scheduler send them: the workers get them, too."""
    lines = write_lines(
        tmp_path / "a.jsonl", [{"text": f"row {row} " * 9} for row in range(40_000)]
    )
    command = [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(lines)),
        *("--tokenizer-name-or-path", str(tokenizer_path), "--output-prefix", str(tmp_path / "p")),
        *("--workers", workers, "--engine", "sentencepiece", "--log-interval", "1000000"),
        *("--batch-bytes", "20000", "--shard-bytes", "40000"),
    ]
    run = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal = tmp_path / "p.work" / "journal.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2, run)
    os.killpg(run.pid, number)
    shown = run.communicate(timeout=60)[1]
    assert run.returncode == code
    assert f"ml-data: error: {told}\n" in shown
    assert "the same command goes on from there" in shown
    assert "Traceback" not in shown
    assert journal.exists()


def wait_until(holds: Callable[[], bool], run: "subprocess.Popen[Any]") -> None:
    end = time.monotonic() + 60
    while not holds():
        assert run.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup, and in the background of a script."""
    monkeypatch.setattr("ml_data.commands.verify.run", lambda _: os.kill(os.getpid(), 2) or 0)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cli.main(["verify", "p"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ml_data.commands.verify.run", lambda _: os.kill(os.getpid(), 15) or 0)
    assert cli.main(["verify", "p"]) == ExitCode.TERMINATED
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
