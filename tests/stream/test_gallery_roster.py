"""A roster that is brought up to date by changes is what reading everybody gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import FacestreamError
from facestream.models.ida import Anchors
from facestream.stream import gallery_roster
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_packs import NewEmbedding
from facestream.stream.gallery_records import Change
from facestream.stream.gallery_roster import Roster

from .test_gallery import EMBEDDER, add

ANCHORS = Anchors(np.eye(4, dtype=np.float32), version="v1", k=2, tau=1.0)
NAMES = ("Anna", "Bob", "Carl", "Dora")


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    with Gallery.open(place, create=True) as opened:
        yield opened


def read(gallery: Gallery, since: Roster | None = None, now: float = 100.0) -> Roster:
    return gallery.roster("open", EMBEDDER, model=ANCHORS, now=now, since=since)


def same(one: Roster, other: Roster) -> None:
    assert one._replace(vectors=0, densities=0, owners=0, negatives=0) == other._replace(  # type: ignore[arg-type]
        vectors=0, densities=0, owners=0, negatives=0
    )
    assert one.owners.tolist() == other.owners.tolist()
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.densities, other.densities)


def photo(gallery: Gallery, name: str, number: int) -> None:
    vector = np.random.default_rng(number).normal(size=4).tolist()
    add(gallery, name, vector, f"{name}-{number}", quality=1.0 + number % 3)


def embed(gallery: Gallery, name: str, number: int) -> None:
    """Another pack's embedding, for each of the person's photos."""
    made = [
        NewEmbedding(digest=sample.digest, embedding=np.ones(3, np.float32), norm=1.0, quality=1.0)
        for sample in gallery.show(name).samples
    ]
    gallery.packs.add(made, pack="omz", embedder="f" * 64)


def drop(gallery: Gallery, name: str, number: int) -> None:
    gallery.packs.drop("omz", without=[person.name for person in gallery.identities()])


CHANGES: dict[str, Callable[[Gallery, str, int], object]] = {
    "photo": photo,
    "photo again": photo,
    "remove": lambda gallery, name, _: gallery.remove(name),
    "rename": lambda gallery, name, number: gallery.edit(name, Change(name=f"{name} {number}")),
    "expire": lambda gallery, name, number: gallery.edit(name, Change(valid_until=80.0 + number)),
    "begin": lambda gallery, name, number: gallery.edit(name, Change(valid_from=90.0 + number)),
    "unbound": lambda gallery, name, _: gallery.edit(
        name, Change(valid_from=None, valid_until=None, keep_until=None)
    ),
    "keep": lambda gallery, name, number: gallery.edit(name, Change(keep_until=90.0 + number)),
    "purge": lambda gallery, _, number: gallery.purge(now=90.0 + number),
    "measure": lambda gallery, _, __: gallery.measure("open", EMBEDDER, ANCHORS),
    "other pack": embed,
    "drop": drop,
}


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(NAMES), st.integers(0, 40)),
        max_size=16,
    ),
    looks=st.sets(st.integers(0, 16)),
)
def test_changes_give_what_reading_everybody_gives(
    steps: list[tuple[str, str, int]], looks: set[int]
) -> None:
    with Gallery.temporary() as gallery:
        for number, name in enumerate(NAMES):
            photo(gallery, name, number)
        gallery.measure("open", EMBEDDER, ANCHORS)
        roster = read(gallery)
        for at, (change, name, number) in enumerate(steps):
            try:
                CHANGES[change](gallery, name, number)
            except FacestreamError:
                continue  # nobody of that name any more, or nothing to drop
            if at in looks and gallery.version() != roster.version:
                now = 100.0 + at
                roster = read(gallery, roster, now)
                whole = read(gallery, now=now)
                # A density that was measured since is no change: the follower has its own.
                known = ~np.isnan(roster.densities)
                same(roster._replace(densities=whole.densities), whole)
                np.testing.assert_array_equal(roster.densities[known], whole.densities[known])


def test_only_who_changed_is_read(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(NAMES):
        photo(gallery, name, number)
    roster = read(gallery)
    fused: list[int] = []
    whole = gallery_roster.fuse

    def counted(raw: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        fused.append(len(raw))
        return whole(raw, *rest)

    monkeypatch.setattr(gallery_roster, "fuse", counted)
    photo(gallery, "Bob", 7)
    gallery.remove("Carl")
    photo(gallery, "Emil", 8)
    roster = read(gallery, roster)
    assert fused == [3]  # two of Bob, one of Emil
    assert [one.name for one in roster.people] == ["Anna", "Bob", "Dora", "Emil"]
    same(roster, read(gallery))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_everybody_is_read_where_the_trail_does_not_tell(
    gallery: Gallery, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(NAMES):
        photo(gallery, name, number)
    before = read(gallery)
    with Gallery.open(tmp_path / "other.db", create=True) as other:
        for number, name in enumerate(("Emil", "Fred", "Gina", "Hans", "Ines")):
            photo(other, name, number)
        assert {one.name for one in read(other, before).people} == {
            *("Emil", "Fred", "Gina", "Hans", "Ines")
        }
    stranger = sqlite3.connect(place)
    stranger.execute("DELETE FROM identity WHERE name = 'Bob'")
    stranger.execute("UPDATE gallery_state SET version = version + 1")
    stranger.commit()
    stranger.close()
    assert [one.name for one in read(gallery, before).people] == ["Anna", "Carl", "Dora"]
    monkeypatch.setattr(gallery_roster, "LINES", 2)
    photo(gallery, "Anna", 9)
    photo(gallery, "Dora", 9)
    same(read(gallery, before), read(gallery))


def test_somebody_who_comes_back_under_an_old_number_is_somebody_else(gallery: Gallery) -> None:
    for number, name in enumerate(NAMES):
        photo(gallery, name, number)
    roster = read(gallery)
    gallery.remove("Dora")  # the last row: SQLite gives its number to Emil
    photo(gallery, "Emil", 5)
    roster = read(gallery, roster)
    assert [one.name for one in roster.people] == ["Anna", "Bob", "Carl", "Emil"]
    same(roster, read(gallery))
    for name in ("Anna", "Bob", "Carl", "Emil"):
        gallery.remove(name)
    empty = read(gallery, roster)
    assert (empty.people, len(empty.vectors)) == ((), 0)
    photo(gallery, "Anna", 1)
    same(read(gallery, empty), read(gallery))
