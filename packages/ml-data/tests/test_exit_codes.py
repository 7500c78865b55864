"""The table of exit codes in `errors`, held by every command."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import ml_data
from ml_data import cli
from ml_data.errors import ExitCode, InputError, Terminated, UsageError
from ml_data.flags import FlagParser, StoreOnce
from ml_data.pipeline.options import TokenizeOptions, flag_of

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
        (ImportError("libarrow.so: failed to map segment"), 1, "cannot be loaded: libarrow.so"),
        (SystemError("error return without exception set"), 1, "out of memory"),
        (RuntimeError("can't start new thread"), 1, "starts no further thread"),
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
    for mistake in (KeyError("x"), RuntimeError("x")):

        def run(_: object, mistake: Exception = mistake) -> int:
            raise mistake

        monkeypatch.setattr("ml_data.commands.verify.run", run)
        with pytest.raises(type(mistake)):
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


REQUIRED = ("input", "tokenizer_name_or_path", "output_prefix")
# Every flag with a value, of every command, and the arguments without a flag. `{}` is the value;
# P is a finished output, T a tokenizer, L a file of lines.
WITH_VALUES = {
    "tokenize": [
        "--input {} --tokenizer-model T --output-prefix q",
        "--input L --tokenizer-model {} --output-prefix q",
        "--input L --tokenizer-name-or-path {} --output-prefix q",
        "--input L --tokenizer-model T --output-prefix {}",
        *(
            f"--input L --tokenizer-model T --output-prefix q --append-eod {flag_of(name)} {{}}"
            for name, kind in get_type_hints(TokenizeOptions).items()
            if kind is not bool and name not in REQUIRED
        ),
    ],
    "verify": ["{}", "P --tokenizer-model {}"],
    "inspect": ["{}", "P --tokenizer-model {}", "P --samples {}", "P --tokens {}"],
    "merge": ["{} P --output-prefix q", "P {} --output-prefix q", "P P --output-prefix {}"]
    + ["--tasks {}"],
    "split": ["{} --output-prefix q --parts 2", "P --output-prefix {} --parts 2"]
    + ["P --output-prefix q --parts {}", "P --output-prefix q --fractions {}"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> dict[str, str]:
    """What P, T and L in WITH_VALUES stand for."""
    folder = tmp_path_factory.mktemp("finished")
    lines = write_lines(folder / "a.jsonl", [{"text": "a text"}])
    ml_data.tokenize(lines, tokenizer_path, folder / "p")
    return {"P": str(folder / "p_text_document"), "T": str(tokenizer_path), "L": str(lines)}


def test_an_empty_value_is_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What `--flag "$VARIABLE"` gives where the variable is not set."""
    monkeypatch.chdir(tmp_path)
    for command, lines in WITH_VALUES.items():
        for line in lines:
            words = [finished.get(word, word).replace("{}", "") for word in line.split()]
            assert exit_code([command, *words]) == ExitCode.USAGE, (command, line)
            assert "''" in capsys.readouterr().err, (command, line)
            assert not list(tmp_path.iterdir()), (command, line)


HUGE = "9" * 23
NONSENSE = {
    "--output-prefix": [" ", "\n", "s3://bucket/p", "file:///p", "p/", ".."],
    "--tokenizer-type": ["x", " "],
    "--json-keys": ["a/b", "../a"],
    "--engine": ["x", " ", "Auto"],
    "--eod-token": ["\udcff"],
    "--eod-id": ["x", "-1", "1.5", "nan"],
    "--template": ["{", "{}", "{a", "x", "ALPACA"],
    "--max-document-tokens": ["x", "0", "-1", "1e3"],
    "--parts": ["x", "0", "-1", "1.5", HUGE],
    "--fractions": ["x", "0", "-1", "nan", "inf"],
    "--samples": ["x", "-1", "1.5"],
    "--tokens": ["x", "-1", "inf"],
    **{flag_of(name): ["x", "Skip", " "] for name in ("on_error", "executor", "input_checksums")},
    **{
        flag_of(name): ["x", "0", "-1", "1.5", "nan", HUGE]
        for name in ("workers", "log_interval", "num_tasks", "batch_bytes", "shard_bytes")
    },
    "--task-index": ["x", "1", "-1", HUGE],
}


def test_a_malformed_value_is_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tried = set()
    for command, lines in WITH_VALUES.items():
        for line in lines:
            flag = next((flag for flag in NONSENSE if f"{flag} {{}}" in line), None)
            for value in NONSENSE.get(flag or "", []):
                words = [finished.get(word, word) for word in line.split()]
                # With a `=`, as argparse takes -1 for a flag.
                joined = "\0".join(words).replace("\0{}", f"={value}").split("\0")
                assert exit_code([command, *joined]) == ExitCode.USAGE, (command, line, value)
                assert not list(tmp_path.iterdir()), (command, line, value)
                tried.add(flag)
    assert tried == set(NONSENSE)


def test_an_input_without_a_name_is_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["--tokenizer-model", finished["T"], "--output-prefix", "q"]
    for given in (" ", "\t", "s3://", "gs:///folder", "hf://", "file://"):
        assert exit_code(["tokenize", "--input", given, *rest]) == ExitCode.USAGE, given
    for given in (" ", "s3://bucket/p"):
        for command in (["verify"], ["inspect"], ["split", "--output-prefix", "q", "--parts", "2"]):
            assert exit_code([*command, given]) == ExitCode.USAGE, (command, given)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("megabytes", [80, 200])
def test_little_memory_is_told_in_a_sentence(
    tmp_path: Path, finished: dict[str, str], megabytes: int
) -> None:
    """From libraries that cannot be loaded to a tokenizer that has no room."""
    words = ["--input", finished["L"], "--tokenizer-model", finished["T"], "--output-prefix"]
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2)\n"
        "from ml_data.cli import main; sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "tokenize", *words, str(tmp_path / "p")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == ExitCode.FAILED
    assert run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def exit_code(command: list[str]) -> int:
    try:
        return cli.main(command)
    except SystemExit as end:  # argparse's own
        return int(end.code or 0)


def test_every_flag_with_a_value_is_in_the_table() -> None:
    for command, lines in WITH_VALUES.items():
        parser = FlagParser()
        importlib.import_module(f"ml_data.commands.{command}").add_arguments(parser)
        for action in parser._actions:
            if isinstance(action, StoreOnce) and action.option_strings:
                flags = [f"{flag} {{}}" for flag in action.option_strings]
                assert any(flag in line for flag in flags for line in lines), flags


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
