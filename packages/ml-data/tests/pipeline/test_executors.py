"""Worker processes: all of them are used, one that dies ends the run, limits are reported."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ml_data.documents.batch import Batch, Position, Segment
from ml_data.errors import InputError, OutputError, WorkerError
from ml_data.pipeline.encode import EncodedBatch
from ml_data.pipeline.executors import LocalExecutor
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of, write_lines, write_parquet

Make = Callable[..., TokenizeOptions]


@pytest.mark.parametrize("engine", ["auto", "sentencepiece"])
def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, options: Make, sample: Path, engine: str
) -> None:
    tokenize(options(sample, name="one", engine=engine))
    tokenize(options(sample, name="four", engine=engine, workers=4))
    alone, four = (files_of(tmp_path / "out" / f"{name}_text_document") for name in ("one", "four"))
    assert {s: alone[s] for s in (".bin", ".idx")} == {s: four[s] for s in (".bin", ".idx")}
    assert alone[".json"].replace(b"one_", b"four_") == four[".json"]


def test_one_row_group_feeds_every_worker(tmp_path: Path) -> None:
    from ml_data.documents.read import read_source
    from ml_data.documents.sources import resolve

    path = write_parquet(tmp_path / "a.parquet", {"text": ["some text"] * 9000})
    barrier = threading.Barrier(4, timeout=30)

    class Waits:
        def encode(self, batch: Batch) -> list[EncodedBatch]:
            if batch.first_row in first_rows:
                barrier.wait()
            return []

        def close(self) -> None:
            pass

    (source,) = resolve([str(path)]).sources
    batches = list(read_source(source, Segment(file=0, start=Position()), ["text"], 4096))
    assert len(batches) > 4
    first_rows = {batch.first_row for batch in batches[:4]}
    executor = LocalExecutor(Waits, 4)
    assert [batch.first_row for batch, _ in executor.run(iter(batches))] == [
        batch.first_row for batch in batches
    ]


def test_the_reader_waits_for_the_workers() -> None:
    taken = 0

    def batches() -> object:
        nonlocal taken
        for index in range(100):
            taken += 1
            yield Batch(source="x", first_row=index, num_rows=1, lines=b"", end=Position())

    release = threading.Event()

    class Blocks:
        def encode(self, _: Batch) -> list[EncodedBatch]:
            release.wait(30)
            return []

        def close(self) -> None:
            pass

    results = LocalExecutor(Blocks, 2).run(batches())  # type: ignore[arg-type]
    reader = threading.Thread(target=lambda: next(results))
    reader.start()
    time.sleep(0.3)
    assert taken <= 8
    release.set()
    reader.join()
    assert len(list(results)) == 99


@pytest.mark.parametrize("workers", [1, 3])
def test_a_slow_reader_leaves_no_finished_results_alive(workers: int) -> None:
    made: list[weakref.ref[EncodedBatch]] = []
    lock = threading.Lock()

    class Makes:
        def encode(self, _: Batch) -> list[EncodedBatch]:
            result = EncodedBatch(ids=np.zeros(9, np.int32), lengths=np.array([9], np.int32))
            with lock:
                made.append(weakref.ref(result))
            return [result]

        def close(self) -> None:
            pass

    def slow_reader() -> Iterator[Batch]:
        for index in range(100):
            deadline = time.monotonic() + 30
            while len(made) < index and time.monotonic() < deadline:  # every batch is encoded
                time.sleep(0.0005)
            yield Batch(source="x", first_row=index, num_rows=1, lines=b"", end=Position())

    most = count = 0
    for _ in LocalExecutor(Makes, workers).run(slow_reader()):
        count += 1
        most = max(most, sum(result() is not None for result in made))
    assert count == 100
    assert most <= 2 * workers + 4


def test_a_later_batch_that_fails_ends_the_wait_for_the_oldest() -> None:
    release = threading.Event()

    class FailsLater:
        def encode(self, batch: Batch) -> list[EncodedBatch]:
            if batch.first_row == 0:
                release.wait(30)
            if batch.first_row == 2:
                raise InputError("batch 2")
            return []

        def close(self) -> None:
            release.set()

    batches = [
        Batch(source="x", first_row=index, num_rows=1, lines=b"", end=Position())
        for index in range(20)
    ]
    with pytest.raises(InputError, match="batch 2"):
        next(LocalExecutor(FailsLater, 2).run(iter(batches)))


def test_a_dead_worker_ends_the_run_and_is_named(tmp_path: Path, options: Make) -> None:
    rows = [{"text": f"row {index} " + "hello there " * 40} for index in range(4000)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    tokenize(options(path, name="quiet", shard_bytes=65536, engine="sentencepiece"))
    made = options(path, workers=2, shard_bytes=65536, engine="sentencepiece", log_interval=500)
    killed: list[int] = []
    before = set(psutil.Process().children())  # other tests may have left a resource tracker

    def kill_one(_: object) -> None:
        if not killed:
            (worker, *_) = set(psutil.Process().children()) - before
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(WorkerError, match=r"killed by SIGKILL.*shard \d+: .*a\.jsonl, rows \d+ to"):
        tokenize(made, on_progress=kill_one)
    assert killed
    assert not set(psutil.Process().children()) - before
    assert not (tmp_path / "out" / "p_text_document.idx").exists()
    notices: list[str] = []
    tokenize(made, on_notice=notices.append)
    assert "going on after shard" in notices[0]
    quiet, resumed = (files_of(tmp_path / "out" / f"{n}_text_document") for n in ("quiet", "p"))
    assert {s: quiet[s] for s in (".bin", ".idx")} == {s: resumed[s] for s in (".bin", ".idx")}


def test_an_error_in_a_worker_process_keeps_its_kind(
    tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_data.errors import TokenizerError
    from ml_data.pipeline import plan

    path = write_lines(tmp_path / "a.jsonl", [{"text": "hello there " * 99}] * 300)
    monkeypatch.setattr(plan, "best_dtype", lambda _: np.dtype("<u2"))
    with pytest.raises(TokenizerError, match="do not fit uint16"):
        tokenize(
            options(
                write_lines(tmp_path / "b.jsonl", [{"text": "\u4f60\u597d\n" * 50}] * 300),
                workers=2,
                engine="sentencepiece",
            )
        )
    assert path.exists()


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, sample: Path, tokenizer_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "ml_data.cli", "tokenize", "--input", str(sample)),
        *("--tokenizer-name-or-path", str(tokenizer_path)),
        *("--output-prefix", str(tmp_path / "out" / "p"), "--workers", "1"),
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=60)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("p_*"))


def test_no_space_and_read_only_folders_are_reported(
    tmp_path: Path, options: Make, sample: Path
) -> None:
    with pytest.raises(OutputError, match="cannot write /sys/"):
        tokenize(options(sample, output_prefix="/sys/ml_data/p"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        tokenize(options(sample, output_prefix=str(tmp_path / "file" / "p")))
    if os.path.exists("/dev/full"):
        from ml_data.indexed.files import reporting_output

        with pytest.raises(OutputError, match="the disk is full"):
            with reporting_output("p.bin"), open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")


def test_two_runs_at_once_do_not_mix(options: Make, sample: Path) -> None:
    def again(tick: object) -> None:
        with pytest.raises(OutputError, match="in use by another run"):
            tokenize(options(sample))
        seen.append(tick)

    seen: list[object] = []
    tokenize(options(sample, log_interval=100), on_progress=again)
    assert seen


def peak_mib(*inputs: Path, tokenizer: Path, prefix: Path) -> float:
    """Peak memory of a whole run in a process of its own.

    getrusage(2) is not asked: what it gives in a new process begins with its parent's memory.
    """
    code = (
        "import sys; from ml_data.cli import main; code = main(sys.argv[1:]); "
        "status = open('/proc/self/status').read(); "
        "print(int(status.split('VmHWM:')[1].split()[0]) / 1024); sys.exit(code)"
    )
    command = [
        *(sys.executable, "-c", code, "tokenize", "--input", *map(str, inputs)),
        *("--tokenizer-name-or-path", str(tokenizer), "--output-prefix", str(prefix)),
        *("--workers", "2", "--batch-bytes", "65536"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_files_or_bytes(tmp_path: Path, tokenizer_path: Path) -> None:
    text = [f"line {index} of a longer text " * 8 for index in range(8000)]
    for name in range(8):
        write_parquet(tmp_path / f"{name}.parquet", {"text": text}, compression="zstd")
    files = sorted(tmp_path.glob("*.parquet"))
    single = peak_mib(files[0], tokenizer=tokenizer_path, prefix=tmp_path / "one")
    many = peak_mib(*files, tokenizer=tokenizer_path, prefix=tmp_path / "many")
    assert many < single + 48
