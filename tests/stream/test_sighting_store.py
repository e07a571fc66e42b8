"""The sighting store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from facestream import SightingsError, SightingsUnreadable, UnknownSighting
from facestream.configs.schema import SightingsConfig
from facestream.stream.aggregate import FrameRow
from facestream.stream.gallery import Gallery
from facestream.stream.migrations import revisions
from facestream.stream.sighting_records import Crop, SightingFilter, sighting_id
from facestream.stream.sighting_store import Sightings
from facestream.stream.sighting_tables import REVISION, SIGHTINGS, metadata
from facestream.stream.sighting_weights import pack_gain, pack_rows, weigh_frames
from facestream.stream.sighting_write import DAY, Draft

from ..postgres_server import PostgresServer

EMBEDDER = "e" * 64
ANNA = "a" * 32


def draft(track: int, at: float = 1000.0, *, camera: str = "door", **more: Any) -> Draft:
    """A sighting that has ended unknown; `more` are columns, or vector and jpeg."""
    vector, jpeg = more.pop("vector", None), more.pop("jpeg", None)
    made = Draft("ep", camera, track, begins=True)
    made.values = {
        "started_at": at,
        "seen_at": at + 5,
        "ended_at": at + 5,
        "first_frame": track * 10,
        "first_pts": float(track),
        "reason": "unknown",
        "pack": "open",
        "embedder": EMBEDDER,
        "frames": 4,
        "faces": 6,
        **more,
    }
    if vector is not None:
        made.keeps_template, made.template = True, np.asarray(vector, np.float32)
    if jpeg is not None:
        made.keeps_crops, made.crops = True, [crop(jpeg)]
    return made


def crop(jpeg: bytes) -> Crop:
    box = (1.0, 2.0, 3.0, 4.0)
    return Crop(frame=3, pts=0.5, captured_at=1001.0, quality=2.0, weight=0.5, box=box, jpeg=jpeg)


def key(track: int, camera: str = "door") -> str:
    return sighting_id("ep", camera, track)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sightings.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, path: Path) -> str:
    if request.param == "sqlite":
        return str(path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_gallery()


@pytest.fixture
def store(place: str) -> Iterator[Sightings]:
    with Sightings.open(place, create=True) as opened:
        yield opened


def test_it_keeps_what_it_is_told(store: Sightings) -> None:
    told = draft(7, identity="Anna", uid=ANNA, reason="matched", score=0.6, probability=0.01)
    told.rows = [pack_rows([FrameRow(0, 70, 7.0, 1.5, [1.0]), FrameRow(2, 72, 7.1, 2.5, [3.0])])]
    told.values |= {"gain": pack_gain(np.array([0.25])), "open_rows": pack_rows([])}
    store.write([told, draft(8, 2000.0, camera="gate")])
    anna, stranger = store.list()
    assert (anna.id, anna.camera, anna.track, anna.epoch) == (key(7), "door", 7, "ep")
    assert (anna.identity, anna.uid, anna.named, anna.reason) == (
        "Anna",
        ANNA,
        "decided",
        "matched",
    )
    assert (anna.started_at, anna.ended_at, anna.first_frame) == (1000.0, 1005.0, 70)
    assert (anna.score, anna.probability, anna.frames, anna.faces) == (0.6, 0.01, 4, 6)
    assert not anna.template and anna.crops == 0
    assert (stranger.identity, stranger.uid, stranger.named) == (None, "", "")
    details = store.show(key(7)[:6])
    assert [(w.ordinal, w.frame, w.weight) for w in details.weights] == [
        (0, 70, 0.25),
        (2, 72, 0.75),
    ]
    assert store.find(key(8, "gate")) == stranger
    with pytest.raises(UnknownSighting, match="no sighting abc"):
        store.show("abcabcabc")
    with pytest.raises(UnknownSighting, match="hexadecimal"):
        store.show("%")


def test_filters(store: Sightings) -> None:
    store.write(
        [
            draft(1, 1000.0),
            draft(2, 2000.0, identity="Anna", uid=ANNA),
            draft(3, 3000.0, camera="gate", vector=[0, 1]),
            draft(4, 4000.0),
        ]
    )
    store.name({key(4): 0.7}, name="Bob", uid="b" * 32)
    store.assign({key(1): "s-1"}, among=[key(1)])

    def tracks(**wanted: Any) -> list[int]:
        chosen = SightingFilter(**wanted)
        found = [one.track for one in store.list(chosen)]
        assert store.count(chosen) >= len(found)
        return found

    assert tracks() == [1, 2, 3, 4]
    assert tracks(camera="gate") == [3]
    assert tracks(since=2000.0, until=4000.0) == [2, 3]
    assert tracks(person=("Anna",)) == tracks(person=(ANNA, "Zoe")) == [2]
    assert tracks(person=("Bob",)) == [4]
    assert tracks(unknown=True) == [1, 3]
    assert tracks(stranger="s-1") == [1]
    assert tracks(template=True) == [3]
    assert tracks(limit=2) == [3, 4]


def test_a_repeated_run_changes_nothing_and_keeps_a_given_name(store: Sightings) -> None:
    rows = pack_rows([FrameRow(0, 10, 1.0, 1.0, [1.0])])
    first = draft(1, vector=[1, 0], jpeg=b"one")
    first.rows, first.values["gain"] = [rows], pack_gain(np.ones(1))
    store.write([first])
    store.name({key(1): None}, name="Bob", uid="b" * 32)
    before = store.show(key(1))
    store.write([first])
    assert store.show(key(1)) == before
    (named,) = store.list()
    assert (named.identity, named.named, named.template, named.crops) == ("Bob", "given", True, 1)
    # Another track under the same number, of a run that the journal never knew.
    store.write([draft(1, 5000.0, first_pts=99.0)])
    (other,) = store.list()
    assert (other.identity, other.template, other.crops) == (None, False, 0)
    assert store.show(key(1)).weights == ()


def test_a_name_that_was_given_is_taken_back(store: Sightings) -> None:
    store.write([draft(1, identity="Anna", uid=ANNA), draft(2)])
    before = store.list()
    store.name({key(1): 0.7, key(2): None}, name="Bob", uid="b" * 32)
    assert [one.identity for one in store.list()] == ["Bob", "Bob"]
    assert store.unname([key(1), key(2)]) == 2 and store.list() == before
    assert store.unname([key(1), key(2)]) == 0


def test_a_name_takes_template_and_pictures_away(store: Sightings) -> None:
    store.write([draft(1, vector=[1, 0], jpeg=b"face")])
    later = Draft("ep", "door", 1, keeps_template=False, keeps_crops=False)
    later.values = {"seen_at": 1010.0, "identity": "Anna", "uid": ANNA}
    store.write([later])
    (one,) = store.list()
    assert (one.identity, one.template, one.crops, one.started_at) == ("Anna", False, 0, 1000.0)


def test_templates_of_another_embedder_are_counted_and_not_compared(store: Sightings) -> None:
    store.write(
        [
            draft(1, vector=[0.6, 0.8]),
            draft(2, 2000.0, vector=[1, 0, 0], embedder="f" * 64),
            draft(3, 3000.0, vector=[1, 0], pack="omz"),
            draft(4, 4000.0),
        ]
    )
    found = store.templates("open", EMBEDDER)
    assert [one.track for one in found.sightings] == [1] and found.other == 2
    np.testing.assert_array_equal(found.vectors, np.array([[0.6, 0.8]], np.float32))


def test_what_is_erased_stays_away(store: Sightings) -> None:
    store.write([draft(1), draft(2, identity="Anna", uid=ANNA), draft(3, identity="Anna", uid="x")])
    assert store.erase([key(1)]) == 1
    store.write([draft(1)])
    assert [one.track for one in store.list()] == [2, 3]
    assert store.erase_person("Anna") == 2 and store.erase_person("Anna") == 0
    late = Draft("ep", "door", 2, rows=[pack_rows([FrameRow(0, 1, 0.0, 1.0, [1.0])])])
    store.write([late])
    assert store.list() == ()


def test_who_was_given_another_name_is_erased_with_both(store: Sightings) -> None:
    store.write([draft(1, identity="Anna", uid=ANNA)])
    store.name({key(1): 0.5}, name="Bob", uid="b" * 32)
    assert store.people() == {ANNA, "b" * 32}
    assert store.purge(SightingsConfig(), gone=[ANNA], now=1000.0).of_erased == 1
    assert store.list() == ()


def test_retention(store: Sightings) -> None:
    now = 100 * DAY
    ages = (1, 5, 20, 40)
    for track, age in enumerate(ages):
        store.write([draft(track, now - age * DAY, vector=[1, 0], jpeg=b"face")])
    limits = SightingsConfig(keep_days=30, template_days=10, crop_days=3)
    purged = store.purge(limits, now=now)
    assert (purged.sightings, purged.templates, purged.crops) == (1, 2, 3)
    assert [(one.track, one.template, one.crops) for one in store.list()] == [
        (2, False, 0),
        (1, True, 0),
        (0, True, 1),
    ]
    assert not store.purge(limits, now=now).anything
    forever = SightingsConfig(keep_days=None, template_days=None, crop_days=None)
    assert not store.purge(forever, now=now + 9999 * DAY).anything


def test_strangers_are_assigned_anew_and_leave_with_a_name(store: Sightings) -> None:
    store.write([draft(1), draft(2), draft(3)])
    store.assign({key(1): "s-1", key(2): "s-1"}, among=[key(1), key(2)])
    store.assign({key(3): "s-2"}, among=[key(2), key(3)])
    assert [one.stranger for one in store.list()] == ["s-1", "", "s-2"]
    assert store.strangers(leave_out=[key(1)]) == {key(3): "s-2"}
    store.assign({key(2): "s-2"}, among=[key(2)])
    named = store.name({key(2): None}, name="Bob", uid="b")
    assert [one.track for one in named] == [2] and named[0].stranger == ""
    assert store.name({key(2): 0.3}, name="Bob", uid="b") == ()


def test_migrations_make_the_tables_of_the_code(store: Sightings, place: str) -> None:
    assert revisions(SIGHTINGS)[-1] == REVISION
    url = place if "://" in place else f"sqlite:///{place}"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: name != "sighting_revision"},
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_store_of_the_first_revision_is_brought_up_to_date(store: Sightings, place: str) -> None:
    store.write([draft(1)])
    store.close()
    url = place if "://" in place else f"sqlite:///{place}"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for column in ("threshold_why", "best_score"):
            connection.execute(text(f"ALTER TABLE sighting DROP COLUMN {column}"))
        connection.execute(text("UPDATE sighting_revision SET version_num = '0001'"))
    engine.dispose()
    with Sightings.open(place, create=False) as opened:
        (old,) = opened.list()
        assert (old.track, old.threshold_why, old.best_score) == (1, "", None)
        opened.write([draft(2, threshold_why="the pack's own", best_score=0.25)])
        assert opened.find(key(2)).best_score == 0.25


def test_several_runs_write_to_one_store_at_once(store: Sightings) -> None:
    def run(camera: str) -> None:
        for track in range(12):
            store.write([draft(track, 1000.0 + track, camera=camera, vector=[1, 0])])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, ["a", "b", "c", "d"]))
    assert store.count() == 48
    assert {one.camera for one in store.list(SightingFilter(template=True))} == set("abcd")


# SQLite's file


def test_erasing_leaves_no_byte_in_the_files(path: Path) -> None:
    vector = np.arange(1, 129, dtype=np.float32)
    with Sightings.open(path, create=True) as store:
        store.write(
            [draft(1, identity="Annabel Lee", uid=ANNA, vector=vector, jpeg=b"<jpeg>" * 50)]
        )
        store.write([draft(2, identity="Bob Stone", uid="b" * 32, vector=-vector)])

        def holds(content: bytes) -> bool:
            return any(content in file.read_bytes() for file in path.parent.glob("sightings.db*"))

        traces = (b"Annabel Lee", ANNA.encode(), vector.tobytes()[8:256], b"<jpeg><jpeg>")
        assert all(map(holds, traces))
        assert store.erase_person(ANNA) == 1
        assert not any(map(holds, traces))
        assert holds(b"Bob Stone")


def test_the_file_is_its_owners(path: Path) -> None:
    Sightings.open(path, create=True).close()
    assert path.stat().st_mode & 0o077 == 0


def test_what_is_no_store_is_refused_in_its_own_words(path: Path) -> None:
    with pytest.raises(SightingsUnreadable, match=r"no sighting store at .*--sightings"):
        Sightings.open(path, create=False)
    Gallery.open(path, create=True).close()
    with pytest.raises(SightingsUnreadable, match="not a sighting store"):
        Sightings.open(path, create=True)
    path.unlink()
    Sightings.open(path, create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sighting_revision SET version_num = '9999'")
    connection.close()
    with pytest.raises(SightingsUnreadable, match="newer facestream"):
        Sightings.open(path, create=False)


def test_a_locked_store_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facestream.stream import gallery_engine

    monkeypatch.setattr(gallery_engine, "BUSY_SECONDS", 0.05)
    with Sightings.open(path, create=True) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SightingsUnreadable, match="locked by another program"):
            store.write([draft(1)])
        other.execute("ROLLBACK")
        other.close()
        store.write([draft(1)])
        assert len(store.list()) == 1


# Weights


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2**40),
            st.floats(0, 1e6),
            st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_weights_are_the_same_however_their_rows_were_cut_and_repeated(
    rows: list[tuple[int, float, list[float]]], cuts: list[int]
) -> None:
    frames = [FrameRow(at, frame, pts, 1.0, row) for at, (frame, pts, row) in enumerate(rows)]
    gain = pack_gain(np.array([0.2, 0.5, 0.3]))
    whole = weigh_frames([pack_rows(frames)], gain)
    edges = sorted({0, len(frames), *(cut for cut in cuts if cut < len(frames))})
    # Each piece reaches into the one before, as those of a run that was killed do.
    pieces = [pack_rows(frames[max(0, a - 2) : b]) for a, b in pairwise(edges)]
    assert weigh_frames(pieces, gain) == whole
    shares = np.array([row for *_, row in rows], np.float32) @ np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose([one.weight for one in whole], shares / shares.sum(), rtol=1e-5)
    assert [(one.frame, one.pts) for one in whole] == [(frame, pts) for frame, pts, _ in rows]


def test_other_bytes_are_no_weights() -> None:
    with pytest.raises(SightingsError, match="got other bytes"):
        weigh_frames([b"12345678910"], pack_gain(np.ones(1)))
    with pytest.raises(SightingsError, match="not written by facestream"):
        weigh_frames([pack_rows([FrameRow(0, 0, 0.0, 1.0, [1.0])])], pack_gain(np.ones(2)))
