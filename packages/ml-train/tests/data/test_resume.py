"""What a resume may change about its data: each row of the table in docs/checkpoints.md.

A document is one sequence here, filled with its own number, so a sequence says what was seen.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_loaders import SEQUENCE, firsts, loaders
from token_files import write_documents

from ml_train.config import flags
from ml_train.config.load import load_config
from ml_train.config.sections.data import DataSection
from ml_train.data.demand import demand_of, validation_position
from ml_train.errors import DataError

PAGE = Path(__file__).parents[4] / "docs" / "checkpoints.md"
SEEN = 24


class Files:
    """Token files of numbered documents in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, count: int, first: int = 0) -> str:
        rows = [[first + number] * SEQUENCE for number in range(count)]
        return write_documents(self.folder / name, rows)


def data(*words: str, **changes: Any) -> DataSection:
    return DataSection(**{"data_path": words, "split": "1,0,0", **changes})


class Run:
    """A run of 40 planned sequences that stopped after SEEN of them."""

    def __init__(self, config: DataSection, **changes: Any):
        self.config = config
        first = loaders(config, samples=(40, 0, 0), **changes)
        self.seen = firsts(first.train, SEEN)
        self.state = json.loads(json.dumps(first.state(3)))
        self.consumed = SEEN
        self.told: list[str] = []

    def resume(self, config: DataSection | None = None, *, total: int = 40, **changes: Any) -> Any:
        self.told = []
        self.last = loaders(
            config or self.config,
            samples=(total, 0, 0),
            consumed=self.consumed,
            saved=self.state,
            say=self.told.append,
            warn=self.told.append,
            **changes,
        )
        return self.last.train

    def stop(self, after: int) -> None:
        """The run goes on from here next time."""
        self.consumed += after
        self.state = json.loads(json.dumps(self.last.state(9)))

    @property
    def words(self) -> str:
        """What was said about the change."""
        return "\n".join(text for text in self.told if "epochs (" not in text)


def batch_size(files: Files) -> None:
    run = Run(data(files.write("a", 100)))
    whole = run.seen + firsts(run.resume(), 16)
    assert run.words == ""
    # 4 steps are left, and take 6 each: 3 past the first global batch's bounds, too.
    rest = firsts(run.resume(total=SEEN + 24, global_batch_size=6), 24)
    assert rest[:16] == whole[SEEN:]
    assert len({*run.seen, *rest}) == 48
    assert "the global batch size is 6 and was 8: the data goes on after 24 sequences" in run.words
    ranks = [run.resume(dp_rank=rank, dp_size=2, global_batch_size=4) for rank in (0, 1)]
    assert [row for _ in range(4) for part in ranks for row in firsts(part, 2)] == whole[SEEN:]
    odd = firsts(run.resume(micro_batch_size=1, global_batch_size=3), 16)
    assert odd == whole[SEEN:]


def longer(files: Files) -> None:
    config = data(files.write("a", 64))
    run = Run(config)
    rest = firsts(run.resume(total=150), 126)
    # 64 documents make 63 sequences an epoch.
    assert len({*run.seen, *rest[: 63 - SEEN]}) == 63
    assert "the run is longer than at its start; after 63 sequences" in run.words
    second = rest[63 - SEEN : 63 - SEEN + 64]
    assert len(set(second)) >= 62
    # Stopped in the second leg, and extended once more.
    run.stop(60)
    assert firsts(run.resume(total=150), 66) == rest[60:126]
    assert run.words == ""
    further = firsts(run.resume(total=400), 66)
    assert further == rest[60:126]
    # Extended inside the first epoch, nothing is to be said.
    run = Run(config)
    assert firsts(run.resume(total=60), 36) == rest[:36]
    assert run.words == ""


def shorter(files: Files) -> None:
    run = Run(data(files.write("a", 30)))
    rest = firsts(run.resume(), 16)
    assert firsts(run.resume(total=32), 8) == rest[:8]
    run.stop(8)
    assert firsts(run.resume(total=40), 8) == rest[8:]
    assert run.words == ""


def moved(files: Files) -> None:
    run = Run(data(files.write("a", 100)))
    rest = firsts(run.resume(), 16)
    there = files.write("elsewhere/b", 100)
    assert firsts(run.resume(data(there)), 16) == rest
    assert run.words == ""


def file_added(files: Files) -> None:
    first, second = files.write("a", 100), files.write("b", 100, first=1000)
    run = Run(data(first))
    rest = firsts(run.resume(data("1", first, "3", second), total=SEEN + 40), 40)
    assert len({*run.seen, *rest}) == SEEN + 40
    assert sum(row >= 1000 for row in rest) == 30
    assert f"{second} is new and begins at its first sequence" in run.words
    # The new blend is the run's from here on.
    run.stop(8)
    assert firsts(run.resume(data("1", first, "3", second), total=SEEN + 40), 32) == rest[8:]
    assert run.words == ""


