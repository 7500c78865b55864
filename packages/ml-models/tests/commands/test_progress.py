"""What a conversion prints while it runs without a terminal."""

from ml_models.commands.progress import lines


def test_a_log_gets_a_line_every_half_minute_with_rate_and_time_left() -> None:
    now, written = [100.0], []
    progress = lines(written.append, clock=lambda: now[0])
    for second in range(0, 101):
        now[0] = 100.0 + second
        progress("model-00001", second * 10**9, 400 * 10**9)
    assert len(written) == 3, written
    assert written[0] == "30.0 of 400.0 GB (8%), 1000 MB/s, 6 min left: model-00001"


def test_what_a_former_run_finished_is_not_in_the_rate() -> None:
    now, written = [0.0], []
    progress = lines(written.append, clock=lambda: now[0])
    progress("kept", 300 * 10**9, 400 * 10**9)
    now[0] = 50.0
    progress("model-00002", 350 * 10**9, 400 * 10**9)
    assert "1000 MB/s, 1 min left" in written[0]
