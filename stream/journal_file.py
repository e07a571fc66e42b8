"""The journal's file: its lock, its tables, and the errors that reaching it can raise."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .. import DiskFull, JournalError

JOURNAL_VERSION = 2
APPLICATION_ID = 0x66737472  # "fstr" in the header tells a journal from other SQLite files
BUSY_SECONDS = 5.0

# Version 1 and what came after it, so that a new file and a migrated one are the same.
_VERSION_1 = f"""
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
"""
_VERSION_2 = """
-- Size of all payloads: asked for by retention, which must not read the whole file to know it.
ALTER TABLE journal ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE journal SET bytes = (SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM events);
CREATE TABLE checkpoints (camera TEXT PRIMARY KEY, checkpoint BLOB NOT NULL);
CREATE TABLE runs (camera TEXT PRIMARY KEY, newest INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 2;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing, checked and brought to the present version.

    Where there is none it is created, readable by its owner alone: events name people.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def check_file(db: sqlite3.Connection, path: Path) -> int:
    """The version of the journal in an open file; 0 where it is empty.

    Raises JournalError for a file of another program and for a version newer than this code.
    """
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
    return int(version) if tables else 0


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Check whose file it is before anything is written; create or migrate the tables."""
    version = check_file(db, path)
    if not version:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    # What retention deletes is overwritten, not only unlinked: it names people.
    db.execute("PRAGMA secure_delete = ON")
    if not version:
        epoch, now = secrets.token_hex(8), datetime.now(UTC).isoformat()
        insert = f"INSERT INTO journal (epoch, created_at) VALUES ('{epoch}', '{now}');"
        db.executescript(f"BEGIN IMMEDIATE; {_VERSION_1} {insert} {_VERSION_2} COMMIT;")
    elif version < JOURNAL_VERSION:
        db.executescript(f"BEGIN IMMEDIATE; {_VERSION_2} COMMIT;")
    (gives_back,) = db.execute("PRAGMA auto_vacuum").fetchone()
    if not gives_back and shutil.disk_usage(path.parent).free > 3 * path.stat().st_size:
        # A file of version 1 can be made to shrink only by rewriting it, once. Where there is no
        # room for that, retention still works: new events take the place of deleted ones.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")


def take_lock(path: Path) -> int:
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


@contextmanager
def explained(path: Path) -> Iterator[None]:
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
