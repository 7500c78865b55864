"""Folders that cannot be written or are too small, and checkpoints that a run cannot begin with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from rehearsed import cluster, findings, one_error, words_of

from ml_models.files.integrity import write_integrity
from ml_models.megatron_core import differences
from ml_train.checkpoint.ownership.lock import SaveLock
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.planning.legality import layout_of
from ml_train.planning.plan import checkpoint_bytes
from ml_train.rehearsal.storage import most_at_once, save_steps


def with_free_bytes(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    """Let every folder have so much room."""
    usage = shutil.disk_usage("/")
    small = usage._replace(free=int(number))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)


def checkpoint_size(words: list[str]) -> int:
    """Bytes of a checkpoint of the job."""
    run = load_config(parse(words))
    return checkpoint_bytes(run.config, run.model, layout_of(run.config, run.model, 8))


def test_a_save_folder_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps 4, 8 and 10 two are kept, and the third is written before one is deleted."""
    words = words_of(tmp_path)
    size = checkpoint_size(words)
    with_free_bytes(monkeypatch, 3 * size + 1)
    assert findings(words, "storage") == []
    with_free_bytes(monkeypatch, 3 * size - 1)
    one_error(findings(words, "storage"), "up to 3 checkpoints", "--keep-last")


@pytest.mark.parametrize(
    ("interval", "first", "last", "steps"),
    [
        (4, 0, 10, [4, 8, 10]),
        (5, 0, 10, [5, 10]),
        (None, 0, 10, [10]),
        (4, 8, 10, [10]),
        (4, 7, 10, [8, 10]),
        (4, 10, 10, []),
        (20, 0, 10, [10]),
        (4, 0, 0, []),
    ],
)
def test_steps_that_are_saved(
    interval: int | None, first: int, last: int, steps: list[int]
) -> None:
    assert save_steps(interval, first, last) == steps


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "most"), [(None, None, 10), (1, None, 2), (3, None, 4), (1, 5, 4)]
)
def test_checkpoints_on_the_disk_at_a_time(
    keep_last: int | None, keep_every: int | None, most: int
) -> None:
    section = CheckpointSection(keep_last=keep_last, keep_every=keep_every)
    # With --keep-every 5: 5 and 10 stay, and 9 until 10 is whole.
    assert most_at_once(list(range(1, 11)), section) in (most, most - 1)


def test_a_save_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(tmp_path)
    at = words.index("--save") + 1
    (tmp_path / "file").write_text("")
    words[at] = str(tmp_path / "file")
    one_error(findings(words, "storage"), "--save", "is a file")
    words[at] = "/proc/absent/save"
    one_error(findings(words, "storage"), "--save", "keeps no files")
    words[at] = str(tmp_path / ("x" * 300))
    one_error(findings(words, "storage"), "--save", "File name too long")
    words[at] = str(tmp_path / "save")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    one_error(findings(words, "storage"), "--save", "cannot be written by this user")


@pytest.mark.parametrize("flag", ["--tensorboard-dir", "--metrics-file", "--router-logits-dir"])
def test_logs_that_cannot_be_written(tmp_path: Path, flag: str) -> None:
    (tmp_path / "file").write_text("")
    words = words_of(tmp_path, flag, str(tmp_path / "file" / "logs"))
    one_error(findings(words, "storage"), flag, "is a file")


