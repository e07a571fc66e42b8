"""The gallery on a real PostgreSQL: what it does as SQLite does, and its own ways to fail."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from facestream import EnrolmentRefused, GalleryError, GalleryUnreadable, UnknownIdentity
from facestream.stream import gallery_engine
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_errors import explain
from facestream.stream.gallery_tables import REVISION_TABLE, metadata

from ..postgres_server import PostgresServer
from .test_gallery import add, digest

psycopg = pytest.importorskip("psycopg", reason="POSTGRESQL IS NOT TESTED: no psycopg, an extra")


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_gallery()


@pytest.fixture
def gallery(url: str) -> Iterator[Gallery]:
    with Gallery.open(url, create=True) as opened:
        yield opened


def raw(url: str) -> Any:
    return psycopg.connect(url, autocommit=True)


def test_it_keeps_what_sqlite_keeps(gallery: Gallery) -> None:
    assert gallery.version() == 0
    add(gallery, "Zoë", [5, 0], "z1", quality=3.0, notes="night shift")
    add(gallery, "Anna", [0, -2], "a1")
    add(gallery, "Zoë", [0, 0.1], "z2", quality=4.0)
    assert not add(gallery, "Zoë", [0, 0.1], "z2")
    with pytest.raises(EnrolmentRefused, match="already enrolled as Anna"):
        add(gallery, "Bob", [1, 0], "a1")
    with pytest.raises(GalleryError, match="have 2 numbers, got 3"):
        add(gallery, "Bob", [1, 0, 0])
    templates = gallery.templates("open")
    assert templates.names == ("Zoë", "Anna") and templates.version == gallery.version() == 4
    np.testing.assert_allclose(templates.vectors, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)
    assert [s.source for s in gallery.show("Zoë").samples] == ["z1", "z2"]
    assert gallery.remove("Zoë") == 2
    with pytest.raises(UnknownIdentity, match="nearest name is Anna"):
        gallery.show("Ana")
    assert gallery.holder(digest("a1"), pack="open", embedder="e" * 64) == "Anna"


def test_a_removed_person_leaves_no_row(gallery: Gallery, url: str) -> None:
    add(gallery, "Anna", [1, 0])
    gallery.remove("Anna")
    with raw(url) as connection:
        for table in ("identity", "sample", "embedding"):
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)


def test_space_that_cannot_be_freed_is_a_warning_and_the_person_is_gone(
    gallery: Gallery, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gallery_engine, "VACUUM_SECONDS", 0.2)
    add(gallery, "Anna", [1, 0])
    with raw(url) as connection, connection.transaction():
        # VACUUM waits for such a lock, and removing does not.
        connection.execute("LOCK TABLE embedding IN SHARE UPDATE EXCLUSIVE MODE")
        assert gallery.remove("Anna") == 1
    assert gallery.identities() == []
    assert "what was removed is gone" in caplog.text and "autovacuum" in caplog.text
    add(gallery, "Bob", [1, 0])
    with gallery._database.transaction() as connection:  # no connection keeps VACUUM's limits
        for setting in ("statement_timeout", "lock_timeout"):
            told = connection.execute(text(f"SHOW {setting}")).scalar_one()
            assert told == ("0" if setting == "statement_timeout" else "1s")


def test_the_short_name_of_the_scheme_is_known_too(gallery: Gallery, url: str) -> None:
    add(gallery, "Anna", [1, 0])
    with Gallery.open(url.replace("postgresql://", "postgres://"), create=False) as same:
        assert [person.name for person in same.identities()] == ["Anna"]


def test_migrations_make_the_tables_of_the_code(gallery: Gallery, url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": REVISION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_two_programs_may_make_it_at_once(url: str) -> None:
    failures: list[BaseException] = []

    def begin(name: str) -> None:
        try:
            with Gallery.open(url, create=True) as gallery:
                for number in range(10):
                    add(gallery, f"{name}{number}", [1, number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=begin, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with Gallery.open(url, create=False) as gallery:
        assert gallery.version() == len(gallery.identities()) == 30


def test_a_reader_sees_one_version_while_another_program_writes(gallery: Gallery, url: str) -> None:
    with Gallery.open(url, create=False) as reader:
        thread = threading.Thread(target=lambda: [add(gallery, f"{i}", [1, i]) for i in range(40)])
        thread.start()
        while thread.is_alive():
            templates = reader.templates("open")
            assert len(templates.names) == templates.version
        thread.join(60)
        assert reader.version() == 40


def test_an_empty_database_is_no_gallery_unless_one_is_to_be_made(url: str) -> None:
    with pytest.raises(GalleryUnreadable, match="lacks the gallery's tables"):
        Gallery.open(url, create=False)
    with raw(url) as connection:
        connection.execute("CREATE TABLE other_program (id integer)")
    Gallery.open(url, create=True).close()  # a server's database may hold other tables


def test_a_gallery_of_a_newer_program_is_left_alone(gallery: Gallery, url: str) -> None:
    with raw(url) as connection:
        connection.execute(f"UPDATE {REVISION_TABLE} SET version_num = '9999'".encode())
    with pytest.raises(GalleryUnreadable, match=r"newer facestream .*9999.*update facestream"):
        Gallery.open(url, create=True)


def test_a_locked_gallery_is_reported_and_can_still_be_read(
    gallery: Gallery, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_engine, "BUSY_SECONDS", 0.1)
    with psycopg.connect(url) as other:
        other.execute("SELECT version FROM gallery_state FOR UPDATE")
        with pytest.raises(GalleryUnreadable, match="locked by another program"):
            add(gallery, "Anna", [1, 0])
        assert gallery.version() == 0
    assert add(gallery, "Anna", [1, 0])


def test_a_read_only_server_can_be_read_and_says_why_it_does_not_change(
    gallery: Gallery, url: str
) -> None:
    add(gallery, "Anna", [1, 0])
    reading = f"{url}%20-cdefault_transaction_read_only%3Don"
    with Gallery.open(reading, create=False) as reader:
        assert reader.templates("open").names == ("Anna",)
        with pytest.raises(GalleryError, match="read-only: nothing was changed"):
            reader.remove("Anna")


def test_a_server_that_is_gone_is_reported_and_found_again(
    gallery: Gallery, postgres: PostgresServer
) -> None:
    add(gallery, "Anna", [1, 0])
    postgres.stop()
    try:
        with pytest.raises(GalleryUnreadable, match="cannot be used") as gone:
            gallery.version()
        assert postgres.password not in str(gone.value)
    finally:
        postgres.start()
    assert gallery.version() == 1
    assert add(gallery, "Bob", [0, 1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong-hush"}, "password authentication failed"),
        ({"database": "nosuch"}, "does not exist"),
        ({"port": 1}, "refused"),
        ({"username": "nosuch", "password": "wrong-hush"}, "password authentication failed"),
    ],
)
def test_no_error_and_no_traceback_holds_a_password(
    url: str, change: dict[str, Any], reason: str, postgres: PostgresServer
) -> None:
    wrong = make_url(url).set(**change).render_as_string(hide_password=False)
    with pytest.raises(GalleryUnreadable, match=reason) as error:
        Gallery.open(wrong, create=False)
    told = "".join(traceback.format_exception(error.value))
    assert "wrong-hush" not in told and postgres.password not in told
    with Gallery.open(url, create=True) as gallery:
        assert "***" in gallery.place and postgres.password not in gallery.place


def test_people_are_in_no_error_of_the_database(gallery: Gallery, url: str) -> None:
    with raw(url) as connection:
        connection.execute("DROP TABLE embedding")
    name = "-".join(("Anna", "Secret"))  # a traceback shows this file's lines too
    with pytest.raises(GalleryUnreadable, match="does not exist") as error:
        add(gallery, name, [1, 0])
    assert name not in "".join(traceback.format_exception(error.value))


def test_a_full_disk_of_the_server_is_told_as_such() -> None:
    full = psycopg.errors.DiskFull("could not extend file: No space left on device")
    told = explain(DBAPIError("INSERT", None, full), "postgresql://host/people", 5.0)
    assert type(full).sqlstate == "53100"
    assert type(told) is GalleryError
    assert "full or failing: what was stored is intact; free space and repeat" in str(told)
