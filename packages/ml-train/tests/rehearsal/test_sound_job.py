"""A sound job has no finding, and a rehearsal writes nothing of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from rehearsed import whole, words_of

from ml_models.megatron_core import differences


def everything_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Path -> (size, time of change)."""
    stats = ((path, path.stat()) for path in folder.rglob("*"))
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats}


def test_a_fresh_job_is_sound_and_nothing_is_written(tmp_path: Path) -> None:
    words = words_of(tmp_path)
    before = everything_in(tmp_path)
    rehearsal = whole(words)
    assert [item for item in rehearsal.findings if item.severity == "error"] == []
    # On a line of megatron-core without a row in versions.toml the versions are worth a look.
    warnings = [item for item in rehearsal.findings if item.severity == "warning"]
    assert [item for item in warnings if item.subject != "versions"] == []
    assert rehearsal.skipped == []
    assert {item.subject for item in rehearsal.findings} == {
        *("settings", "layout", "versions", "data", "storage", "memory", "checkpoint"),
    }
    assert everything_in(tmp_path) == before


@pytest.mark.skipif(
    not differences.reshards_optimizer(), reason="optimizer state stays in its layout on this line"
)
def test_a_job_that_goes_on_under_another_layout_is_sound(trained: Path) -> None:
    """One process has saved it, and 8 go on: TP2 PP2 EP2."""
    words = words_of(trained, "--load", str(trained / "save"))
    before = everything_in(trained)
    rehearsal = whole(words)
    assert [item for item in rehearsal.findings if item.severity == "error"] == []
    assert everything_in(trained) == before
