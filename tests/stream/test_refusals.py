"""What is refused is counted, and logged once per source: whoever floods a socket floods no log."""

from __future__ import annotations

import logging
import threading

import pytest

from facestream.stream import refusals
from facestream.stream.refusals import SOURCES_MOST, Refusals


def test_counted_by_reason_and_logged_once_per_source_and_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = Refusals("replay")
    for _ in range(5):
        refused.count("wall-display", "malformed", "expected a map, got an array")
    refused.count("wall-display", "version", "version 9, newest known is 1")
    refused.count("10.0.0.7", "malformed", "truncated")
    assert refused.counts == {"malformed": 6, "version": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "replay: refused (malformed) from wall-display: expected a map, got an array; "
        "more of it is only counted",
        "replay: refused (version) from wall-display: version 9, newest known is 1; "
        "more of it is only counted",
        "replay: refused (malformed) from 10.0.0.7: truncated; more of it is only counted",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_invented_sources_fill_neither_memory_nor_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Refusals("hop")
    for number in range(3 * SOURCES_MOST):
        refused.count(f"peer {number}", "malformed", "garbage")
    assert refused.counts["malformed"] == 3 * SOURCES_MOST
    assert len(caplog.records) == SOURCES_MOST + 1
    assert "more than 1000 sources" in caplog.records[-1].getMessage()
    # An hour later there is room again.
    monkeypatch.setattr(refusals, "REMEMBER_SECONDS", -1.0)
    refused.count("somebody new", "malformed", "garbage")
    assert "somebody new" in caplog.records[-1].getMessage()


def test_a_source_cannot_write_lines_or_secrets_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Refusals("hop").count(
        "a\nERROR forged\x1b[2J" + "x" * 5000, "malformed", "rtsp://admin:secret@camera/1"
    )
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable() and len(line) < 700
    assert "secret" not in line


def test_threads_may_share_it() -> None:
    refused = Refusals("hop")

    def work(source: str) -> None:
        for _ in range(2000):
            refused.count(source, "malformed", "garbage")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused.counts["malformed"] == 8000
