"""kill -9 at any moment: the same command goes on, and the bytes are those of a quiet run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines

Make = Callable[..., TokenizeOptions]
DRIVER = Path(__file__).with_name("crash_driver.py")


def rows(count: int) -> list[object]:
    """Lines of which every seventh is not usable."""
    good = [{"text": f"row {index} says " + "hello there " * (index % 9)} for index in range(count)]
    return [b"{broken" if index % 7 == 3 else row for index, row in enumerate(good)]


def clean_files(prefix: Path) -> dict[str, bytes]:
    """What a run left, without the name of the prefix in it."""
    files = files_of(prefix)
    files["_text_document.json"] = files["_text_document.json"].replace(
        prefix.name.encode(), b"NAME"
    )
    return files


def test_a_crash_at_each_durable_step(tmp_path: Path, options: Make, tokenizer_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(250))
    tokenize(options(path, append_eod=True, batch_bytes=2048, shard_bytes=8192))
    expected = files_of(tmp_path / "out" / "p")
    command = [sys.executable, DRIVER, path, tokenizer_path, tmp_path / "crashes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 20
    for folder in sorted((tmp_path / "crashes").iterdir()):
        assert files_of(folder / "p") == expected, folder.name


def kill_at_random_moments(
    folder: Path, source: Path, tokenizer: Path, wanted: int, seed: int
) -> int:
    """Kill runs until `wanted` kills hit a living process; every finished run is compared."""
    chance = random.Random(seed)

    def command(prefix: Path, workers: int) -> list[str]:
        engine = chance.choice(["auto", "sentencepiece"])
        return [
            *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(source)),
            *("--tokenizer-name-or-path", str(tokenizer), "--output-prefix", str(prefix)),
            *("--workers", str(workers), "--engine", engine, "--append-eod"),
            *("--batch-bytes", "8192", "--shard-bytes", "32768", "--log-interval", "1000000"),
        ]

    def quiet(prefix: Path) -> float:
        started = time.monotonic()
        subprocess.run(command(prefix, 1), check=True, capture_output=True, timeout=120)
        return time.monotonic() - started

    seconds = quiet(folder / "quiet" / "p")
    expected = without_engine(files_of(folder / "quiet" / "p"))
    kills = rounds = 0
    while kills < wanted:
        rounds += 1
        prefix = folder / f"round{rounds}" / "p"
        while True:
            run = subprocess.Popen(
                command(prefix, chance.choice([1, 2, 3])),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                code = run.wait(
                    timeout=chance.uniform(0.3, 1.1) * seconds if kills < wanted else 120
                )
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
                kills += 1
                assert not (prefix.parent / "p_text_document.idx").exists() or files_of(prefix)
                continue
            assert code == 0
            break
        assert without_engine(files_of(prefix)) == expected
    return kills


def without_engine(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without the manifest's note of the engine, which the test varies."""
    manifest = json.loads(files["_text_document.json"])
    manifest["tokenizer"].pop("engine")
    return {**files, "_text_document.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_at_seeded_random_moments(tmp_path: Path, tokenizer_path: Path, kills: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(12_000))
    assert kill_at_random_moments(tmp_path, path, tokenizer_path, kills, seed=kills) >= kills


def test_a_finished_run_is_kept_and_another_command_refused(tmp_path: Path, options: Make) -> None:
    from ml_data.errors import OutputError

    path = write_lines(tmp_path / "a.jsonl", rows(20))
    tokenize(options(path))
    before = (tmp_path / "out" / "p_text_document.idx").stat().st_mtime_ns
    notices: list[str] = []
    tokenize(options(path, workers=3), on_notice=notices.append)
    assert "complete already" in notices[0]
    assert (tmp_path / "out" / "p_text_document.idx").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="--overwrite"):
        tokenize(options(path, append_eod=True))
    tokenize(options(path, append_eod=True, overwrite=True))
    os.utime(path, ns=(1, 1))
    notices.clear()
    tokenize(options(path, append_eod=True), on_notice=notices.append)
    assert "comparing checksums" in notices[0], "touched, but not changed"
    assert "complete already" in notices[1]
    path.write_bytes(path.read_bytes().replace(b"row 1 ", b"row 2 "))
    with pytest.raises(OutputError, match=r"a.jsonl was modified since it was made"):
        tokenize(options(path, append_eod=True))
    with pytest.raises(OutputError, match=r"another command \(append_eod: True then, False now\)"):
        tokenize(options(path))


def test_work_of_another_command_is_not_gone_on_with(tmp_path: Path, options: Make) -> None:
    path = write_lines(tmp_path / "a.jsonl", rows(1500))
    tokenize(options(path, name="quiet"))
    stopped = 0

    def stop(_: object) -> None:
        nonlocal stopped
        stopped += 1
        if stopped == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(options(path, append_eod=True, log_interval=10), on_progress=stop)
    assert (tmp_path / "out" / "p.work" / "journal.jsonl").exists()
    tokenize(options(path))
    expected = files_of(tmp_path / "out" / "quiet_text_document")
    files = files_of(tmp_path / "out" / "p_text_document")
    assert {k: files[k] for k in (".bin", ".idx")} == {k: expected[k] for k in (".bin", ".idx")}
    assert not (tmp_path / "out" / "p.work").exists()