def file_left_out(files: Files) -> None:
    first, second = files.write("a", 100), files.write("b", 100, first=1000)
    both = data("1", first, "1", second)
    run = Run(both)
    seen = {*run.seen, *firsts(run.resume(data(first), total=SEEN + 16), 16)}
    assert len(seen) == SEEN + 16
    assert f"{second} is left out from now on" in run.words
    run.stop(16)
    # It comes back, and goes on where it stood.
    seen |= set(firsts(run.resume(both, total=SEEN + 48), 32))
    assert len(seen) == SEEN + 48
    assert "each file goes on with sequences that were not seen yet" in run.words


def weights(files: Files) -> None:
    first, second = files.write("a", 100), files.write("b", 100, first=1000)
    run = Run(data("1", first, "1", second))
    rest = firsts(run.resume(data("1", first, "3", second), total=SEEN + 40), 40)
    assert len({*run.seen, *rest}) == SEEN + 40
    assert sum(row >= 1000 for row in rest) == 30
    assert "the blend changes after 24 sequences" in run.words
    # Other numbers for the same shares are the same blend.
    firsts(run.resume(data("2", first, "2", second)), 16)
    assert run.words == ""


def refused(run: Run, words: str, config: DataSection | None = None, **changes: Any) -> list[int]:
    """The first sequences of the new order, which --new-data-order allows."""
    config = config or run.config
    with pytest.raises(DataError, match=words) as caught:
        run.resume(config, **changes)
    assert "accept the repetition with --new-data-order" in str(caught.value)
    allowed = dataclasses.replace(config, new_data_order=True)
    rows = firsts(run.resume(allowed, total=80, **changes), 16)
    assert re.search(words.split(".*")[0], run.words)
    # Once accepted, the flag may stay in the command: the run goes on.
    run.stop(8)
    assert firsts(run.resume(allowed, total=80, **changes), 8) == rows[8:]
    assert run.words == ""
    return rows


def seed(files: Files) -> None:
    run = Run(data(files.write("a", 100)))
    refused(run, "--seed is 8 and was 7.*Go back to --seed 7, or", seed=8)


def split(files: Files) -> None:
    prefix = files.write("a", 100)
    run = Run(data(prefix, split="8,2,0"))
    words = "--split takes the documents 0 to 49 of .* and took 0 to 79"
    assert max(refused(run, words, data(prefix, split="1,1,0"))) < 50
    # Other numbers for the same documents are the same split.
    run = Run(data(prefix, split="8,2,0"))
    run.resume(data(prefix, split="80,20"))
    assert run.words == ""
    run = Run(data(prefix, split="8,2,0"))
    refused(run, "--split takes the documents 0 to 99", DataSection(train_data_path=(prefix,)))


def sequence_length(files: Files) -> None:
    run = Run(data(files.write("a", 100)))
    words = "--seq-length is 32 and was 16.*Go back to --seq-length 16, or"
    refused(run, words, sequence_length=32)


def changed_file(files: Files) -> None:
    other = files.write("b", 100, first=1000)
    for count, first in ((120, 0), (100, 1)):
        # Grown by appending; made again with as many documents.
        prefix = files.write("a", 100)
        run = Run(data("1", prefix, "1", other))
        files.write("a", count, first=first)
        refused(run, f"the data of {prefix} has changed")


def replaced_file(files: Files) -> None:
    first, second = files.write("a", 100), files.write("b", 100, first=1000)
    run = Run(data(first))
    words = f"the data is {second} in place of {first}.*Go back to {first}, or"
    rows = refused(run, words, data(second))
    assert min(rows) >= 1000
    # A run that has seen nothing yet may change everything.
    run = Run(data(first))
    run.consumed = 0
    assert min(firsts(run.resume(data(second), seed=9), 8)) >= 1000


def validation_rounds(files: Files) -> None:
    config = data(files.write("a", 400), split="1,1,0")
    told: list[str] = []

    def valid(iteration: int, saved: Any, total_iters: int, *words: str) -> tuple[Any, Any]:
        given = ["--train-iters", str(total_iters), "--global-batch-size", "8", *words]
        run = load_config(flags.parse(["--recipe", "grok1-tiny", *given])).config
        position = validation_position(run, 8, iteration, saved)
        wanted = demand_of(run, 8, iteration=iteration, consumed=8 * iteration, validation=position)
        built = loaders(
            config, samples=wanted.total, consumed=wanted.consumed[0],
            consumed_valid=wanted.consumed[1], saved=saved, say=told.append, warn=told.append,
            validation=position,
        )  # fmt: skip
        return built, built.valid

    rounds = ("--eval-interval", "2", "--eval-iters", "1")
    built, stream = valid(0, None, 6, *rounds)
    whole = firsts(stream, 32)
    state = json.loads(json.dumps(built.state(4)))
    assert firsts(valid(4, state, 6, *rounds)[1], 8) == whole[16:24]
    # More steps, and another interval, number of batches and length.
    _, stream = valid(4, state, 100, "--eval-interval", "3", "--eval-iters", "2")
    later = firsts(stream, 150)
    assert later[:16] == whole[16:]
    assert len({*whole[:16], *later}) == 166
    # They are not begun anew after a start without any.
    told.clear()
    built, stream = valid(4, state, 20, "--eval-iters", "0")
    assert stream is None and not [text for text in told if "valid data" in text]
    state = json.loads(json.dumps(built.state(8)))
    assert firsts(valid(8, state, 100, *rounds)[1], 8) == whole[16:24]


