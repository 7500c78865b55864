"""What is told arrives where it can, and a stream that takes nothing ends no run."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_data import terminal
from ml_data.errors import OutputError
from ml_data.pipeline.progress import ProgressUpdate

from .conftest import write_lines

TICK = ProgressUpdate(num_documents=1, num_bytes=1, seconds=1, fraction=0.5, seconds_left=1)


def tokenize_command(folder: Path, tokenizer: Path, name: str) -> list[str]:
    lines = folder / "a.jsonl"
    if not lines.exists():
        write_lines(lines, [{"text": "red \x1b[31m \u65e5\u672c \u202e end"}] * 3 + [b"{bad"])
    return [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(lines)),
        *("--tokenizer-name-or-path", str(tokenizer), "--output-prefix", str(folder / name)),
        *("--workers", "1", "--log-interval", "1"),
    ]


def shell(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize("buffered", [True, False])
def test_streams_that_are_closed_or_full(
    tmp_path: Path, tokenizer_path: Path, buffered: bool
) -> None:
    cases = (
        ('"$@" 2>&-', 0, "a result on stdout"),
        ('"$@" >&-', 0, ""),
        ('"$@" <&- >&- 2>&-', 0, ""),
        ('"$@" 2>/dev/full', 0, "a result on stdout"),
        ('"$@" >/dev/full', 1, ""),
        ('exec 3>&1; { "$@" 2>&1 >&3; echo "code $?" >&3; } | true', 0, "code 0"),
    )
    for number, (script, code, out) in enumerate(cases):
        command = tokenize_command(tmp_path, tokenizer_path, f"p{number}")
        done = shell(script, *command, PYTHONUNBUFFERED="" if buffered else "1")
        assert done.returncode == code, script
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert out in ("", "a result on stdout") or out in done.stdout
        assert ("3 documents" in done.stdout) == (out != ""), script
        assert ("cannot write to the standard output: No space left" in done.stderr) == bool(code)
        # A file that gets the number of a closed stream must not get its text.
        assert (tmp_path / f"p{number}_text_document.idx").read_bytes().startswith(b"MMIDIDX")


def test_a_reader_that_has_seen_enough(tmp_path: Path, tokenizer_path: Path) -> None:
    subprocess.run(tokenize_command(tmp_path, tokenizer_path, "p"), capture_output=True, check=True)
    inspect = [sys.executable, "-m", "ml_data.cli", "inspect", str(tmp_path / "p_text_document")]
    done = shell('"$@" | true', *inspect)
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_samples_on_any_terminal(tmp_path: Path, tokenizer_path: Path, encoding: str) -> None:
    subprocess.run(tokenize_command(tmp_path, tokenizer_path, "p"), capture_output=True, check=True)
    inspect = [sys.executable, "-m", "ml_data.cli", "inspect", str(tmp_path / "p_text_document")]
    done = subprocess.run(
        inspect, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    shown = done.stdout.decode(encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\\x1b" in shown
    assert "\\u202e" in shown
    assert not [mark for mark in shown if not mark.isprintable() and mark != "\n"]
    assert ("\u65e5" in shown) == (encoding == "utf-8")
    assert ("\\u65e5" in shown) == (encoding != "utf-8")


def test_names_that_are_not_utf_8(tmp_path: Path, tokenizer_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    done = subprocess.run(
        tokenize_command(folder, tokenizer_path, "p\udcfe"), capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    for command in ("inspect", "verify"):
        done = subprocess.run(
            [sys.executable, "-m", "ml_data.cli", command, str(folder / "p\udcfe_text_document")],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "\\udcfe_text_document" in done.stdout


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.error("a\nb\x1b[2J\udc80 \u65e5")
    terminal.notice("c\rd")
    shown = capsys.readouterr()
    assert shown.err == "ml-data: error: a\\nb\\x1b[2J\\udc80 \u65e5\nml-data: c\\rd\n"
    terminal.say("a\nb\tc")
    assert capsys.readouterr().out == "a\nb\\tc\n"


class Broken(io.StringIO):
    """A stream whose other end is gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("closed", [True, False])
def test_progress_never_ends_a_run(closed: bool) -> None:
    stream: io.StringIO = io.StringIO() if closed else Broken()
    if closed:
        stream.close()
    line = terminal.ProgressLine(stream)
    line.show(TICK)
    line.show(TICK)
    line.end()


def test_results_that_cannot_be_written_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OutputError, match="cannot write to the standard output: No space left"):
        terminal.say("x")
