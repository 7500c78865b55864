"""The directory of checkpoints, without processes."""

from pathlib import Path

import pytest

from ml_train.checkpoint import integrity, store


def make(directory: Path, *steps: int) -> None:
    for step in steps:
        folder = store.folder_of(directory, step)
        folder.mkdir(parents=True)
        (folder / "file").write_text(str(step))


def steps(directory: Path) -> list[int]:
    return [int(path.name[5:]) for path in store.checkpoints(directory)]


def test_newest_first_and_strangers_ignored(tmp_path: Path) -> None:
    make(tmp_path, 10, 20, 9)
    for name in ("iter_0000030.tmp", "iter_x", "tensorboard"):
        (tmp_path / name).mkdir()
    assert steps(tmp_path) == [20, 10, 9]
    assert steps(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "left"),
    [
        (None, None, [50, 40, 30, 20, 10]),
        (2, None, [50, 40]),
        (1, 20, [50, 40, 20]),
        (9, 20, [50, 40, 30, 20, 10]),
    ],
)
def test_policy(
    tmp_path: Path, keep_last: int | None, keep_every: int | None, left: list[int]
) -> None:
    make(tmp_path, 10, 20, 30, 40, 50)
    store.apply_policy(tmp_path, keep_last=keep_last, keep_every=keep_every)
    assert steps(tmp_path) == left
    assert len(list(tmp_path.iterdir())) == len(left)


def test_what_dead_processes_left_goes(tmp_path: Path) -> None:
    make(tmp_path, 10)
    (tmp_path / "iter_0000020.tmp").mkdir()
    partial = store.begin(tmp_path, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000010", "iter_0000030.tmp"]
    assert store.publish(partial) == store.folder_of(tmp_path, 30)


def test_a_step_saved_twice_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, 10)
    partial = store.begin(tmp_path, 10)
    (partial / "file").write_text("new")
    store.publish(partial)
    assert (store.folder_of(tmp_path, 10) / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["iter_0000010"]


def test_death_between_the_two_renames(tmp_path: Path) -> None:
    make(tmp_path, 10)
    partial = store.begin(tmp_path, 10)
    store.folder_of(tmp_path, 10).rename(tmp_path / "iter_0000010.old")
    store.recover(tmp_path)
    assert steps(tmp_path) == [10]
    assert partial.is_dir()


@pytest.mark.parametrize("kind", ["file per rank", "distributed"])
def test_megatrons_checkpoints_say_what_to_do(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "iter_0005000"
    folder.mkdir()
    if kind == "distributed":
        (folder / ".metadata").write_bytes(b"")
    else:
        (folder / "mp_rank_00_000").mkdir()
    (found,) = integrity.faults(folder, checksums=True)
    assert "ml-models convert --from megatron" in found and "--no-load-optim" in found
