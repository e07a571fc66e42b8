"""The gallery's database connection: opening, transactions, and errors in words.

SQLite: write-ahead log, foreign keys, a busy timeout, deleted rows overwritten. PostgreSQL, by its
SQLAlchemy URL: readers see one snapshot, writers wait for one row as long as for SQLite's file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from .. import GalleryError, GalleryUnreadable
from .gallery_errors import explain, explain_sqlite
from .gallery_tables import REVISION, REVISION_TABLE
from .redact import redact_address

BUSY_SECONDS = 5.0
"""How long to wait for another program that is writing to the same gallery."""

CONNECT_SECONDS = 10
"""How long a server may take to answer; `connect_timeout` in the URL says otherwise."""

READ_SECONDS = 1.0
"""How long a reader waits for somebody who has locked a whole table, as migrations do."""

MIGRATING = 0x6661_6365
"""PostgreSQL's advisory lock while tables are made: two programs may start at once."""


class Database:
    """One open gallery database. Thread-safe; every method may be called from any thread."""

    def __init__(self, url: URL) -> None:
        """Prepare the engine; nothing is opened before the first transaction."""
        # A password may stand among the parameters too, where SQLAlchemy does not hide it.
        self.place = redact_address(url.render_as_string(hide_password=True))
        self._secret = url.password
        self._sqlite = url.get_backend_name() == "sqlite"
        self._turn: AbstractContextManager[Any] = nullcontext()
        # Parameters of a statement are people's names and faces: they belong in no error.
        options: dict[str, Any] = {"hide_parameters": True}
        if self._sqlite:
            self.place = url.database or "the temporary gallery"
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
            if not url.database:
                # A database in memory lives in its one connection: threads take turns.
                options["poolclass"] = StaticPool
                self._turn = threading.RLock()
        else:
            # A connection that a restarted server has dropped is replaced and not an error.
            options["pool_pre_ping"] = True
            if "connect_timeout" not in url.query:
                options["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
        try:
            self._engine = create_engine(url, **options)
        except ModuleNotFoundError as error:
            raise GalleryUnreadable(
                f"cannot use the gallery {self.place}: {error}; "
                "`pip install 'facestream[postgres]'` brings what PostgreSQL needs"
            ) from error
        except (ArgumentError, NoSuchModuleError) as error:
            raise GalleryUnreadable(f"cannot use the gallery {self.place}: {error}") from error
        if self._sqlite:
            _tune_sqlite(self._engine)
            self._reading = self._engine
            self._writing = self._engine.execution_options(facestream_writes=True)
        else:
            self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ")
            self._writing = self._engine.execution_options(isolation_level="READ COMMITTED")
            _bound_waiting(self._writing, BUSY_SECONDS)
            _bound_waiting(self._reading, READ_SECONDS)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """One transaction: all of it happens, or nothing. All reads of one see the same version.

        Errors of the database become ours: raises GalleryUnreadable (locked, damaged, not a
        database, unreachable) or GalleryError (read-only, no space left).
        """
        engine = self._writing if write else self._reading
        with self._turn:
            try:
                with engine.begin() as connection:
                    yield connection
            except DBAPIError as error:
                raise self._explain(error) from error
            except sqlite3.Error as error:  # from the listeners below, before SQLAlchemy's own
                raise explain_sqlite(error, self.place, BUSY_SECONDS) from error

    def prepare(self, *, create: bool) -> None:
        """Make sure that this is a gallery which this code knows, making it if `create` says so."""
        with self.transaction() as connection:
            found = _revision(connection)
            names = set(inspect(connection).get_table_names())
        if found == REVISION:
            return
        from . import migrations  # costs a tenth of a second, and a gallery is made once

        if found is not None and found not in migrations.revisions():
            raise GalleryUnreadable(
                f"{self.place} was written by a newer facestream (gallery revision {found}, this "
                f"one knows up to {REVISION}): update facestream"
            )
        # SQLite files are ours alone; a server's database may hold other tables beside ours.
        if found is None and (not create or (self._sqlite and names)):
            raise GalleryUnreadable(f"{self.place} is not a gallery: it lacks the gallery's tables")
        if self._sqlite:
            self._write_ahead()
        with self.transaction(write=True) as connection:
            if not self._sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATING})"))
            migrations.upgrade(connection)

    def forget_deleted(self) -> None:
        """Take deleted rows out of the files, as far as the database lets us.

        SQLite overwrote them and now empties its write-ahead log (one in use is left alone).
        PostgreSQL frees their space, and overwrites it when it is used again.
        """
        if self._sqlite:
            self._pragma("PRAGMA wal_checkpoint(TRUNCATE)")
            return
        alone = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with alone.connect() as connection:
                connection.execute(text("VACUUM embedding, sample, identity"))
        except DBAPIError as error:
            raise self._explain(error) from error

    def _explain(self, error: DBAPIError) -> GalleryError:
        return explain(error, self.place, BUSY_SECONDS, self._secret)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _write_ahead(self) -> None:
        """Readers and one writer at a time do not wait for each other; the file remembers it."""
        self._pragma("PRAGMA journal_mode = WAL")

    def _pragma(self, statement: str) -> None:
        """Run a statement that SQLite refuses inside a transaction."""
        with self._turn:
            try:
                with self._engine.connect() as connection:
                    raw = connection.connection.dbapi_connection
                    assert raw is not None
                    raw.execute(statement).close()
            except sqlite3.Error as error:
                raise explain_sqlite(error, self.place, BUSY_SECONDS) from error


def locate(place: str | Path, *, create: bool) -> URL:
    """The URL of a gallery given by path or SQLAlchemy URL; makes an empty private file if asked.

    A gallery holds biometric data: a new file can be read by its owner only.
    """
    if "://" in str(place):
        try:
            url = make_url(str(place))
        except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
            raise GalleryUnreadable(
                "the gallery's address is neither a file nor a URL such as sqlite:////data/gallery.db"
            ) from error
    else:
        url = URL.create("sqlite", database=str(Path(place).expanduser()))
    if "@" in (url.host or ""):
        raise GalleryUnreadable(
            "the gallery's address has a second @, so a part of its password would be taken for "
            "the server's name: write @ in a password as %40"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # whatever SQLAlchemy's own default is
    file = url.database
    if url.get_backend_name() != "sqlite" or not file or file.startswith("file:"):
        return url
    if file == ":memory:":
        return url.set(database="")
    path = Path(file)
    if path.is_dir():
        raise GalleryUnreadable(f"{path} is a folder, expected a file such as {path}/gallery.db")
    if not create:
        if not path.exists():
            raise GalleryUnreadable(
                f"there is no gallery at {redact_address(str(path))}: "
                "make one with `facestream enroll FOLDER`"
            )
        return url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise GalleryUnreadable(f"cannot make a gallery at {path}: {error.strerror}") from error
    return url


def _tune_sqlite(engine: Engine) -> None:
    """Transactions as SQLite means them, not as Python's driver guesses them."""

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON").close()
        connection.execute("PRAGMA secure_delete = ON").close()

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # A writer asks for the lock at once: one that starts as a reader could not wait for it.
        writes = connection.get_execution_options().get("facestream_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _bound_waiting(engine: Engine, seconds: float) -> None:
    """Who meets a lock waits so long and no longer; writers as long as SQLite's do."""

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(seconds * 1000)}ms'")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {REVISION_TABLE}")).scalar()
    return None if found is None else str(found)