def validation_data(files: Files) -> None:
    train, valid, other = (files.write(name, 100, n * 1000) for n, name in enumerate("abc"))
    first = DataSection(train_data_path=(train,), valid_data_path=(valid,))
    run = Run(first)
    state = loaders(first, samples=(40, 8, 0)).state(3)
    told: list[str] = []
    second = DataSection(train_data_path=(train,), valid_data_path=(other,))
    built = loaders(
        second, samples=(40, 16, 0), consumed=SEEN, consumed_valid=8, saved=state, warn=told.append
    )
    assert len({*run.seen, *firsts(built.train, 16)}) == 40
    assert min(firsts(built.valid, 8)) >= 2000
    assert any(f"valid data: the data is {other} in place of {valid}" in text for text in told)


def version_1(files: Files) -> None:
    config = data(files.write("a", 30))
    run = Run(config)
    rest = firsts(run.resume(), 16)
    run.state = None
    assert firsts(run.resume(begun_with=(40, 0, 0)), 16) == rest
    assert "the checkpoint is of ml-train 1.0" in run.words
    # Half the batch: the length at the start follows from the samples and steps so far.
    given = ["--train-iters", "5", "--global-batch-size", "4"]
    now = load_config(flags.parse(["--recipe", "grok1-tiny", *given])).config
    wanted = demand_of(now, 4, iteration=3, consumed=24)
    assert wanted.total[0] == 32 and wanted.begun_with[0] == 40
    assert firsts(run.resume(total=32, begun_with=wanted.begun_with), 8) == rest[:8]


def mock_data(files: Files) -> None:
    prefix = files.write("a", 100)
    run = Run(data(prefix))
    rest = firsts(run.resume(), 16)
    run.resume(DataSection(mock_data=True), total=80)
    assert f"{prefix} is left out from now on" in run.words
    run.stop(8)
    assert firsts(run.resume(total=80), 16) == rest
    assert f"{prefix} is new" not in run.words


ROWS: dict[str, Callable[[Files], None]] = {
    "`--global-batch-size`, `--micro-batch-size`, number of processes": batch_size,
    "`--train-iters` raised": longer,
    "`--train-iters` lowered": shorter,
    "path of the files": moved,
    "a file added to the blend": file_added,
    "a file left out of the blend": file_left_out,
    "weights of the blend": weights,
    "`--seed`": seed,
    "`--split`": split,
    "`--seq-length`": sequence_length,
    "content of a file: made again, or grown": changed_file,
    "a file in place of another": replaced_file,
    "`--eval-interval`, `--eval-iters`": validation_rounds,
    "`--valid-data-path`": validation_data,
    "`--mock-data`": mock_data,
    "ml-train itself, from 1.0": version_1,
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table(row: str, tmp_path: Path) -> None:
    ROWS[row](Files(tmp_path))


def test_the_table_has_these_rows() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("| changed in the data |")[2]
    lines = section.partition("\n\n")[0].splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(ROWS)


def test_a_state_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    run = Run(data(Files(tmp_path).write("a", 100)))
    run.state["orders"]["train"]["parts"][0].pop("seed")
    with pytest.raises(DataError, match="data order cannot be read .* another checkpoint"):
        run.resume()
    run.state["format"] = 99
    with pytest.raises(DataError, match="has format 99, newer than this ml-train reads"):
        run.resume()


def test_a_rollback_beyond_the_plan_takes_unseen_sequences(tmp_path: Path) -> None:
    config = data(Files(tmp_path).write("a", 64))
    built = loaders(config, samples=(56, 0, 0))
    seen = firsts(built.train, 56)
    # 4 steps are done again with other data: 32 sequences more than planned.
    built.go_back(3, consumed=56, total=88)
    rest = firsts(built.train, 32)
    assert len({*seen, *rest[:7]}) == 63
    # A checkpoint of that moment resumes with the same data.
    state = json.loads(json.dumps(built.state(3)))
    again = loaders(config, samples=(88, 0, 0), consumed=64, saved=state)
    assert firsts(again.train, 24) == rest[8:]
