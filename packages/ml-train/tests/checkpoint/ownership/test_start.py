"""Which checkpoint a start goes on from: the rule of docs/checkpoints.md, row by row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ml_train.checkpoint.directory import store
from ml_train.checkpoint.ownership.start import Start, decide
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError

SETTINGS = {
    "optimizer.lr": 1e-3,
    "training.seed": 1,
    "training.train_iters": 8,
    "checkpoint.load": None,
    "data.data_path": ("a", "b"),
}


def start(save: Path | None = None, changed: dict[str, Any] | None = None, **config: Any) -> Start:
    config = {name: str(value) for name, value in config.items()}
    if save is not None:
        config["save"] = str(save)
    return decide(CheckpointSection(**config), {**SETTINGS, **(changed or {})})


def write(directory: Path, iteration: int, run: Start | None) -> Path:
    """A checkpoint of a run as it would save it; of version 1.0.0 without a run."""
    partial = store.begin(directory, iteration)
    document: dict[str, Any] = {"run": {"iteration": iteration}}
    if run is not None:
        document["identity"] = run.identity.to_dict(store.next_save_number(directory))
    (partial / "run_state.json").write_text(json.dumps(document))
    folder = store.publish(partial)
    store.point_to(folder)
    return folder


def names(start: Start) -> list[str]:
    return [path.name for path in start.candidates]


@pytest.fixture
def used(tmp_path: Path) -> tuple[Path, Start]:
    """A directory with steps 2, 4 and 6 of a run, and that run."""
    save = tmp_path / "run"
    first = start(save)
    for step in (2, 4, 6):
        write(save, step, first)
    return save, first


def test_an_empty_save_is_a_fresh_start(tmp_path: Path) -> None:
    save = tmp_path / "new"
    assert start(save).candidates == () and start().candidates == ()
    fresh = start(save, load=save)
    assert fresh.candidates == () and "holds no checkpoint yet: starting from step 0" in fresh.note


def test_load_of_save_goes_on_with_its_run_however_it_is_written(
    used: tuple[Path, Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, first = used
    monkeypatch.chdir(save.parent)
    for load in (str(save), "run", "./run/", "run/../run", save / "iter_0000006"):
        again = start(save, {"optimizer.lr": 1.0}, load=load)
        assert again.own and names(again)[0] == "iter_0000006"
        assert again.identity.run_id == first.identity.run_id
    assert again.identity.settings["optimizer.lr"] == 1.0


def test_the_same_command_without_load_goes_on_and_another_is_refused(
    used: tuple[Path, Start],
) -> None:
    save, first = used
    again = start(save)
    assert again.own and names(again) == ["iter_0000006", "iter_0000004", "iter_0000002"]
    assert again.identity.run_id == first.identity.run_id
    with pytest.raises(CheckpointError) as error:
        start(save, {"training.seed": 2})
    for word in (str(save), "iter_0000006", "--seed", f"--load {save}", "another --save"):
        assert word in str(error.value)


def test_a_branch_is_a_new_run_and_what_it_writes_is_the_newest(used: tuple[Path, Start]) -> None:
    save, first = used
    branch = start(save, load=save / "iter_0000002")
    assert not branch.own and names(branch) == ["iter_0000002"]
    assert branch.identity.run_id != first.identity.run_id and "branches off" in branch.note
    # Killed before its first save, the same command begins there again.
    assert names(start(save, load=save / "iter_0000002")) == ["iter_0000002"]
    write(save, 3, branch)
    for load in (save, save / "iter_0000002"):
        again = start(save, load=load)
        assert again.own and again.identity.run_id == branch.identity.run_id
        # Behind its own it may go back to where it left the other run, and no further.
        assert names(again) == ["iter_0000003", "iter_0000002"]
    other = start(save, load=save / "iter_0000006")
    assert names(other) == ["iter_0000006"] and not other.own


def test_a_second_branch_from_the_same_step_with_other_settings_is_refused(
    used: tuple[Path, Start],
) -> None:
    save, _ = used
    load = save / "iter_0000002"
    write(save, 3, start(save, load=load))
    assert start(save, {"training.train_iters": 99}, load=load).own
    with pytest.raises(CheckpointError, match="iter_0000003 since, with other settings .--lr"):
        start(save, {"optimizer.lr": 1e-4}, load=load)


@pytest.mark.parametrize("flag", ["load", "pretrained_checkpoint"])
def test_weights_are_where_a_run_begins_and_the_same_command_goes_on(
    flag: str, tmp_path: Path
) -> None:
    weights, save = tmp_path / "weights", tmp_path / "run"
    write(weights, 2, None)
    first = start(save, **{flag: weights})
    assert names(first) == ["iter_0000002"] and not first.own
    assert first.weights_only == (flag == "pretrained_checkpoint")
    write(save, 1, first)
    again = start(save, {"training.train_iters": 99}, **{flag: f"{weights}/"})
    assert again.own and again.candidates == (store.folder_of(save, 1),)
    assert again.identity.run_id == first.identity.run_id
    elsewhere = tmp_path / "other"
    write(elsewhere, 7, None)
    with pytest.raises(CheckpointError, match="is not where it began"):
        start(save, **{flag: elsewhere})


def test_pretrained_weights_apply_only_without_a_checkpoint(tmp_path: Path) -> None:
    weights, save = tmp_path / "weights", tmp_path / "run"
    write(weights, 2, None)
    first = start(save, load=save, pretrained_checkpoint=weights)
    assert first.weights_only and first.candidates == (store.folder_of(weights, 2),)
    write(save, 1, first)
    again = start(save, load=save, pretrained_checkpoint=weights)
    assert again.own and not again.weights_only
    other = start(save, load=save, pretrained_checkpoint=tmp_path / "unknown")
    assert other.own and "--pretrained-checkpoint" in other.note and "is not used" in other.note
    assert start(load=tmp_path / "absent", pretrained_checkpoint=weights).weights_only
    with pytest.raises(CheckpointError, match="--pretrained-checkpoint .*does not exist"):
        start(tmp_path / "new", pretrained_checkpoint=tmp_path / "absent")


def test_load_of_nothing_is_an_error_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no checkpoint"):
        start(tmp_path / "run", load=tmp_path / "empty")
    with pytest.raises(CheckpointError, match="absent does not exist"):
        start(load=tmp_path / "absent")


def test_checkpoints_of_version_1_0_0_still_load(tmp_path: Path) -> None:
    save = tmp_path / "run"
    for step in (10, 4):
        write(save, step, None)
    again = start(save, load=save)
    assert again.own and names(again) == ["iter_0000010", "iter_0000004"]
    write(save, 12, again)
    later = start(save, load=save)
    assert later.identity.run_id == again.identity.run_id
    assert names(later) == ["iter_0000012", "iter_0000010", "iter_0000004"]
    with pytest.raises(CheckpointError, match="there is no --load"):
        start(tmp_path / "run", {"training.seed": 2})
    # Retention does not know whose the old ones are.
    run = again.identity.run_id
    assert store.apply_policy(save, keep_last=1, keep_every=None, run_id=run) == []
    write(save, 20, None)
    warned = start(save, load=save)
    assert names(warned)[0] == "iter_0000012" and "iter_0000020 says of no run" in warned.note


def test_a_pointer_that_is_torn_or_late_loses_nothing(used: tuple[Path, Start]) -> None:
    save, first = used
    assert (save / store.POINTER).read_text() == "6\n"
    write(save, 7, first)
    for content in (b"6\n", b"", b"\x00\xff", None):
        (save / store.POINTER).unlink(missing_ok=True)
        if content is not None:
            (save / store.POINTER).write_bytes(content)
        assert names(start(save, load=save))[0] == "iter_0000007"
    write(save, 8, first)
    assert (save / store.POINTER).read_text() == "8\n"


def test_killed_between_the_marker_and_the_name(used: tuple[Path, Start]) -> None:
    save, first = used
    write(save, 8, first)
    whole, partial = save / "iter_0000008", save / "iter_0000008.tmp"
    whole.rename(partial)
    (partial / "COMPLETE").touch()
    store.recover(save)
    assert whole.is_dir() and not partial.exists()
    whole.rename(partial)
    (partial / "COMPLETE").unlink()
    store.recover(save)
    assert not whole.exists(), "an unfinished save is no checkpoint"


def test_retention_deletes_neither_the_last_written_nor_another_runs(
    used: tuple[Path, Start],
) -> None:
    save, first = used
    branch = start(save, load=save / "iter_0000002")
    for step in (3, 4, 5):
        write(save, step, branch)
        run = branch.identity.run_id
        store.apply_policy(save, keep_last=1, keep_every=None, run_id=run)
    kept = sorted(path.name for path in save.glob("iter_*"))
    aside = f"iter_0000004.run-{first.identity.run_id[:8]}"
    assert kept == ["iter_0000002", aside, "iter_0000005", "iter_0000006"]
    # What was set aside can be named, and is a branch like any other.
    (save / aside / "metadata.json").touch()
    assert start(save, load=save / aside).identity.parent_iteration == 4


def test_a_copied_directory_keeps_its_order(used: tuple[Path, Start], tmp_path: Path) -> None:
    save, _ = used
    write(save, 3, start(save, load=save / "iter_0000002"))
    copy = shutil.copytree(save, tmp_path / "copy")
    assert names(start(copy, load=copy))[0] == "iter_0000003"
