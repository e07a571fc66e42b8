"""What the journal keeps beside events: checkpoints, runs, and files of the version before."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from facestream import JournalError
from facestream.stream.events import encode
from facestream.stream.journal import Checkpoint, Journal

from .wire import sighting

SOME = Checkpoint("f" * 32, "1", False, b"state", {"source": b"\x00\x01", "detect": b""})

VERSION_1 = """
CREATE TABLE journal (epoch TEXT NOT NULL, created_at TEXT NOT NULL);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE topics (
    topic TEXT PRIMARY KEY,
    camera TEXT NOT NULL,
    newest INTEGER NOT NULL,
    highest_track INTEGER
) WITHOUT ROWID;
PRAGMA application_id = 1718842482;
PRAGMA user_version = 1;
"""


def test_a_checkpoint_comes_back_as_it_was_stored_also_after_a_restart(journal: Journal) -> None:
    journal.append_many([sighting(1)], {"door": SOME})
    assert journal.checkpoint("door") == SOME
    assert journal.checkpoint("hall") is None
    journal.close()
    with Journal.open(journal.path) as opened:
        assert opened.checkpoints() == {"door": SOME}


def test_checkpoints_are_stored_and_deleted_without_events(journal: Journal) -> None:
    newer = msgspec.structs.replace(SOME, state=b"newer")
    assert journal.append_many([], {"door": SOME, "hall": SOME}) == []
    journal.append_many([], {"door": newer, "hall": None, "never": None})
    assert journal.checkpoints() == {"door": newer}
    assert journal.newest == 0


def test_a_checkpoint_is_not_stored_without_the_events_before_it(journal: Journal) -> None:
    bad = sighting(1, track=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must hold plain values"):
        journal.append_many([bad], {"door": SOME})
    assert journal.checkpoints() == {}


def test_a_checkpoint_of_another_version_says_what_to_do(journal: Journal) -> None:
    journal.append_many([], {"door": SOME})
    journal._db.execute("UPDATE checkpoints SET checkpoint = x'93'")
    with pytest.raises(JournalError, match="a stored checkpoint cannot be read"):
        journal.checkpoint("door")


def test_runs_are_counted_by_camera_and_across_restarts(journal: Journal) -> None:
    assert [journal.next_run(camera) for camera in ("door", "door", "hall")] == [1, 2, 1]
    journal.close()
    with Journal.open(journal.path) as opened:
        assert [opened.next_run(camera) for camera in ("door", "hall")] == [3, 2]


def test_a_journal_of_version_1_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    old = msgspec.structs.replace(
        sighting(7), epoch="0123456789abcdef", sequence=3, published_at=datetime.now(UTC)
    )
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO journal VALUES ('0123456789abcdef', '2026-01-01T00:00:00')")
        db.execute("INSERT INTO events VALUES (3, ?, ?, ?)", (old.id, old.topic, encode(old)))
        db.execute("INSERT INTO topics VALUES (?, 'door', 3, 7)", (old.topic,))
    db.close()
    for _ in range(2):  # the second time it is of version 2 already
        with Journal.open(path) as journal:
            assert journal.epoch == "0123456789abcdef"
            assert journal.append(sighting(7)) == old
            assert (journal.newest, journal.oldest, journal.last_tracks()) == (3, 3, {"door": 7})
            assert journal.checkpoints() == {}
            (held,) = journal._db.execute("SELECT bytes FROM journal").fetchone()
            assert held == len(encode(old))
            assert journal._db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    with Journal.open(path) as journal:
        new = journal.append(sighting(8))
        assert (new.sequence, new.previous) == (4, 3)
        assert journal.next_run("door") == 1
