"""Retention: what goes and what stays, that it cannot be read any more, kill -9 in the middle."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import JournalError
from facestream.stream.events import System, decode, encode
from facestream.stream.journal import EXPIRE_PAGE, Checkpoint, Journal
from facestream.stream.journal_reader import LOOK_AT_MOST, JournalReader

from .test_journal_checkpoints import VERSION_1
from .wire import NOW, sighting


def system(number: int, detail: str = "") -> System:
    return System(id=f"s-{number}", camera="-", decided_at=NOW, state="started", detail=detail)


def held(journal: Journal) -> list[int]:
    return [event.sequence for event in journal.read()]


def size(journal: Journal) -> int:
    (count,) = journal._db.execute("SELECT SUM(LENGTH(payload)) FROM events").fetchone()
    return count or 0


def test_events_that_are_too_old_go(journal: Journal) -> None:
    for number in range(4):
        journal.append(sighting(number))
    second = list(journal.read())[1].published_at
    assert second is not None
    now = second + timedelta(days=2, microseconds=1)
    assert journal.expire(now, keep_days=2.0, keep_bytes=None) == 2
    assert held(journal) == [3, 4]
    assert journal.oldest == 3
    assert journal.expire(now, 2.0, None) == 0
    assert journal.expire(now, None, None) == 0


def test_an_event_of_a_clock_that_was_ahead_does_not_keep_those_after_it(journal: Journal) -> None:
    journal.append_many([sighting(number) for number in range(3)])
    ahead = msgspec.structs.replace(
        next(journal.read()), published_at=datetime.now(UTC) + timedelta(days=3650)
    )
    journal._db.execute("UPDATE events SET payload = ? WHERE sequence = 1", (encode(ahead),))
    now = datetime.now(UTC)
    assert journal.expire(now, 1.0, None) == 0
    assert journal.expire(now + timedelta(days=2), 1.0, None) == 3


def test_the_oldest_go_until_the_rest_is_small_enough(journal: Journal) -> None:
    journal.append_many([system(n, "x" * 1000) for n in range(20)])
    each = size(journal) // 20
    assert journal.expire(datetime.now(UTC), None, keep_bytes=5.5 * each) == 15
    assert held(journal) == [16, 17, 18, 19, 20]


def test_numbers_heads_tracks_and_checkpoints_outlive_the_events(journal: Journal) -> None:
    checkpoint = Checkpoint("", "1", True, b"", {})
    journal.append_many([sighting(7), sighting(3, "hall")], {"door": checkpoint})
    heads = journal.heads()
    assert heads == {
        "facestream/v1/sighting.started/door": 1,
        "facestream/v1/sighting.started/hall": 2,
    }
    assert journal.expire(datetime.now(UTC), None, 0) == 2
    assert held(journal) == []
    assert (journal.newest, journal.oldest, journal.heads()) == (2, 3, heads)
    assert journal.last_tracks() == {"door": 7, "hall": 3}
    assert journal.checkpoints() == {"door": checkpoint}
    after = journal.append(sighting(8))
    assert (after.sequence, after.previous, journal.oldest) == (3, 1, 3)


def test_an_event_that_was_deleted_is_no_longer_known(journal: Journal) -> None:
    journal.append(sighting(1))
    journal.expire(datetime.now(UTC), None, 0)
    assert journal.append(sighting(1)).sequence == 2


def test_a_call_stops_after_about_as_many_as_it_may_delete(journal: Journal) -> None:
    count = 2 * EXPIRE_PAGE + 10
    journal.append_many([system(n) for n in range(count)])
    now = datetime.now(UTC)
    steps = [journal.expire(now, None, 0, most=1) for _ in range(4)]
    assert steps == [EXPIRE_PAGE, EXPIRE_PAGE, 10, 0]


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 3000), max_size=30),
    keep=st.integers(0, 40_000),
    more=st.lists(st.integers(0, 3000), max_size=10),
)
def test_what_is_left_is_the_longest_end_that_fits(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], keep: int, more: list[int]
) -> None:
    with Journal.open(tmp_path_factory.mktemp("journals") / "journal.db") as journal:
        for part in (lengths, more):
            start = journal.newest
            journal.append_many([system(start + n, "x" * part[n]) for n in range(len(part))])
            before = [len(row[0]) for row in journal._db.execute("SELECT payload FROM events")]
            journal.expire(datetime.now(UTC), None, keep)
            left = len(held(journal))
            assert size(journal) <= keep
            assert left == len(before) or sum(before[-left - 1 :]) > keep
            assert held(journal) == list(range(journal.newest - left + 1, journal.newest + 1))
            assert journal._db.execute("SELECT bytes FROM journal").fetchone()[0] == size(journal)


@pytest.mark.parametrize("version", [1, 2])
def test_what_was_deleted_cannot_be_read_in_the_files_and_its_space_is_given_back(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "journal.db"
    if version == 1:
        with sqlite3.connect(path) as db:
            db.executescript(VERSION_1)
            db.execute("INSERT INTO journal VALUES ('0123456789abcdef', '2026-01-01T00:00:00')")
        db.close()
    with Journal.open(path) as journal, JournalReader.open(path) as reader:
        for _ in range(3):
            start = journal.newest
            journal.append_many([system(start + n, "Erika Muster" * 100) for n in range(2000)])
        assert reader.read(limit=1).events
        assert path.stat().st_size > 6_000_000
        last = journal.append(system(9999, "stays"))
        assert journal.expire(datetime.now(UTC), None, 1000) == 6000
        for file in tmp_path.iterdir():
            assert b"Erika Muster" not in file.read_bytes(), file
        assert path.stat().st_size < 2_000_000
        assert list(journal.read()) == [last]
        assert [decode(e.payload) for e in reader.read().events] == [last]


def test_events_are_stored_while_others_are_deleted(journal: Journal) -> None:
    journal.append_many([system(n) for n in range(10 * EXPIRE_PAGE)])
    expiring = threading.Thread(target=journal.expire, args=(datetime.now(UTC), None, 0))
    expiring.start()
    between = 0
    while expiring.is_alive():
        journal.append(sighting(between))
        between += 1
    expiring.join(60)
    assert between > 0
    journal.expire(datetime.now(UTC), None, 0)
    assert held(journal) == []
    assert journal.newest == 10 * EXPIRE_PAGE + between


AT_WORK = """
import sys
from datetime import UTC, datetime
from facestream.stream.events import System
from facestream.stream.journal import Journal

