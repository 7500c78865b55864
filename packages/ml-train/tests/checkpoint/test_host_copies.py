"""A background save whose copies are made late, and one for which a node has no memory."""

import threading
from pathlib import Path

import pytest
import torch

from ml_models.platforms.cpu import CpuPlatform
from ml_train import cli
from ml_train.checkpoint import host_memory

RUN = [
    *("pretrain", "--device", "cpu", "--model", "grok1-tiny", "--mock-data", "--lr", "1e-2"),
    *("--train-iters", "3", "--save-interval", "1", "--seq-length", "16"),
    *("--micro-batch-size", "1", "--global-batch-size", "2"),
]


class LateCopier:
    """A device that copies at the last moment: when training says that an update is next.

    The thread that writes waits for that moment as well. At the end of a run no update comes, so it
    goes on after a while.
    """

    made: list["LateCopier"] = []

    def __init__(self) -> None:
        self.made.append(self)
        self.waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.by_training = threading.Event()

    def num_bytes(self, tensor: torch.Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        copied = torch.full_like(tensor, 7.0)
        self.waiting.append((tensor, copied))
        return copied

    def finish(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.by_training.wait(1)
        waiting, self.waiting = self.waiting, []
        for tensor, copied in waiting:
            copied.copy_(tensor)
        self.by_training.set()


def tensors(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.distcp")))


def test_copies_are_whole_before_the_next_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main([*RUN, "--save", str(tmp_path / "plain"), "--no-async-save"]) == 0
    monkeypatch.setattr(CpuPlatform, "host_copier", lambda self: LateCopier())
    assert cli.main([*RUN, "--save", str(tmp_path / "late")]) == 0
    assert len(LateCopier.made) >= 3 and all(not copier.waiting for copier in LateCopier.made)
    for step in range(1, 4):
        name = f"iter_{step:07d}"
        expected = tensors(tmp_path / "plain" / name)
        assert expected and tensors(tmp_path / "late" / name) == expected, name


def test_a_node_without_memory_for_copies_makes_training_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_memory, "room_of_process", lambda: 1000)
    assert cli.main([*RUN, "--save", str(tmp_path)]) == 0
    shown = "".join(capsys.readouterr())
    assert "step 2 is written while training waits: a copy for the background needs" in shown
    assert (tmp_path / "iter_0000003" / "COMPLETE").exists()


def test_the_room_is_what_the_container_has_shared_by_the_ranks_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert host_memory.spare_bytes(tmp_path) == 600000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.spare_bytes(tmp_path) > 600000
    monkeypatch.setattr(host_memory, "spare_bytes", lambda: 8000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert host_memory.room_of_process() == 800
