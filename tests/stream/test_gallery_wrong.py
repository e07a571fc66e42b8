"""Galleries that are none, damaged, locked, full or of another version; the tables' migrations."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event

from facestream import GalleryError, GalleryUnreadable
from facestream.stream import gallery_engine
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_tables import REVISION, REVISION_TABLE, metadata
from facestream.stream.migrations import revisions

from .test_gallery import add

# What goes wrong


def test_a_missing_gallery_names_the_command_that_makes_one(path: Path) -> None:
    with pytest.raises(GalleryUnreadable, match=r"no gallery at .*facestream enroll"):
        Gallery.open(path, create=False)
    assert not path.exists()


def test_a_folder_is_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(GalleryUnreadable, match="is a folder"):
        Gallery.open(tmp_path, create=True)


@pytest.mark.parametrize("create", [False, True])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, create: bool) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a data base, but long enough to look at\n" * 99)
    before = text.read_bytes()
    with pytest.raises(GalleryUnreadable, match="is not a gallery"):
        Gallery.open(text, create=create)
    assert text.read_bytes() == before

    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE journal (id)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(GalleryUnreadable, match="lacks the gallery's tables"):
        Gallery.open(other, create=create)
    assert other.read_bytes() == before


def test_a_gallery_of_a_newer_program_is_left_alone(path: Path) -> None:
    Gallery.open(path, create=True).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE {REVISION_TABLE} SET version_num = '9999'")
    connection.close()
    with pytest.raises(GalleryUnreadable, match=r"newer facestream .*9999.*update facestream"):
        Gallery.open(path, create=True)


def test_a_damaged_gallery_is_reported(path: Path) -> None:
    with Gallery.open(path, create=True) as gallery:
        for i in range(30):
            add(gallery, f"{i}", [float(i + 1)] * 300)
    data = bytearray(path.read_bytes())
    data[100:] = os.urandom(len(data) - 100)
    path.write_bytes(data)
    with pytest.raises(GalleryUnreadable, match="damaged"):
        Gallery.open(path, create=False)


def test_a_locked_gallery_is_reported_and_can_still_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_engine, "BUSY_SECONDS", 0.1)
    with Gallery.open(path, create=True) as gallery:
        other = sqlite3.connect(path)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(GalleryUnreadable, match="locked by another program"):
            add(gallery, "Anna", [1, 0])
        assert gallery.version() == 0
        other.close()
        assert add(gallery, "Anna", [1, 0])


def test_a_read_only_gallery_can_be_read_and_says_why_it_does_not_change(path: Path) -> None:
    with Gallery.open(path, create=True) as gallery:
        add(gallery, "Anna", [1, 0])
    with Gallery.open(f"sqlite:///file:{path}?mode=ro&uri=true", create=False) as gallery:
        assert gallery.templates("open").names == ("Anna",)
        with pytest.raises(GalleryError, match="read-only: nothing was changed"):
            gallery.remove("Anna")


def test_a_full_disk_loses_nothing(path: Path) -> None:
    def small(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 60").close()

    event.listen(Engine, "connect", small)
    try:
        with Gallery.open(path, create=True) as gallery:
            stored = 0
            with pytest.raises(GalleryError, match=r"full or failing: what was stored is intact"):
                for stored in range(1000):
                    add(gallery, f"{stored}", [1.0] * 512)
            assert gallery.version() == len(gallery.identities()) == stored > 0
    finally:
        event.remove(Engine, "connect", small)
    with Gallery.open(path, create=False) as gallery:
        assert add(gallery, "after", [1.0] * 512)


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://host/people",
        "postgresql+nosuch://a:hush@host/people",
        "postgresql+nosuch://host/people?user=a&password=hush",
        "postgresql://a:hush@host:port/people",
        "postgresql//a:hush@host/people",
        "a:hush@host/people",
    ],
)
@pytest.mark.parametrize("create", [False, True])
def test_an_address_that_cannot_be_used_is_reported_without_its_password(
    url: str, create: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        GalleryUnreadable, match=r"cannot use the gallery|nor a URL|is no file, and|got nosuch://"
    ) as error:
        Gallery.open(url, create=create)
    assert "hush" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_hold_a_gallery_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryUnreadable, match="cannot make a gallery"):
        Gallery.open(tmp_path / "file" / "gallery.db", create=True)


# Migrations


def test_migrations_make_the_tables_of_the_code(path: Path) -> None:
    Gallery.open(path, create=True).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": REVISION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_code_wants_the_newest_revision() -> None:
    assert revisions()[-1] == REVISION


def test_an_interrupted_start_leaves_no_half_made_gallery(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facestream.stream import migrations

    whole = migrations.upgrade

    def interrupted(connection: Any, kind: Any) -> None:
        whole(connection, kind)
        raise KeyboardInterrupt

    monkeypatch.setattr(migrations, "upgrade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Gallery.open(path, create=True)
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    Gallery.open(path, create=True).close()


@pytest.mark.parametrize(
    ("norm", "quality"),
    [(0.0, 0.5), (np.inf, 0.5), (np.nan, 0.5), (1.0, np.inf), (1.0, np.nan), (1.0, -2e6)],
)
def test_numbers_that_no_template_survives_are_refused(
    gallery: Gallery, norm: float, quality: float
) -> None:
    with pytest.raises(GalleryError, match="norm must be above 0"):
        gallery.add_sample(
            "ANNA",
            np.ones(4, np.float32),
            norm=norm,
            quality=quality,
            pack="tiny",
            embedder="a" * 64,
            source="anna.jpg",
            digest="1",
        )
    assert gallery.identities() == []


def test_a_second_at_sign_never_tells_the_rest_of_a_password() -> None:
    with pytest.raises(GalleryUnreadable, match="write @ in a password as %40") as refusal:
        Gallery.open("postgresql://user:half@rest-of-it@127.0.0.1:1/people", create=False)
    assert "rest-of-it" not in str(refusal.value)
