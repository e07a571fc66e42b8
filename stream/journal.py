"""The event journal: every event is stored here before anybody is told of it.

One SQLite file in WAL mode with synchronous=FULL: a commit is on the disk when `append` returns,
so neither a killed process nor a power cut takes back an event that was published. (With NORMAL a
power cut could, and the numbers of the events lost would be given out a second time.) The price is
one fsync per transaction; `append_many` pays it once for a batch.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import DiskFull, JournalError
from .events import AnyEvent, EventError, TrackEvent, decode, encode

JOURNAL_VERSION = 1
APPLICATION_ID = 0x66737472  # "fstr" in the header tells a journal from other SQLite files
READ_PAGE = 500

_SCHEMA = f"""
CREATE TABLE journal (epoch TEXT NOT NULL, created_at TEXT NOT NULL);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
);
-- The heads outlive the events they count, so that numbering never starts over within an epoch.
CREATE TABLE topics (
    topic TEXT PRIMARY KEY,
    camera TEXT NOT NULL,
    newest INTEGER NOT NULL,
    highest_track INTEGER
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {JOURNAL_VERSION};
"""


class _Heads(NamedTuple):
    """The newest sequence of the journal and of each topic."""

    newest: int
    topics: dict[str, int]


class Journal:
    """Append-only store of events; one process writes it at a time. Safe to share by threads."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int) -> None:
        """Use `Journal.open`."""
        self.path = path
        self._db = db
        self._lock = lock
        self._guard = threading.RLock()
        self._heads: _Heads | None = None
        (epoch,) = db.execute("SELECT epoch FROM journal").fetchone()
        self.epoch: str = epoch

    @classmethod
    def open(cls, path: str | Path) -> Journal:
        """Open the journal at `path`; where there is none, create it, readable by its owner alone.

        Raises JournalError when the file is no journal, is damaged, comes from a newer version, is
        written by another running facestream or cannot be reached; DiskFull when no space is left.
        """
        path = Path(path).expanduser()
        lock = _take_lock(path)
        db: sqlite3.Connection | None = None
        try:
            with _explained(path):
                # Created here rather than by SQLite: events name people.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                db = sqlite3.connect(
                    path, timeout=5.0, isolation_level=None, check_same_thread=False
                )
                _prepare(db, path)
                return cls(path, db, lock)
        except BaseException:
            if db is not None:
                db.close()
            os.close(lock)
            raise

    def append(self, event: AnyEvent) -> AnyEvent:
        """Store one event; see `append_many`."""
        return self.append_many([event])[0]

    def append_many(self, events: Sequence[AnyEvent]) -> list[AnyEvent]:
        """Store events in one transaction, all or none, and return them as stored.

        Fills in epoch, sequence, previous and published_at. An event whose id is stored already is
        not stored again: the stored one is returned, with the sequence it had.
        Raises DiskFull or JournalError; then nothing of this call is stored, and what was, stays.
        """
        if not events:
            return []
        with self._guard, _explained(self.path):
            newest, topics = self._load_heads()
            topics = dict(topics)
            stored: list[AnyEvent] = []
            # Read again after any failure: an interrupt may strike between commit and assignment.
            self._heads = None
            with self._transaction():
                for event in events:
                    known = self._find(event.id)
                    if known is None:
                        newest += 1
                        known = self._insert(event, newest, topics.get(event.topic))
                        topics[event.topic] = newest
                    stored.append(known)
            self._heads = _Heads(newest, topics)
            return stored

    def read(self, after: int = 0, topics: Sequence[str] | None = None) -> Iterator[AnyEvent]:
        """Events with a sequence above `after`, in order; those appended meanwhile are included.

        topics: prefixes, as in a ZeroMQ subscription; None reads all.
        """
        where = ""
        if topics is not None:
            terms = ["substr(topic, 1, length(?)) = ?"] * len(topics)
            where = f" AND ({' OR '.join(terms) or '0'})"
        query = (
            f"SELECT sequence, payload FROM events WHERE sequence > ?{where}"
            " ORDER BY sequence LIMIT ?"
        )
        prefixes = [prefix for topic in topics or () for prefix in (topic, topic)]
        while True:
            with self._guard, _explained(self.path):
                rows = self._db.execute(query, (after, *prefixes, READ_PAGE)).fetchall()
            for sequence, payload in rows:
                yield self._decode(payload)
                after = sequence
            if len(rows) < READ_PAGE:
                return

    @property
    def newest(self) -> int:
        """Sequence of the newest event; 0 while there is none."""
        with self._guard, _explained(self.path):
            return self._load_heads().newest

    def last_tracks(self) -> Mapping[str, int]:
        """Highest track id of each camera in this epoch: a restart continues after it."""
        with self._guard, _explained(self.path):
            rows = self._db.execute(
                "SELECT camera, MAX(highest_track) FROM topics"
                " WHERE highest_track IS NOT NULL GROUP BY camera"
            ).fetchall()
        return dict(rows)

    def close(self) -> None:
        """Close the file and let go of it; closing twice is no error."""
        with self._guard:
            if self._lock >= 0:
                self._db.close()
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Journal:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _load_heads(self) -> _Heads:
        if self._heads is None:
            topics = dict(self._db.execute("SELECT topic, newest FROM topics").fetchall())
            self._heads = _Heads(max(topics.values(), default=0), topics)
        return self._heads

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                # After some failures (a full disk) SQLite has rolled back by itself.
                with suppress(sqlite3.OperationalError):
                    self._db.execute("ROLLBACK")
            raise

    def _find(self, identifier: str) -> AnyEvent | None:
        row = self._db.execute("SELECT payload FROM events WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else self._decode(row[0])

    def _insert(self, event: AnyEvent, sequence: int, previous: int | None) -> AnyEvent:
        stored = msgspec.structs.replace(
            event,
            epoch=self.epoch,
            sequence=sequence,
            previous=previous,
            published_at=datetime.now(UTC),
        )
        self._db.execute(
            "INSERT INTO events (sequence, id, topic, payload) VALUES (?, ?, ?, ?)",
            (sequence, stored.id, stored.topic, encode(stored)),
        )
        track = stored.track if isinstance(stored, TrackEvent) else None
        self._db.execute(
            "INSERT INTO topics (topic, camera, newest, highest_track) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (topic) DO UPDATE SET newest = excluded.newest,"
            " highest_track = MAX(highest_track, excluded.highest_track)",
            (stored.topic, stored.camera, sequence, track),
        )
        return stored

    def _decode(self, payload: bytes) -> AnyEvent:
        try:
            return decode(payload)
        except EventError as error:
            raise JournalError(
                f"{self.path}: a stored event cannot be read ({error}); if the journal was written "
                "by a newer facestream, use that one"
            ) from error


def _take_lock(path: Path) -> int:
    """Lock `path` against other processes; the system lets go of it however this one ends."""
    path = Path(os.path.realpath(path))  # one file has one lock, by whatever link it is reached
    beside = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _os_error(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise JournalError(
            f"another facestream runs on the journal {path}: stop it, or give this run "
            "another file (--journal, or publish.journal)"
        ) from error
    return lock


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Check whose file it is before anything is written; create the tables in an empty one."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise JournalError(
            f"{path} is a SQLite file but no facestream journal: set publish.journal to another "
            "file"
        )
    if version > JOURNAL_VERSION:
        raise JournalError(
            f"{path} is a journal of version {version}, this facestream reads {JOURNAL_VERSION}: "
            "update facestream, or set publish.journal to another file"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if not tables:
        epoch, now = secrets.token_hex(8), datetime.now(UTC).isoformat()
        db.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} INSERT INTO journal VALUES ('{epoch}', '{now}'); COMMIT;"
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system report into JournalError and DiskFull."""
    try:
        yield
    except sqlite3.Error as error:
        raise _sqlite_error(path, error) from error
    except OSError as error:
        raise _os_error(path, error) from error


def _sqlite_error(path: Path, error: sqlite3.Error) -> JournalError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # its primary part
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_space(path)):
        return _disk_full(path)
    if code == sqlite3.SQLITE_NOTADB:
        return JournalError(
            f"{path} is no facestream journal (not a SQLite file): set publish.journal to another "
            "file"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return JournalError(
            f"{path} is damaged ({error}): restore a copy, or move it away and facestream starts a "
            "new journal with a new epoch"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalError(
            f"{path} is locked by another program: close what has it open (a database browser?)"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return JournalError(
            f"{path} cannot be written ({error}): check the rights of the file and its folder, or "
            "set publish.journal to another file"
        )
    return JournalError(f"{path}: {error}")


def _os_error(path: Path, error: OSError) -> JournalError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(path)
    return JournalError(
        f"{path} cannot be opened ({error.strerror}): check the rights of the folder, or set "
        "publish.journal to another file"
    )


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(
        f"no space left for the journal {path}: nothing stored is lost; free space and start again"
    )


def _no_space(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < 1 << 16
