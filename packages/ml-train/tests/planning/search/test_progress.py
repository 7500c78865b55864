"""Lines of progress for a log."""

from __future__ import annotations

from ml_train.planning.search.progress import SECONDS_BETWEEN_LINES, lines


def test_a_line_every_ten_seconds() -> None:
    now, written = [0.0], []
    advance = lines(written.append, clock=lambda: now[0])
    for done in range(1, 31):
        now[0] += 1.0
        advance("timing layouts", done, 1500)
    assert SECONDS_BETWEEN_LINES == 10.0
    assert written == [f"timing layouts: {done} of 1,500" for done in (10, 20, 30)]
