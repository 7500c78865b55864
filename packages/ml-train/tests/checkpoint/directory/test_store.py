"""The directory of checkpoints, without processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ml_models.process_groups import destroy_process_groups
from ml_train.checkpoint.directory import integrity, store
from ml_train.checkpoint.ownership import find
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError


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
    (fault,) = integrity.faults(folder, checksums=True)
    assert "ml-models convert --from megatron" in fault and "--no-load-optim" in fault


@pytest.fixture
def group() -> Iterator[None]:
    """This process alone, as a run of one process has it."""
    from torch import distributed

    store_of_addresses = torch._C._distributed_c10d.HashStore()
    distributed.init_process_group("gloo", store=store_of_addresses, rank=0, world_size=1)
    yield
    destroy_process_groups()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "model.safetensors",
            "holds weights in Hugging Face's format; run ml-models convert --from h",
        ),
        ("model-00001-of-00002.safetensors", "--from huggingface --to megatron --input "),
        ("pytorch_model.bin", "--from huggingface --to megatron --input "),
        ("pytorch_model-00001-of-00002.bin", "--from huggingface --to megatron --input "),
        ("consolidated.safetensors", "--from huggingface --to megatron --input "),
        ("tensor00000_000", "holds xAI's release; run ml-models convert --from xai --to megatron"),
        (
            ".metadata",
            "was saved by Megatron-LM or ModelLink; run ml-models convert --from megatron",
        ),
    ],
)
@pytest.mark.parametrize("is_save_too", [False, True])
def test_weights_of_others_name_the_command(
    tmp_path: Path, name: str, says: str, is_save_too: bool, group: None
) -> None:
    """--load of a folder to convert; also where it is --save, which may be empty at first."""
    folder = tmp_path / "my weights"
    folder.mkdir()
    (folder / name).write_bytes(b"any")
    config = CheckpointSection(load=str(folder), save=str(folder) if is_save_too else None)
    with pytest.raises(CheckpointError) as error:
        find.choose(config, group=None, say=lambda _: None)
    text = str(error.value)
    assert says in text and f"--input '{folder}'" in text
    assert text.endswith("--load NEW --no-load-optim --no-load-rng.")


def test_directories_of_ours_are_not_foreign(tmp_path: Path) -> None:
    assert integrity.foreign_weights(tmp_path) is None
    assert integrity.foreign_weights(tmp_path / "absent") is None
    (tmp_path / ".metadata").write_bytes(b"any")
    (tmp_path / "model_config.json").write_text("{}")
    assert integrity.foreign_weights(tmp_path) is None
