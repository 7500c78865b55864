"""The order of calls by which a device copies into pinned memory beside its other work.

There is no device here: a stand-in notes the calls. What a stream of a GPU does is not tested.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ml_models.platforms import host_copies
from ml_models.platforms.host_copies import PinnedCopier, WaitingCopier


class DeviceModule:
    """What PinnedCopier uses of torch.cuda, as notes of calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.inside = "current"

    def Stream(self) -> Any:  # noqa: N802
        self.calls.append("new stream")
        return SimpleNamespace(
            wait_stream=lambda other: self.calls.append(("wait for", other)),
            synchronize=lambda: self.calls.append("synchronize"),
        )

    def current_stream(self) -> str:
        return self.inside

    @contextlib.contextmanager
    def stream(self, _stream: object) -> Iterator[None]:
        self.inside = "own"
        yield
        self.inside = "current"

    def tensor(self) -> Any:
        return SimpleNamespace(
            device=SimpleNamespace(type="cuda"), shape=(3,), dtype=torch.bfloat16,
            numel=lambda: 3, element_size=lambda: 2, to=lambda place: ("waited", place),
            record_stream=lambda stream: self.calls.append("record"),
        )  # fmt: skip


def test_a_copy_follows_the_work_before_it_and_keeps_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = DeviceModule()

    def empty(_shape: object, *, dtype: torch.dtype, pin_memory: bool) -> Any:
        assert pin_memory and dtype == torch.bfloat16
        return SimpleNamespace(
            copy_=lambda source, non_blocking: device.calls.append(
                ("copy", device.inside, non_blocking)
            )
        )

    monkeypatch.setattr(host_copies.torch, "empty", empty)
    copier = PinnedCopier(device)
    copier.finish()  # nothing was copied: no stream is made
    copier.copy(device.tensor())
    copier.copy(device.tensor())
    copier.finish()
    per_copy = [("wait for", "current"), ("copy", "own", True), "record"]
    assert device.calls == ["new stream", *per_copy, *per_copy, "synchronize"]


def test_memory_that_cannot_be_pinned_is_copied_with_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def empty(*_: object, **__: object) -> None:
        raise RuntimeError("cannot lock memory")

    monkeypatch.setattr(host_copies.torch, "empty", empty)
    device = DeviceModule()
    assert PinnedCopier(device).copy(device.tensor()) == ("waited", "cpu")
    assert device.calls == []


@pytest.mark.parametrize("copier", [WaitingCopier(), PinnedCopier(None)])
def test_a_tensor_of_the_host_is_copied_at_once(copier: Any) -> None:
    tensor = torch.ones(3)
    copied = copier.copy(tensor)
    tensor += 1
    copier.finish()
    assert copied.tolist() == [1.0, 1.0, 1.0]


def test_sizes_count_what_the_allocator_takes() -> None:
    tensor = torch.empty(5, dtype=torch.float32)
    assert WaitingCopier().num_bytes(tensor) == 20
    assert PinnedCopier(None).num_bytes(tensor) == 32
    assert PinnedCopier(None).num_bytes(torch.empty(8)) == 32
