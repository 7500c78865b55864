"""A device that is too small for a kind of rank, and ranks that cannot start at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from rehearsed import cluster, findings, one_error, words_of

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.plan import plan_ranks, planning_platform
from ml_train.rehearsal import ranks

UNEVEN = ("--decoder-last-pipeline-num-layers", "5")
"""Of 6 layers, so that the last stage needs most."""


def uneven(folder: Path) -> list[str]:
    """The sound job with a last stage of 5 layers."""
    words = words_of(folder, *UNEVEN)
    return ["num_layers=6" if word == "num_layers=2" else word for word in words]


def device_of(folder: Path, memory_bytes: float) -> str:
    """A device file with so much memory."""
    path = folder / f"device-{int(memory_bytes)}.toml"
    path.write_text(
        f"memory_bytes = {memory_bytes}\ntflops = {{ float32 = 1.0 }}\n"
        "memory_bytes_per_second = 1e9\nintra_node_bytes_per_second = 1e9\ndevices_per_node = 8\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Most bytes of the first and of the last stage, by the planner."""
    run = load_config(parse(uneven(tmp_path_factory.mktemp("peaks"))))
    layout = layout_of(run.config, run.model, 8)
    with planning_platform("cuda") as platform:
        classes = plan_ranks(run.config, run.model, layout, platform, progress=lambda _: None)
    return [item.plan.peak for item in classes]


def test_memory_that_is_too_small_on_the_last_stage_alone(tmp_path: Path, peaks: list[int]) -> None:
    first, last = peaks
    assert last > 1.2 * first
    device = device_of(tmp_path, 1.15 * first)
    said = findings(uneven(tmp_path), "ranks", where=cluster(device))
    one_error(said, "stage 1 (loss)", "are missing", "saves")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the search for what would make room, which builds the rank several times."""
    monkeypatch.setattr(ranks, "_room", lambda *_: ["recompute"])


@pytest.mark.usefixtures("quick")
def test_memory_that_is_too_small_everywhere(tmp_path: Path, peaks: list[int]) -> None:
    where = cluster(device_of(tmp_path, min(peaks) / 2))
    said = findings(uneven(tmp_path), "ranks", where=where)
    assert [item.severity for item in said] == ["error", "error"]


@pytest.mark.usefixtures("quick")
def test_less_than_a_tenth_left_is_a_warning(tmp_path: Path, peaks: list[int]) -> None:
    where = cluster(device_of(tmp_path, 1.05 * max(peaks)))
    said = findings(uneven(tmp_path), "ranks", where=where)
    assert [item.severity for item in said] == ["warning"]
    assert "less than a tenth is left" in said[0].what


def test_a_rank_that_cannot_be_built_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("hidden size does not divide")

    monkeypatch.setattr(ranks, "plan_any_rank", refuse)
    said = findings(words_of(tmp_path), "ranks")
    assert [item.severity for item in said] == ["error", "error"]
    assert "Rank 0 (stage 0 (embedding)) cannot start: AssertionError: hidden size" in said[0].what
