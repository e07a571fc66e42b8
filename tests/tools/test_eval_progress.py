"""Progress of long runs where stderr is no terminal: lines for a log file."""

from __future__ import annotations

import pytest

from facestream.tools.eval_progress import progress_bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, s, in its one place; nothing else moves it."""
    now = [100.0]
    monkeypatch.setattr("facestream.tools.eval_progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_a_minute_with_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("train magface", 2000, done=1000) as advance:
        for _ in range(5):
            clock[0] += 25
            advance(50)
    assert capsys.readouterr().err.splitlines() == [
        # 150 of the 1,000 that were left in 75 s; what an earlier run did does not count.
        "train magface: 1,150 of 2,000, 0:07:05 left"
    ]


def test_what_has_no_known_end_says_how_long_it_took(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("scoring pairs", None) as advance:
        clock[0] += 3700
        advance(3)
    assert capsys.readouterr().err == "scoring pairs: 3 after 1:01:40\n"


def test_what_takes_less_than_a_minute_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("train ida", 10) as advance:
        clock[0] += 59
        advance(10)
    assert capsys.readouterr().err == ""
