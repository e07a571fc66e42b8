"""A database connection, of the gallery or of sightings: opening, transactions, errors in words.

SQLite: write-ahead log, foreign keys, a busy timeout, deleted rows overwritten. PostgreSQL, by its
SQLAlchemy URL: readers see one snapshot, writers wait for one row as long as for SQLite's file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from .. import FacestreamError
from .gallery_errors import GALLERY, Kind, explain, explain_sqlite
from .redact import redact_address

BUSY_SECONDS = 5.0
"""How long to wait for another program that is writing to the same database."""

CONNECT_SECONDS = 10
"""How long a server may take to answer; `connect_timeout` in the URL says otherwise."""

KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that has gone without a word is noticed within half a minute: libpq's parameters."""

VACUUM_SECONDS = 10.0
"""How long a server may take to free the space of removed people."""

READ_SECONDS = 1.0
"""How long a reader waits for somebody who has locked a whole table, as migrations do."""

MIGRATING = 0x6661_6365
"""PostgreSQL's advisory lock while tables are made: two programs may start at once."""


log = logging.getLogger(__name__)


class Database:
    """One open database. Thread-safe; every method may be called from any thread.

    Errors are those of its kind: where this says GalleryError, sightings say SightingsError.
    """

    def __init__(self, url: URL, kind: Kind = GALLERY) -> None:
        """Prepare the engine; nothing is opened before the first transaction."""
        self._kind = kind
        # A password may stand among the parameters too, where SQLAlchemy does not hide it.
        self.place = redact_address(url.render_as_string(hide_password=True))
        self._secret = url.password
        self._log_is_full = False
        self._sqlite = url.get_backend_name() == "sqlite"
        self._turn: AbstractContextManager[Any] = nullcontext()
        # Parameters of a statement are people's names and faces: they belong in no error.
        options: dict[str, Any] = {"hide_parameters": True}
        if self._sqlite:
            self.place = url.database or f"the temporary {kind.noun}"
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
            if not url.database:
                # A database in memory lives in its one connection: threads take turns.
                options["poolclass"] = StaticPool
                self._turn = threading.RLock()
        else:
            # A connection that a restarted server has dropped is replaced and not an error.
            options["pool_pre_ping"] = True
            ours = {"connect_timeout": CONNECT_SECONDS, **KEEPALIVE}
            options["connect_args"] = {k: v for k, v in ours.items() if k not in url.query}
        try:
            self._engine = create_engine(url, **options)
        except ModuleNotFoundError as error:
            raise kind.unreadable(
                f"cannot use the {kind.noun} {self.place}: {error}; "
                "`pip install 'facestream[postgres]'` brings what PostgreSQL needs"
            ) from error
        except (ArgumentError, NoSuchModuleError) as error:
            raise kind.unreadable(f"cannot use the {kind.noun} {self.place}: {error}") from error
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
                raise explain_sqlite(error, self.place, BUSY_SECONDS, self._kind) from error
        if write and self._log_is_full:
            self._empty_log(0.0)

    def prepare(self, *, create: bool) -> None:
        """Make sure that this is what this code knows, making it if `create` says so."""
        kind = self._kind
        with self.transaction() as connection:
            found = _revision(connection, kind.revision_table)
            names = set(inspect(connection).get_table_names())
        if found == kind.revision:
            return
        from . import migrations  # costs a tenth of a second, and a gallery is made once

        if found is not None and found not in migrations.revisions(kind):
            raise kind.unreadable(
                f"{self.place} was written by a newer facestream ({kind.noun} revision {found}, "
                f"this one knows up to {kind.revision}): update facestream"
            )
        # SQLite files are ours alone; a server's database may hold other tables beside ours.
        strange = self._sqlite and bool(names)
        if found is None and (strange or not create):
            raise (kind.unreadable if strange else kind.missing)(
                f"{self.place} is not a {kind.noun}: it lacks the {kind.noun}'s tables"
            )
        if self._sqlite:
            self._write_ahead()
        with self.transaction(write=True) as connection:
            if not self._sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATING})"))
            migrations.upgrade(connection, kind)

    def forget_deleted(self) -> None:
        """Take deleted rows out of the files, as far as the database lets us.

        SQLite overwrote them and now empties its write-ahead log; one in use is emptied after the
        next change, or when this is closed. PostgreSQL frees their space, and overwrites it when
        it is used again. They are gone for every reader already: what fails here is a warning.
        """
        if self._sqlite:
            self._log_is_full = True
            self._empty_log(BUSY_SECONDS)
            return
        alone = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        limit = int(VACUUM_SECONDS * 1000)
        try:
            with alone.connect() as connection:
                for setting in ("lock_timeout", "statement_timeout"):
                    connection.exec_driver_sql(f"SET {setting} = '{limit}ms'")
                try:
                    connection.exec_driver_sql(f"VACUUM {', '.join(self._kind.personal)}")
                finally:
                    connection.invalidate()  # its settings are for this alone
        except DBAPIError as error:
            log.warning(
                "what was removed is gone, but the server could not free its space, which its "
                "autovacuum does later: %s",
                self._explain(error),
            )

    def _empty_log(self, patience: float) -> None:
        """Empty SQLite's write-ahead log, unless somebody reads in it for longer than that."""
        try:
            with self._turn, self._engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                raw.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}").close()
                try:
                    busy, *_ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    raw.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}").close()
        except (DBAPIError, sqlite3.Error) as error:
            log.warning("what was removed is gone, but not from the write-ahead log: %s", error)
            return
        self._log_is_full = bool(busy)

    def _explain(self, error: DBAPIError) -> FacestreamError:
        return explain(error, self.place, BUSY_SECONDS, self._secret, self._kind)

    def close(self) -> None:
        """Close every connection."""
        if self._log_is_full:
            self._empty_log(BUSY_SECONDS)
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
                raise explain_sqlite(error, self.place, BUSY_SECONDS, self._kind) from error