journal = Journal.open(sys.argv[1])
while True:
    start = journal.newest
    journal.append_many([System(id=str(start + n), camera="-", decided_at=datetime.now(UTC),
                                state="started", detail="x" * 900) for n in range(700)])
    journal.expire(datetime.now(UTC), None, 300_000)
    print(journal.newest, flush=True)
"""


def test_kill_9_while_deleting_leaves_a_journal_without_holes(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    pause = random.Random(3)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", AT_WORK, str(path)], stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            for _ in range(2):
                told = int(worker.stdout.readline())
            try:
                worker.wait(pause.uniform(0.0, 0.05))  # somewhere in the next round
            except subprocess.TimeoutExpired:
                worker.send_signal(signal.SIGKILL)
            assert worker.wait(10) == -signal.SIGKILL
        with Journal.open(path) as journal:
            assert journal._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert journal.newest >= told
            assert held(journal) == list(range(journal.oldest, journal.newest + 1))
            assert journal._db.execute("SELECT bytes FROM journal").fetchone()[0] == size(journal)


def test_a_reader_follows_from_another_connection(journal: Journal) -> None:
    with JournalReader.open(journal.path) as reader:
        assert reader.epoch == journal.epoch
        assert reader.read() == ([], 0, 1, 0)
        journal.append_many([sighting(1), system(1), sighting(2, "hall"), sighting(3)])
        page = reader.read(limit=2)
        assert [e.sequence for e in page.events] == [1, 2]
        assert page[1:] == (2, 1, 4)
        assert [decode(e.payload) for e in page.events] == list(journal.read())[:2]
        rest = reader.read(page.through)
        assert ([e.sequence for e in rest.events], rest.through) == ([3, 4], 4)
        journal.expire(datetime.now(UTC), None, 0)
        assert reader.read() == ([], 4, 5, 4)


def test_a_reader_filters_by_prefix_and_returns_though_few_pass(journal: Journal) -> None:
    journal.append_many([system(n) for n in range(LOOK_AT_MOST)] + [sighting(1), sighting(2)])
    topics = ["facestream/v1/sighting.started/do", *(f"facestream/{n}" for n in range(2000))]
    with JournalReader.open(journal.path) as reader:
        first = reader.read(0, topics)
        assert (first.events, first.through) == ([], LOOK_AT_MOST)
        second = reader.read(first.through, topics, limit=1)
        assert [e.sequence for e in second.events] == [LOOK_AT_MOST + 1] == [second.through]
        third = reader.read(second.through, topics)
        assert [e.sequence for e in third.events] == [LOOK_AT_MOST + 2] == [third.newest]


def test_a_reader_needs_a_journal_and_cannot_write_it(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        JournalReader.open(tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(JournalError, match="is empty"):
        JournalReader.open(tmp_path / "empty.db")
    (tmp_path / "text.db").write_text("these are notes" * 100)
    with pytest.raises(JournalError, match="not a SQLite file"):
        JournalReader.open(tmp_path / "text.db")
    with (
        JournalReader.open(journal.path) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader._db.execute("DELETE FROM events")
    with pytest.raises(JournalError, match="closed"):
        reader.read()
