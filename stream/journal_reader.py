"""Reading the journal beside its writer, from another thread or process."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .. import JournalError
from .journal_file import BUSY_SECONDS, check_file, explained

LOOK_AT_MOST = 2000


class StoredEvent(NamedTuple):
    """An event as it lies in the journal; payload: msgpack."""

    sequence: int
    topic: str
    payload: bytes


class Page(NamedTuple):
    """What one reading found, all of it at one moment of the journal."""

    events: list[StoredEvent]
    """In the order of their sequences."""
    through: int
    """Every event that was asked for, up to this sequence, has been read now."""
    oldest: int
    """Sequence of the oldest event held; newest + 1 when there is none."""
    newest: int
    """Sequence of the newest event."""


class JournalReader:
    """A second, read-only connection to a journal; for one thread at a time."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        """Use `JournalReader.open`."""
        self.path = path
        self._db = db
        (epoch,) = db.execute("SELECT epoch FROM journal").fetchone()
        self.epoch: str = epoch

    @classmethod
    def open(cls, path: str | Path) -> JournalReader:
        """Open an existing journal; somebody else may be writing it.

        Raises JournalError when there is none, or it cannot be read.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise JournalError(f"there is no journal at {path}: give the file of publish.journal")
        with explained(path):
            db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                if not check_file(db, path):
                    raise JournalError(f"{path} is empty: run facestream with it first")
                return cls(path, db)
            except BaseException:
                db.close()
                raise

    def read(self, after: int = 0, topics: Sequence[str] = (), limit: int = 500) -> Page:
        """The first events with a sequence above `after`.

        topics: prefixes, as in a ZeroMQ subscription; none reads all. limit: of events returned.
        Looks at 2000 events at most, so that it soon returns where few pass the filter: go on at
        `through`, until that is `newest`. Raises JournalError.
        """
        with explained(self.path):
            self._db.execute("BEGIN")
            try:
                return self._read(after, tuple(topics), limit)
            finally:
                self._db.execute("COMMIT")

    def _read(self, after: int, prefixes: tuple[str, ...], limit: int) -> Page:
        (newest,) = self._db.execute("SELECT COALESCE(MAX(newest), 0) FROM topics").fetchone()
        (oldest,) = self._db.execute("SELECT MIN(sequence) FROM events").fetchone()
        oldest = newest + 1 if oldest is None else oldest
        if not prefixes:
            wanted, through = self._all(after, newest, limit)
        else:
            wanted, through = self._matching(after, newest, prefixes, limit)
        return Page(wanted, through, oldest, newest)

    def _all(self, after: int, newest: int, limit: int) -> tuple[list[StoredEvent], int]:
        rows = self._db.execute(
            "SELECT sequence, topic, payload FROM events WHERE sequence > ?"
            " ORDER BY sequence LIMIT ?",
            (after, limit),
        ).fetchall()
        events = [StoredEvent(*row) for row in rows]
        if len(rows) < limit:
            return events, max(after, newest)
        return events, events[-1].sequence if events else after

    def _matching(
        self, after: int, newest: int, prefixes: tuple[str, ...], limit: int
    ) -> tuple[list[StoredEvent], int]:
        # Filtered here: SQLite refuses an expression with a thousand prefixes.
        known: dict[str, bool] = {}
        rows = self._db.execute(
            "SELECT sequence, topic FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, LOOK_AT_MOST),
        ).fetchall()
        through = rows[-1][0] if len(rows) == LOOK_AT_MOST else max(after, newest)
        wanted: list[tuple[int, str]] = []
        for sequence, topic in rows:
            if topic not in known:
                known[topic] = topic.startswith(prefixes)
            if known[topic]:
                wanted.append((sequence, topic))
                if len(wanted) == limit:
                    through = sequence
                    break
        query = "SELECT payload FROM events WHERE sequence = ?"
        return [
            StoredEvent(sequence, topic, self._db.execute(query, (sequence,)).fetchone()[0])
            for sequence, topic in wanted
        ], through

    def close(self) -> None:
        """Close the file; closing twice is no error."""
        self._db.close()

    def __enter__(self) -> JournalReader:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