class Store:
    """What is kept in a database, opened by its place: the gallery, and sightings.

    Thread-safe, and safe to share between processes and machines. Every method may raise the errors
    of its kind: unreadable (locked, damaged, unreachable) or the other (read-only, no space left);
    what was stored before stays as it was.
    """

    kind: ClassVar[Kind]

    def __init__(self, database: Database) -> None:
        """Use `open` or `temporary`."""
        self._database = database

    @classmethod
    def open(cls, place: str | Path, *, create: bool) -> Self:
        """Open what lies at a path or SQLAlchemy URL; `create` makes it where there is none.

        Raises the kind's `missing` where there is none, and `unreadable` where it is something
        else, damaged, locked, or written by a newer facestream.
        """
        url = locate(place, create=create, kind=cls.kind)
        return cls._prepared(Database(url, cls.kind), create=create)

    @classmethod
    def temporary(cls) -> Self:
        """One in memory, shared by this process's threads, gone when closed."""
        return cls._prepared(Database(URL.create("sqlite"), cls.kind), create=True)

    @classmethod
    def _prepared(cls, database: Database, *, create: bool) -> Self:
        try:
            database.prepare(create=create)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def __enter__(self) -> Self:
        """Itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close every connection; what is temporary is gone."""
        self._database.close()

    @property
    def place(self) -> str:
        """Where it is, for people: the file, or the URL without its password."""
        return self._database.place


def locate(place: str | Path, *, create: bool, kind: Kind = GALLERY) -> URL:
    """The URL of a database given by path or SQLAlchemy URL; makes an empty private file if asked.

    It holds biometric data: a new file can be read by its owner only.
    """
    if "://" in str(place):
        try:
            url = make_url(str(place))
        except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
            raise kind.unreadable(
                f"the address of the {kind.noun} is neither a file nor a URL such as "
                f"sqlite:////data/{kind.file}"
            ) from error
    else:
        shown = redact_address(str(place))
        if shown != str(place) and not Path(place).exists():
            raise kind.unreadable(
                f"{shown} is no file, and an address begins with postgresql://: write the whole one"
            )
        url = URL.create("sqlite", database=str(Path(place).expanduser()))
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgres", "postgresql"):
        raise kind.unreadable(
            f"the {kind.noun} is in a SQLite file or a PostgreSQL database, whose address begins "
            f"with sqlite:// or postgresql://, got {backend}://"
        )
    if "@" in (url.host or ""):
        raise kind.unreadable(
            f"the address of the {kind.noun} has a second @, so a part of its password would be "
            "taken for the server's name: write @ in a password as %40"
        )
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")  # whatever SQLAlchemy's own default is
    file = url.database
    if url.get_backend_name() != "sqlite" or not file or file.startswith("file:"):
        return url
    if file == ":memory:":
        return url.set(database="")
    path = Path(file)
    if path.is_dir():
        raise kind.unreadable(f"{path} is a folder, expected a file such as {path}/{kind.file}")
    if not create:
        if not path.exists():
            raise kind.missing(f"there is no {kind.noun} at {path}: {kind.hint}")
        return url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise kind.unreadable(f"cannot make a {kind.noun} at {path}: {error.strerror}") from error
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


def _revision(connection: Connection, table: str) -> str | None:
    if not inspect(connection).has_table(table):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {table}")).scalar()
    return None if found is None else str(found)