def test_a_save_folder_in_which_another_job_writes(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    lock = SaveLock(tmp_path / "save", say=lambda _: None)
    lock.acquire()
    try:
        one_error(findings(words, "storage"), "is in use by another job", f"pid {os.getpid()}")
    finally:
        lock.release()
    assert findings(words, "storage") == []


def test_the_mark_of_a_job_on_another_machine_is_a_warning(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    (tmp_path / "save").mkdir()
    mark = {"host": "node7", "pid": 1, "created": 1.0, "machine": "other", "token": "t"}
    (tmp_path / "save" / "in_use.json").write_text(json.dumps(mark))
    said = findings(words, "storage")
    assert [item.severity for item in said] == ["warning"] and "node7" in said[0].what


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged: its only checkpoint."""
    shutil.copytree(trained / "save", tmp_path / "begin")
    return tmp_path / "begin" / "iter_0000004"


ALONE = cluster(per_node=1)
"""The layout that saved the checkpoint: on megatron-core 0.12 the optimizer's state stays in it."""


def begins_with(folder: Path, path: Path, flag: str = "--load") -> list[str]:
    """The sound job, on a process."""
    words = words_of(folder, flag, str(path))
    for size in ("--tensor", "--pipeline", "--expert"):
        words[words.index(f"{size}-model-parallel-size") + 1] = "1"
    return words


@pytest.mark.parametrize("flag", ["--load", "--pretrained-checkpoint"])
def test_a_sound_checkpoint_has_no_finding(tmp_path: Path, copied: Path, flag: str) -> None:
    assert findings(begins_with(tmp_path, copied.parent, flag), "resume", where=ALONE) == []


@pytest.mark.parametrize("flag", ["--load", "--pretrained-checkpoint"])
@pytest.mark.parametrize("damage", ["shard", "cut", "missing", "metadata", "marker"])
def test_a_damaged_checkpoint(tmp_path: Path, copied: Path, damage: str, flag: str) -> None:
    shard = next(copied.glob("*.distcp"))
    if damage == "shard":
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage == "missing":
        shard.unlink()
    elif damage == "metadata":
        (copied / ".metadata").write_bytes(b"no pickle")
    else:
        (copied / "COMPLETE").unlink()
    said = findings(begins_with(tmp_path, copied.parent, flag), "resume", where=ALONE)
    one_error(said, flag, "be used", "iter_0000004")


def test_a_damaged_checkpoint_with_an_older_whole_one_is_a_warning(
    tmp_path: Path, copied: Path
) -> None:
    newer = copied.with_name("iter_0000008")
    shutil.copytree(copied, newer)
    state = json.loads((newer / "run_state.json").read_text())
    state["identity"]["save_number"] += 1
    (newer / "run_state.json").write_text(json.dumps(state))
    said = findings(begins_with(tmp_path, copied.parent), "resume", where=ALONE)
    assert [item.severity for item in said] == ["warning"]
    assert "iter_0000008 cannot be used" in said[0].what and "iter_0000004" in said[0].fix


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    for flag in ("--load", "--pretrained-checkpoint"):
        said = findings(begins_with(tmp_path, tmp_path / "absent", flag), "resume", where=ALONE)
        one_error(said, flag, "does not exist")
    (tmp_path / "empty").mkdir()
    one_error(
        findings(begins_with(tmp_path, tmp_path / "empty"), "resume", where=ALONE),
        "holds no checkpoint",
    )


def test_a_checkpoint_of_another_model(tmp_path: Path, copied: Path) -> None:
    words = begins_with(tmp_path, copied.parent)
    wider = ["ffn_hidden_size=64" if word == "ffn_hidden_size=32" else word for word in words]
    one_error(
        findings(wider, "resume", where=ALONE),
        "it is another model's",
        "ffn_hidden_size is 32 there",
    )


def test_another_programs_weights(tmp_path: Path) -> None:
    folder = tmp_path / "hugging"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral"}')
    (folder / "model.safetensors").write_bytes(b"\0" * 16)
    one_error(findings(begins_with(tmp_path, folder), "resume", where=ALONE), "ml-models")


def test_a_run_that_has_done_all_its_steps(tmp_path: Path, copied: Path) -> None:
    words = begins_with(tmp_path, copied.parent)
    words[words.index("--train-iters") + 1] = "4"
    one_error(findings(words, "resume", where=ALONE), "nothing is left to train")
    # The weights alone begin anew.
    words[words.index("--load")] = "--pretrained-checkpoint"
    assert findings(words, "resume", where=ALONE) == []


def test_a_save_folder_of_another_run(tmp_path: Path, copied: Path) -> None:
    shutil.copytree(copied.parent, tmp_path / "save")
    words = words_of(tmp_path, "--lr", "0.5")
    one_error(
        findings(words, "resume", where=ALONE), "this would be another run among its checkpoints"
    )


def test_data_that_the_checkpoint_did_not_have(tmp_path: Path, copied: Path) -> None:
    words = begins_with(tmp_path, copied.parent)
    said = findings([*words, "--seed", "7"], "tokens", where=ALONE)
    one_error(said, "an order of the data that this run cannot go on with", "--new-data-order")


def test_a_checkpoint_without_the_optimizer(tmp_path: Path, copied: Path) -> None:
    """As --no-save-optim writes it."""
    change_state(copied, optimizer=None)
    words = begins_with(tmp_path, copied.parent)
    one_error(
        findings(words, "resume", where=ALONE), "a model without optimizer state", "--no-load-optim"
    )
    weights = [*words, "--no-load-optim", "--no-load-rng"]
    assert findings(weights, "resume", where=ALONE) == []


def test_a_checkpoint_of_a_later_version(tmp_path: Path, copied: Path) -> None:
    change_state(copied, format=99)
    words = begins_with(tmp_path, copied.parent)
    one_error(findings(words, "resume", where=ALONE), "format 99, newer than this ml-train reads")


def change_state(folder: Path, **changes: object) -> None:
    """A whole checkpoint whose run_state.json says something else."""
    state = json.loads((folder / "run_state.json").read_text())
    (folder / "run_state.json").write_text(json.dumps({**state, **changes}))
    (folder / "COMPLETE").unlink()
    (folder / "integrity.json").unlink()
    write_integrity(folder)


def test_a_layout_that_the_optimizers_state_cannot_go_to(
    tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on megatron-core 0.12."""
    monkeypatch.setattr(differences, "reshards_optimizer", lambda: False)
    words = words_of(tmp_path, "--load", str(copied.parent))
    one_error(findings(words, "resume"), "the layout is WORLD8 TP2 PP2", "WORLD1 TP1 PP1")
    assert findings(begins_with(tmp_path, copied.parent), "resume", where=ALONE) == []
