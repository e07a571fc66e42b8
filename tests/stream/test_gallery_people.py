"""What is kept of people beside their faces, in SQLite and PostgreSQL alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from facestream import EnrolmentRefused, GalleryError, UnknownIdentity
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_engine import Database, locate
from facestream.stream.gallery_records import Change, NewSample, day
from facestream.stream.gallery_tables import REVISION

from .test_gallery import add

DAY = 86400.0


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    """Anna, Bob and Carl, one photo each: version 3."""
    with Gallery.open(place, create=True) as opened:
        for number, name in enumerate(("Anna", "Bob", "Carl")):
            add(opened, name, [1, number])
        yield opened


def counts(place: str, *tables: str) -> list[int]:
    url = locate(place, create=False)
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [connection.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in tables]
    engine.dispose()
    return found


# Changes


def test_a_change_is_one_version_and_says_what_and_never_to_what(gallery: Gallery) -> None:
    change = Change(
        name="Anna Smith",
        notes="night shift",
        basis="consent 2026-17",
        valid_from=DAY,
        valid_until=2 * DAY,
        keep_until=3 * DAY,
        labels={"team": "red", "badge": "17"},
    )
    assert gallery.edit("Anna", change)
    assert gallery.version() == 4
    shown = gallery.show("Anna Smith")
    anna = shown.identity
    assert (anna.notes, anna.basis) == ("night shift", "consent 2026-17")
    assert (anna.valid_from, anna.valid_until, anna.keep_until) == (DAY, 2 * DAY, 3 * DAY)
    assert anna.labels == {"badge": "17", "team": "red"}
    entry = shown.history[-1]
    assert (entry.action, entry.name, entry.version) == ("edit", "Anna Smith", 4)
    assert entry.details == "name, notes, basis, valid_from, valid_until, keep_until, labels"

    assert not gallery.edit("Anna Smith", change)
    assert not gallery.edit("Anna Smith", Change())
    assert gallery.version() == 4
    assert gallery.edit("Anna Smith", Change(valid_until=None, labels={"team": None, "new": "1"}))
    anna = gallery.show("Anna Smith").identity
    assert (anna.valid_until, anna.labels) == (None, {"badge": "17", "new": "1"})
    assert anna.notes == "night shift"
    assert [person.name for person in gallery.identities()] == ["Anna Smith", "Bob", "Carl"]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (Change(notes="new", name="Bob"), GalleryError, "the name Bob belongs to somebody else"),
        (Change(notes="new", name="a\nb"), EnrolmentRefused, "cannot be printed"),
        (Change(notes="new", valid_from=DAY, valid_until=DAY), GalleryError, "must come after"),
        (Change(notes="new", valid_until=float("nan")), GalleryError, "between the years"),
        (Change(notes="new", keep_until=-1.0), GalleryError, "between the years"),
        (Change(notes="new", labels={"a=b": "1"}), GalleryError, "a label's key has"),
        (Change(notes="new", labels={"": "1"}), GalleryError, "a label's key"),
        (Change(notes="new", labels={"x" * 101: "1"}), GalleryError, "a label's key"),
        (Change(notes="new", labels={"key": "\x00"}), GalleryError, "label key must be text"),
        (Change(notes="caf\udce9"), GalleryError, "notes must be text"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    gallery: Gallery, change: Change, error: type[GalleryError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        gallery.edit("Anna", change)
    assert gallery.version() == 3
    assert gallery.show("Anna").identity.notes == ""


def test_a_validity_that_is_half_there_is_compared_with_the_new_half(gallery: Gallery) -> None:
    gallery.edit("Anna", Change(valid_until=DAY))
    with pytest.raises(GalleryError, match="must come after"):
        gallery.edit("Anna", Change(valid_from=2 * DAY))


# Validity and retention


def test_only_who_is_valid_has_a_template_and_the_others_are_told(gallery: Gallery) -> None:
    gallery.edit("Anna", Change(valid_from=10.0, valid_until=20.0))
    gallery.edit("Carl", Change(keep_until=15.0))

    def at(now: float) -> tuple[tuple[str, ...], tuple[str, ...], float | None]:
        found = gallery.templates("open", now=now)
        assert found.version == 5 and found.missing == ()
        assert len(found.vectors) == len(found.names)
        return found.names, found.expired, found.changes_at

    assert at(9.0) == (("Bob", "Carl"), ("Anna",), 10.0)
    assert at(10.0) == (("Anna", "Bob", "Carl"), (), 15.0)
    assert at(15.0) == (("Anna", "Bob"), ("Carl",), 20.0)
    assert at(20.0) == (("Bob",), ("Anna", "Carl"), None)
    anna, _, carl = gallery.identities()
    assert anna.why_not(9.0) == f"is not valid before {day(10.0)}"
    assert anna.why_not(10.0) == carl.why_not(14.0) == ""
    assert anna.why_not(20.0) == f"expired on {day(20.0)}"
    assert carl.why_not(15.0) == f"was to be kept until {day(15.0)}"
    assert day(datetime(2026, 1, 2).timestamp()) == "2026-01-02"
    assert day(datetime(2026, 1, 2, 3, 4).timestamp()) == "2026-01-02 03:04"


def test_purging_erases_in_one_change_who_was_kept_long_enough(
    gallery: Gallery, place: str
) -> None:
    gallery.edit("Anna", Change(keep_until=10.0, labels={"team": "red"}))
    gallery.edit("Bob", Change(keep_until=20.0))
    gallery.make_watchlist("Staff")
    gallery.put_on("Staff", ["Anna", "Bob", "Carl"])
    assert gallery.purge(now=9.0) == ()
    assert gallery.version() == 7
    assert gallery.purge(now=20.0) == ("Anna", "Bob")
    assert gallery.version() == 8
    assert counts(place, "identity", "sample", "embedding", "label", "watchlist_member") == [
        *(1, 1, 1, 0, 1)
    ]
    entries = gallery.history()[-2:]
    assert [(e.action, e.name, e.version) for e in entries] == [("purge", None, 8)] * 2


# Watchlists


def test_watchlists_hold_people(gallery: Gallery) -> None:
    gallery.make_watchlist("Staff", notes="doors A to C")
    assert gallery.put_on("Staff", ["Carl", "Anna", "Anna"]) == 2
    assert gallery.put_on("Staff", ["Anna"]) == 0
    assert gallery.version() == 5
    (staff,) = gallery.watchlists()
    assert (staff.name, staff.notes, staff.members) == ("Staff", "doors A to C", ("Anna", "Carl"))
    assert gallery.show("Anna").identity.watchlists == ("Staff",)
    assert gallery.show("Bob").identity.watchlists == ()
    assert gallery.show("Anna").history[-1].details == "put on Staff"
    assert gallery.take_off("Staff", ["Anna", "Bob"]) == 1
    gallery.remove("Carl")
    assert gallery.watchlists()[0].members == ()
    gallery.remove_watchlist("Staff")
    assert gallery.watchlists() == []
    assert [e.action for e in gallery.history()[-3:]] == ["watchlist", "remove", "watchlist"]
    assert len(gallery.identities()) == 2


def test_watchlists_that_clash_or_are_unknown_are_told_and_nothing_changes(
    gallery: Gallery,
) -> None:
    with pytest.raises(GalleryError, match="no watchlist Staff in the gallery: there is none yet"):
        gallery.put_on("Staff", ["Anna"])
    gallery.make_watchlist("Staff")
    with pytest.raises(GalleryError, match="there is a watchlist Staff already"):
        gallery.make_watchlist(" Staff ")
    with pytest.raises(UnknownIdentity, match="nearest name is Anna"):
        gallery.put_on("Staff", ["Bob", "Ann"])
    with pytest.raises(GalleryError, match="there are Staff"):
        gallery.remove_watchlist("Stuff")
    assert gallery.watchlists()[0].members == ()
    assert gallery.version() == 4


# The audit trail


def test_the_trail_names_nobody_who_is_erased(gallery: Gallery, place: str) -> None:
    gallery.edit("Anna", Change(name="Anna Zanzibar", notes="Zanzibar", labels={"a": "Zanzibar"}))
    gallery.remove("Anna Zanzibar")
    gone = [entry for entry in gallery.history() if entry.name is None]
    assert [entry.action for entry in gone] == ["enrol", "edit", "remove"]
    assert len({entry.id for entry in gone}) == 1
    add(gallery, "Anna", [1, 5])
    assert gallery.show("Anna").identity.id != gone[0].id  # the same name, somebody new
    assert "Zanzibar" not in str(gallery.history())
    if "://" not in place:
        files = [Path(place), Path(place + "-wal")]
        assert not any(b"Zanzibar" in f.read_bytes() for f in files if f.exists())


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'me'", "DELETE FROM audit"])
def test_the_database_itself_refuses_to_change_the_trail(
    gallery: Gallery, place: str, statement: str
) -> None:
    before = gallery.history()
    engine = create_engine(locate(place, create=False))
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()
    assert gallery.history() == before


# Over


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(valid_until=DAY), "Anna expired on 1970-01-02.*--valid-until"),
        (Change(keep_until=DAY), "Anna was to be kept until 1970-01-02.*--keep-until"),
    ],
)
def test_nobody_is_enrolled_into_an_identity_whose_time_is_over(
    gallery: Gallery, change: Change, words: str
) -> None:
    gallery.edit("Anna", change)
    version = gallery.version()
    for notes in (None, "new"):
        with pytest.raises(EnrolmentRefused, match=words):
            add(gallery, "Anna", [2, 1], "a2", notes=notes)
    assert gallery.version() == version and gallery.show("Anna").identity.notes == ""
    gallery.edit("Anna", Change(valid_until=None, keep_until=None, valid_from=4e9))
    assert add(gallery, "Anna", [2, 1], "a2")  # who is yet to be valid is enrolled


def test_who_is_given_more_time_in_the_same_step_is_enrolled(gallery: Gallery) -> None:
    gallery.edit("Anna", Change(valid_until=DAY))
    new = NewSample(
        identity="Anna",
        embedding=np.ones(2, np.float32),
        norm=1.0,
        quality=1.0,
        source="a2.jpg",
        digest="a2",
    )
    (refused,) = gallery.add_samples([new], pack="open", embedder="e" * 64).answers
    assert isinstance(refused, EnrolmentRefused)
    longer = msgspec.structs.replace(new, change=Change(valid_until=None))
    assert gallery.add_samples([longer], pack="open", embedder="e" * 64).answers == (True,)


# From the first revision


def make_first(place: str) -> None:
    """A gallery as revision 0001 left it: Anna and Bob enrolled, Carl enrolled and removed, and
    before him another Bob."""
    from facestream.stream import migrations

    database = Database(locate(place, create=True))
    scripts = migrations._scripts()
    whole = scripts._upgrade_revs
    with pytest.MonkeyPatch.context() as patch:
        scripts._upgrade_revs = lambda _, revision: whole("0001", revision)
        patch.setattr(migrations, "_scripts", lambda _: scripts)
        with database.transaction(write=True) as connection:
            migrations.upgrade(connection)
            for key, name in enumerate(("Anna", "Bob"), 1):
                vector = np.array([key, 1], "<f4").tobytes()
                for statement, values in (
                    ("identity (id, name, notes, created_at) VALUES (:key, :name, 'old', 5)", {}),
                    (
                        "sample (id, identity_id, source, digest, created_at) "
                        "VALUES (:key, :key, 'a.jpg', :name, 5)",
                        {},
                    ),
                    (
                        "embedding (id, sample_id, pack, embedder, dimension, vector, norm, "
                        "quality, created_at) "
                        "VALUES (:key, :key, 'open', 'e', 2, :vector, 1, 1, 5)",
                        {"vector": vector},
                    ),
                ):
                    row = {"key": key, "name": name, **values}
                    connection.execute(text(f"INSERT INTO {statement}"), row)
            for version, (action, name) in enumerate(
                [
                    *(("enrol", "Bob"), ("remove", "Bob"), ("enrol", "Anna"), ("enrol", "Bob")),
                    *(("enrol", "Carl"), ("remove", "Carl")),
                ],
                1,
            ):
                connection.execute(
                    text(
                        "INSERT INTO audit (id, at, actor, action, identity, version) "
                        "VALUES (:v, 5, 'me', :action, :name, :v)"
                    ),
                    {"v": version, "action": action, "name": name},
                )
            connection.execute(text("UPDATE gallery_state SET version = 6"))
    database.close()


def test_a_gallery_of_the_first_revision_is_brought_up_to_date_and_loses_nothing(
    place: str,
) -> None:
    make_first(place)
    with Gallery.open(place, create=False) as gallery:
        assert gallery.version() == 6
        people = gallery.identities()
        assert [(p.name, p.notes, p.samples, p.packs) for p in people] == [
            ("Anna", "old", 1, ("open",)),
            ("Bob", "old", 1, ("open",)),
        ]
        assert len({p.id for p in people}) == 2 and all(len(p.id) == 32 for p in people)
        trail = gallery.history()
        assert [(e.action, e.name) for e in trail] == [
            *(("enrol", None), ("remove", None), ("enrol", "Anna"), ("enrol", "Bob")),
            *(("enrol", None), ("remove", None)),
        ]
        assert [entry.id for entry in trail[2:4]] == [person.id for person in people]
        assert trail[0].id == trail[1].id and trail[4].id == trail[5].id
        assert len({entry.id for entry in trail}) == 4  # the first Bob is not the one of today
        assert gallery.templates("open").names == ("Anna", "Bob")
        assert gallery.packs.in_use() == ("open", "e")
        # Ids that databases count out themselves go on behind those that are there.
        for table in ("identity", "sample", "embedding"):
            if "://" in place:
                import psycopg

                with psycopg.connect(place) as connection:
                    connection.execute(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 2)".encode()
                    )
        assert gallery.edit("Anna", Change(notes="new"))
        assert add(gallery, "Carl", [1, 1], embedder="e")
        assert gallery.history()[-1].version == 8
    if "://" in place:
        import psycopg

        with psycopg.connect(place) as connection:
            found = connection.execute("SELECT version_num FROM gallery_revision").fetchone()
    else:
        raw = sqlite3.connect(place)
        found = raw.execute("SELECT version_num FROM gallery_revision").fetchone()
        raw.close()
    assert found == (REVISION,)
