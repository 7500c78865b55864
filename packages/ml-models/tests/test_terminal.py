"""One module speaks: results on stdout, messages by level on stderr, whatever the stream is like.

tools/check_house.py sees to it that no other module writes to a terminal.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from ml_models import terminal


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("error", ["ml-models: error: e"]),
        ("warning", ["ml-models: error: e", "warning: w"]),
        ("notice", ["ml-models: error: e", "warning: w", "n"]),
        ("detail", ["ml-models: error: e", "warning: w", "n", "d"]),
    ],
)
def test_levels(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.speaking(level):
        terminal.error("e")
        terminal.warning("w")
        terminal.notice("n")
        terminal.detail("d")
        terminal.result("r")
    assert capsys.readouterr() == ("r\n", "".join(line + "\n" for line in shown))


def test_a_library_s_user_gets_log_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ml_models"):
        terminal.notice("n")
    assert [record.getMessage() for record in caplog.records] == ["n"]


def test_speaking_leaves_the_logger_as_it_was() -> None:
    logger = logging.getLogger("ml_models")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with terminal.speaking("detail"):
        pass
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_characters_that_the_terminal_lacks_become_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    terminal.write(stream, "d\u00e9j\u00e0 \u4f60\n")
    assert raw.getvalue() == "d\u00e9j\u00e0 \\u4f60\n".encode("latin-1")


RUN = f"{sys.executable} -m ml_models.cli"


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        (f"{RUN} show grok1-tiny | head -n 1; exit ${{PIPESTATUS[0]}}", {0, 1}),
        (f"{RUN} list >/dev/full", {1}),
        (f"{RUN} list >&-", {1}),
        (f"{RUN} show absent 2>&-", {2}),
        (f"{RUN} show absent 2>/dev/full", {2}),
    ],
)
def test_a_closed_or_full_stream_is_no_traceback(line: str, codes: set[int]) -> None:
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
