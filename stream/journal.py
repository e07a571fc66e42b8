"""The event journal: every event is stored here before anybody is told of it.

One SQLite file in WAL mode with synchronous=FULL: a commit is on the disk when `append` returns,
so neither a killed process nor a power cut takes back an event that was published. (With NORMAL a
power cut could, and the numbers of the events lost would be given out a second time.) The price is
one fsync per transaction; `append_many` pays it once for a batch.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import JournalError
from .events import AnyEvent, EventError, TrackEvent, decode, encode
from .journal_file import BUSY_SECONDS, connect, explained, take_lock

READ_PAGE = 500
EXPIRE_PAGE = 200
# Free pages that a journal keeps for the events to come: a tenth of it, and never less than 1 MiB.
SPARE_PAGES = 256
GIVE_BACK_PAGES = 256


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a camera's run can be resumed; stored in the transaction of the events before it.

    fingerprint: of the source, "" for a live one; run: names the run in event ids; state: of the
    part that decides; states: of the parts before it, as in flow.Mark.
    """

    fingerprint: str
    run: str
    live: bool
    state: bytes
    states: dict[str, bytes]


class _Stamp(msgspec.Struct):
    published_at: datetime


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
        self._file = path.absolute()
        self._inode = _inode(self._file)
        self._guard = threading.RLock()
        self._heads: _Heads | None = None
        # A killed process may have left deleted events in the write-ahead log.
        self._unscrubbed = True
        (epoch,) = db.execute("SELECT epoch FROM journal").fetchone()
        self.epoch: str = epoch

    @classmethod
    def open(cls, path: str | Path) -> Journal:
        """Open the journal at `path`; where there is none, create it, readable by its owner alone.

        A file of an older version is brought to this one, which an older facestream cannot read.
        Raises JournalError when the file is no journal, is damaged, comes from a newer version, is
        written by another running facestream or cannot be reached; DiskFull when no space is left.
        """
        path = Path(path).expanduser()
        lock = take_lock(path)
        db: sqlite3.Connection | None = None
        try:
            with explained(path):
                db = connect(path)
                return cls(path, db, lock)
        except BaseException:
            if db is not None:
                db.close()
            os.close(lock)
            raise

    def append(self, event: AnyEvent) -> AnyEvent:
        """Store one event; see `append_many`."""
        return self.append_many([event])[0]

    def append_many(
        self, events: Sequence[AnyEvent], checkpoints: Mapping[str, Checkpoint | None] = {}
    ) -> list[AnyEvent]:
        """Store events in one transaction, all or none, and return them as stored.

        Fills in epoch, sequence, previous and published_at. An event whose id is stored already is
        not stored again: the stored one is returned, with the sequence it had. (One that retention
        has deleted is no longer known and gets a new number.)
        checkpoints: stored in the same transaction, by camera; None deletes the camera's.
        Raises DiskFull or JournalError; then nothing of this call is stored, and what was, stays.
        """
        if not events and not checkpoints:
            return []
        with self._guard, explained(self.path):
            newest, topics = self._load_heads()
            topics = dict(topics)
            stored: list[AnyEvent] = []
            size = 0
            # Read again after any failure: an interrupt may strike between commit and assignment.
            self._heads = None
            with self._transaction():
                for event in events:
                    known = self._find(event.id)
                    if known is None:
                        newest += 1
                        known, added = self._insert(event, newest, topics.get(event.topic))
                        size += added
                        topics[event.topic] = newest
                    stored.append(known)
                if size:
                    self._db.execute("UPDATE journal SET bytes = bytes + ?", (size,))
                self._store_checkpoints(checkpoints)
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
            with self._guard, explained(self.path):
                rows = self._db.execute(query, (after, *prefixes, READ_PAGE)).fetchall()
            for sequence, payload in rows:
                yield self._decode(payload)
                after = sequence
            if len(rows) < READ_PAGE:
                return

    @property
    def newest(self) -> int:
        """Sequence of the newest event; 0 while there is none."""
        with self._guard, explained(self.path):
            return self._load_heads().newest

    @property
    def oldest(self) -> int:
        """Sequence of the oldest event that is still held; newest + 1 when there is none."""
        with self._guard, explained(self.path):
            (oldest,) = self._db.execute("SELECT MIN(sequence) FROM events").fetchone()
            return self._load_heads().newest + 1 if oldest is None else int(oldest)

    def heads(self) -> dict[str, int]:
        """The newest sequence of every topic that ever had an event in this epoch."""
        with self._guard, explained(self.path):
            return dict(self._load_heads().topics)

    def checkpoint(self, camera: str) -> Checkpoint | None:
        """The checkpoint of a camera; None where it has none."""
        return self.checkpoints().get(camera)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """All checkpoints, by camera."""
        with self._guard, explained(self.path):
            rows = self._db.execute("SELECT camera, checkpoint FROM checkpoints").fetchall()
        try:
            return {camera: msgspec.msgpack.decode(row, type=Checkpoint) for camera, row in rows}
        except msgspec.DecodeError as error:
            raise JournalError(
                f"{self.path}: a stored checkpoint cannot be read ({error}); if the journal was "
                "written by a newer facestream, use that one"
            ) from error

    def next_run(self, camera: str) -> int:
        """A number that no other run of this camera has in this epoch; counts from 1."""
        with self._guard, explained(self.path), self._transaction():
            self._db.execute(
                "INSERT INTO runs (camera, newest) VALUES (?, 1)"
                " ON CONFLICT (camera) DO UPDATE SET newest = newest + 1",
                (camera,),
            )
            query = "SELECT newest FROM runs WHERE camera = ?"
            (number,) = self._db.execute(query, (camera,)).fetchone()
            return int(number)

    def last_tracks(self) -> Mapping[str, int]:
        """Highest track id of each camera in this epoch: a restart continues after it."""
        with self._guard, explained(self.path):
            rows = self._db.execute(
                "SELECT camera, MAX(highest_track) FROM topics"
                " WHERE highest_track IS NOT NULL GROUP BY camera"
            ).fetchall()
        return dict(rows)

    def expire(
        self,
        now: datetime,
        keep_days: float | None,
        keep_bytes: float | None,
        most: int | None = None,
    ) -> int:
        """Delete the oldest events, and return how many were.

        Deleted are those published more than `keep_days` before `now`, and as many more as make the
        payloads that are left no larger than `keep_bytes`; None sets no limit. Numbers, epoch and
        checkpoints stay. Works in small transactions with room for others between them; `most`:
        stops after about so many events, and is to be called again while it deletes any.
        What was deleted is overwritten, and its space goes back to the file system. Events appended
        meanwhile are left for the next call, which would otherwise never end beside a busy camera.
        """
        last = self.newest
        before = None if keep_days is None else now - timedelta(days=keep_days)
        deleted = 0
        while True:
            step = self._expire_page(last, before, keep_bytes)
            deleted += step
            tidied = self._tidy(finished=not step)
            if not (step or tidied) or (most is not None and deleted >= most):
                return deleted
            time.sleep(0.001)  # a lock that is let go and taken at once lets nobody in between

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
        # SQLite would go on with a file that is gone, and so would everything stored.
        if _inode(self._file) != self._inode:
            raise JournalError(
                f"{self.path} was deleted or replaced while it was in use: nothing more is stored; "
                "start again"
            )
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

    def _insert(self, event: AnyEvent, sequence: int, previous: int | None) -> tuple[AnyEvent, int]:
        """The event as stored, and the size of its payload in bytes."""
        stored = msgspec.structs.replace(
            event,
            epoch=self.epoch,
            sequence=sequence,
            previous=previous,
            published_at=datetime.now(UTC),
        )
        payload = encode(stored)
        self._db.execute(
            "INSERT INTO events (sequence, id, topic, payload) VALUES (?, ?, ?, ?)",
            (sequence, stored.id, stored.topic, payload),
        )
        track = stored.track if isinstance(stored, TrackEvent) else None
        self._db.execute(
            "INSERT INTO topics (topic, camera, newest, highest_track) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (topic) DO UPDATE SET newest = excluded.newest,"
            " highest_track = MAX(highest_track, excluded.highest_track)",
            (stored.topic, stored.camera, sequence, track),
        )
        return stored, len(payload)

    def _store_checkpoints(self, checkpoints: Mapping[str, Checkpoint | None]) -> None:
        for camera, checkpoint in checkpoints.items():
            if checkpoint is None:
                self._db.execute("DELETE FROM checkpoints WHERE camera = ?", (camera,))
            else:
                self._db.execute(
                    "INSERT OR REPLACE INTO checkpoints (camera, checkpoint) VALUES (?, ?)",
                    (camera, msgspec.msgpack.encode(checkpoint)),
                )

    def _expire_page(self, last: int, before: datetime | None, keep_bytes: float | None) -> int:
        """One step of `expire`, up to sequence `last`: events deleted, EXPIRE_PAGE at most."""
        with self._guard, explained(self.path):
            (held,) = self._db.execute("SELECT bytes FROM journal").fetchone()
            rows = self._db.execute(
                "SELECT sequence, payload FROM events WHERE sequence <= ?"
                " ORDER BY sequence LIMIT ?",
                (last, EXPIRE_PAGE),
            ).fetchall()
            count = freed = read = 0
            for number, (_, payload) in enumerate(rows, 1):
                too_many = keep_bytes is not None and held - read > keep_bytes
                read += len(payload)
                # What came before one that is too old is as old, though the clock said otherwise.
                if too_many or (before is not None and _published(payload) < before):
                    count, freed = number, read
            if count:
                with self._transaction():
                    through = rows[count - 1][0]
                    self._db.execute("DELETE FROM events WHERE sequence <= ?", (through,))
                    self._db.execute("UPDATE journal SET bytes = bytes - ?", (freed,))
                self._unscrubbed = True
            return count

    def _tidy(self, finished: bool) -> bool:
        """Return some free pages to the file system; whether there were any to return."""
        with self._guard, explained(self.path):
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (shrinks,) = self._db.execute("PRAGMA auto_vacuum").fetchone()
            pages = min(free - max(SPARE_PAGES, pages // 10), GIVE_BACK_PAGES)
            if shrinks and pages > 0:
                # A row without columns per page: only a script is run through to its end.
                self._db.executescript(f"PRAGMA incremental_vacuum({pages})")
                return True
            if finished and self._unscrubbed:
                self._scrub()
            return False

    def _scrub(self) -> None:
        """Empty the write-ahead log, where deleted events could still be read."""
        self._db.execute("PRAGMA busy_timeout = 0")  # nobody waits for somebody who reads
        (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        self._unscrubbed = bool(busy)

    def _decode(self, payload: bytes) -> AnyEvent:
        try:
            return decode(payload)
        except EventError as error:
            raise JournalError(
                f"{self.path}: a stored event cannot be read ({error}); if the journal was written "
                "by a newer facestream, use that one"
            ) from error


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _published(payload: bytes) -> datetime:
    """When a stored event was published."""
    return msgspec.msgpack.decode(payload, type=_Stamp).published_at
