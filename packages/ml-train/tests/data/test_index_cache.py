"""Sample indexes belong to the content of the data: built once, never taken for other data."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from small_loaders import firsts, loaders, request
from token_files import write_documents, write_tokens

from ml_train.config.sections.data import DataSection
from ml_train.data import index_cache
from ml_train.data.files import read_token_files
from ml_train.data.index_cache import (
    build_pieces,
    from_json,
    name_of,
    pieces_of,
    read_stamps,
    to_json,
)
from ml_train.data.order import Order
from ml_train.data.selection import selected_parts
from ml_train.errors import DataError

LENGTHS = [17, 40, 3, 25, 60, 9, 31, 12] * 5


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write_tokens(tmp_path / "tokens", lengths=LENGTHS)


def config(*prefixes: str, **changes) -> DataSection:
    return DataSection(data_path=prefixes, split="1,0,0", **changes)


def wanted(data: DataSection, samples: int = 64, **changes) -> list[index_cache.Piece]:
    (parts, _, _) = selected_parts(request(data, samples=(samples, 0, 0), **changes))
    return pieces_of(Order.start(parts, samples), samples)


def times(cache: Path) -> dict[str, int]:
    files = [path for path in cache.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_indexes_are_built_once_and_again_when_damaged(prefix: str) -> None:
    cache = Path(prefix).parent / "index_cache"
    rows = firsts(loaders(config(prefix)).train, 64)
    leg_pieces = wanted(config(prefix))
    assert from_json(to_json(leg_pieces)) == leg_pieces
    files = read_stamps(leg_pieces, cache)
    assert files is not None and len(files) == 4
    before = times(cache)
    assert not [name for name in before if "tmp" in Path(name).name or "building" in name]
    assert firsts(loaders(config(prefix)).train, 64) == rows
    assert times(cache) == before
    damaged = next(cache / name for name in files if name.endswith(".npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read_stamps(leg_pieces, cache) is None
    assert firsts(loaders(config(prefix)).train, 64) == rows
    assert read_stamps(leg_pieces, cache) == files
    (cache / name_of(leg_pieces[0]) / "ready.json").write_text('{"files": 3}')
    assert firsts(loaders(config(prefix)).train, 64) == rows


@pytest.mark.parametrize("order", ["reversed", "swapped"])
def test_data_made_again_at_the_same_prefix_meets_no_old_index(tmp_path: Path, order: str) -> None:
    documents = [[100 * n + k for k in range(length)] for n, length in enumerate(LENGTHS, 1)]
    other = documents[::-1]
    if order == "swapped":
        # As many documents and tokens as before, and all sizes the same.
        other = [*documents]
        other[0], other[4] = other[4], other[0]
    old = write_documents(tmp_path / "old", documents)
    firsts(loaders(config(old)).train, 64)
    write_documents(Path(old), other)
    fresh = write_documents(tmp_path / "new" / "fresh", other)
    assert firsts(loaders(config(old)).train, 64) == firsts(loaders(config(fresh)).train, 64)
    # And the first data has its own again.
    write_documents(Path(old), documents)
    before = times(tmp_path / "index_cache")
    loaders(config(old))
    assert times(tmp_path / "index_cache") == before


def test_what_decides_the_arrays_decides_the_name(tmp_path: Path, prefix: str) -> None:
    data = config(prefix)
    first = wanted(data)
    others = [wanted(data, seed=8), wanted(data, sequence_length=8), wanted(data, samples=80)]
    others.append(wanted(DataSection(data_path=(prefix,), split="9,1")))
    assert len({name_of(piece[0]) for piece in [first, *others]}) == 5
    # The same content elsewhere has the same indexes.
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    for suffix in (".bin", ".idx"):
        shutil.copy(prefix + suffix, f"{moved}{suffix}")
    assert [name_of(piece) for piece in wanted(config(str(moved)))] == [name_of(p) for p in first]
    content = read_token_files(prefix).idx_sha256
    write_tokens(Path(prefix), lengths=[*LENGTHS[:-2], LENGTHS[-1], LENGTHS[-2]])
    assert read_token_files(prefix).idx_sha256 != content
    assert name_of(wanted(data)[0]) != name_of(first[0])


def test_runs_that_share_a_cache_share_equal_pieces(tmp_path: Path, prefix: str) -> None:
    other = write_tokens(tmp_path / "other", lengths=[40] * 30, first=5000)
    cache = tmp_path / "index_cache"
    loaders(config("1", prefix, "1", other))
    folders = set(cache.iterdir())
    assert len(folders) == 3
    loaders(config("1", prefix, "1", other), seed=8)
    assert len(set(cache.iterdir())) == 5  # the index of the blend has no seed
    assert folders < set(cache.iterdir())


def test_a_cache_that_is_whole_needs_no_permission_to_write(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = firsts(loaders(config(prefix)).train, 64)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(index_cache, "_build", lambda *_: pytest.fail("something was built"))
    assert firsts(loaders(config(prefix)).train, 64) == rows
    with pytest.raises(DataError, match="no permission. Choose another directory"):
        loaders(config(prefix), seed=8)


def test_two_builders_at_once_leave_one_whole_piece(prefix: str, tmp_path: Path) -> None:
    leg_pieces, cache = wanted(config(prefix)), tmp_path / "cache"
    computed = threading.Barrier(2, timeout=60)
    compute = index_cache._compute

    def at_the_same_time(piece, folder) -> None:
        compute(piece, folder)
        computed.wait()

    threads = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_cache, "_compute", at_the_same_time)
        for _ in range(2):
            threads.append(threading.Thread(target=build_pieces, args=(leg_pieces, cache)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    assert read_stamps(leg_pieces, cache) is not None
    assert [path.name for path in cache.iterdir()] == [name_of(leg_pieces[0])]


def test_a_failed_build_leaves_nothing_and_is_one_sentence(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_piece, folder) -> None:
        (folder / "half.npy").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_cache, "_compute", fail)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"cannot be built in .*No space left on device"):
        loaders(config(prefix, data_cache_path=str(cache)))
    assert list(cache.iterdir()) == []


def test_indexes_can_be_built_ahead_of_the_run(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from ml_train import terminal
    from ml_train.commands import index
    from ml_train.config.flags import FlagParser, parse
    from ml_train.config.load import load_config
    from ml_train.data.demand import demand_of
    from ml_train.errors import ConfigError

    flags = ["--recipe", "grok1-tiny", "--seq-length", "16", "--data-path", prefix]
    flags += ["--eval-iters", "1", "--eval-interval", "5", "--split", "8,2"]
    parser = FlagParser("ml-train index", "")
    index.add_arguments(parser)
    with terminal.speaking():
        assert index.run(parser.parse_args(flags)) == 0
    shown = capsys.readouterr()
    assert "are now in" in shown.out and f"valid data: {prefix}: " in shown.err
    run = load_config(parse(flags)).config
    wanted = demand_of(run, 8)
    assert wanted.total == wanted.begun_with == (160, 40, 0)
    cache = Path(prefix).parent / "index_cache"
    before = times(cache)
    loaders(run.data, samples=wanted.total, seed=run.training.seed, vocab_size=131_072)
    assert times(cache) == before
    assert index.run(parser.parse_args(flags)) == 0
    assert " were in " in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--global-batch-size is unset"):
        index.run(parser.parse_args(["--data-path", prefix]))
    with pytest.raises(ConfigError, match="--mock-data reads no files"):
        index.run(parser.parse_args(["--recipe", "grok1-tiny", "--mock-data"]))


def test_indexes_of_a_resume_are_built_ahead_too(prefix: str, tmp_path: Path) -> None:
    from ml_train.commands import index
    from ml_train.config.flags import FlagParser

    data, cache = config(prefix), Path(prefix).parent / "index_cache"
    state = loaders(data).state(8)
    folder = tmp_path / "run" / "iter_0000008"
    folder.mkdir(parents=True)
    run = {"iteration": 8, "consumed_samples": 64, "data": state}
    (folder / "run_state.json").write_text(json.dumps({"format": 1, "run": run}))
    before = len(list(cache.iterdir()))
    flags = ["--recipe", "grok1-tiny", "--seq-length", "16", "--data-path", prefix, "--seed", "7"]
    flags += ["--split", "1,0,0", "--train-iters", "40", "--load", str(tmp_path / "run")]
    parser = FlagParser("ml-train index", "")
    index.add_arguments(parser)
    assert index.run(parser.parse_args(flags)) == 0
    assert len(list(cache.iterdir())) == before + 1
    built = times(cache)
    longer = loaders(data, samples=(320, 0, 0), consumed=64, saved=state, vocab_size=131_072)
    assert len(longer.orders[0].parts[0].legs) == 2
    assert times(cache) == built
