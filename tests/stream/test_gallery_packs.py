"""Packs side by side: embedding anew, going over in one step, and dropping the old one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facestream import GalleryError, UnknownIdentity
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_packs import NewEmbedding
from facestream.stream.gallery_records import Change
from facestream.stream.known import KnownPeople
from facestream.stream.match import GalleryIndex

from .test_gallery import EMBEDDER, add, digest

OTHER = "f" * 64


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    """Anna (two photos) and Bob, with pack open: version 3."""
    with Gallery.open(place, create=True) as opened:
        add(opened, "Anna", [1, 0], "a1")
        add(opened, "Anna", [1, 1], "a2")
        add(opened, "Bob", [0, 1], "b1")
        yield opened


def new(photo: str, *vector: float) -> NewEmbedding:
    return NewEmbedding(
        digest=digest(photo), embedding=np.array(vector, np.float32), norm=1.0, quality=1.0
    )


def embed(gallery: Gallery, *photos: str) -> tuple[bool, ...]:
    made = [new(photo, 1, 2, 3) for photo in photos]
    return gallery.packs.add(made, pack="omz", embedder=OTHER)


def statuses(gallery: Gallery, now: float | None = None) -> list[tuple[object, ...]]:
    return [
        (one.pack, one.in_use, one.dimension, one.people, one.samples, one.waiting)
        for one in gallery.packs.list(now=now)
    ]


# Beside the old one


def test_the_first_pack_that_somebody_is_enrolled_with_is_in_use(place: str) -> None:
    with Gallery.open(place, create=True) as gallery:
        assert gallery.packs.in_use() is None and gallery.packs.list() == ()
        add(gallery, "Anna", [1, 0])
        add(gallery, "Bob", [1, 0, 0], pack="omz", embedder=OTHER)
        assert gallery.packs.in_use() == ("open", EMBEDDER)
        assert gallery.templates("omz").names == ("Bob",)


def test_embeddings_of_another_pack_lie_beside_those_in_use(gallery: Gallery) -> None:
    before = gallery.templates("open")
    assert embed(gallery, "a2", "nobody's", "b1") == (True, False, True)
    assert gallery.version() == 4
    last = gallery.history()[-2:]
    assert [(e.action, e.name, e.details) for e in last] == [
        ("reembed", "Anna", "pack omz"),
        ("reembed", "Bob", "pack omz"),
    ]
    np.testing.assert_array_equal(gallery.templates("open").vectors, before.vectors)
    assert gallery.templates("omz", OTHER).names == ("Anna", "Bob")
    assert [(w.identity, w.source) for w in gallery.packs.waiting("omz", OTHER)] == [("Anna", "a1")]
    assert gallery.packs.list()[0].samples_waiting == 1
    assert embed(gallery, "a2", "a1") == (False, True)
    assert embed(gallery, "a1", "a2") == (False, False)  # a repeated run changes nothing
    assert gallery.version() == 5


def test_how_far_another_pack_is_and_who_waits_for_it(gallery: Gallery) -> None:
    add(gallery, "Carl", [1, 0])
    embed(gallery, "a1")
    assert statuses(gallery) == [
        ("omz", False, 3, 1, 1, ("Bob", "Carl")),
        ("open", True, 2, 3, 4, ()),
    ]
    gallery.edit("Bob", Change(valid_until=100.0))
    gallery.edit("Carl", Change(valid_from=200.0))
    assert statuses(gallery, now=150.0)[0][-1] == ("Carl",)  # is matched tomorrow
    assert statuses(gallery, now=50.0)[0][-1] == ("Bob", "Carl")


def test_who_was_removed_meanwhile_does_not_come_back(gallery: Gallery) -> None:
    gallery.remove("Bob")
    version = gallery.version()
    assert embed(gallery, "b1") == (False,)
    assert gallery.version() == version
    assert [person.name for person in gallery.identities()] == ["Anna"]


@pytest.mark.parametrize(
    ("vector", "match"),
    [((1.0, 2.0), "have 3 numbers, got 2"), ((0.0, 0.0, 0.0), "not zero")],
)
def test_what_is_no_embedding_of_the_pack_is_refused_and_nothing_is_kept(
    gallery: Gallery, vector: tuple[float, ...], match: str
) -> None:
    embed(gallery, "a1")
    with pytest.raises(GalleryError, match=match):
        gallery.packs.add([new("a2", 1, 2, 3)], pack="omz", embedder=OTHER) and gallery.packs.add(
            [new("b1", *vector)], pack="omz", embedder=OTHER
        )
    with pytest.raises(GalleryError, match="must have one length"):
        gallery.packs.add([new("b1", 1), new("b1", 1, 2)], pack="omz", embedder=OTHER)
    assert statuses(gallery)[0][3:5] == (1, 2)


# Going over


def test_a_switch_is_one_change_and_leaves_the_old_embeddings(gallery: Gallery) -> None:
    embed(gallery, "a1", "a2", "b1")
    version = gallery.version()
    switch = gallery.packs.switch("omz")
    assert (switch.before, switch.changed, switch.version) == ("open", True, version + 1)
    assert gallery.packs.in_use() == ("omz", OTHER)
    assert gallery.history()[-1].action == "switch"
    assert gallery.templates("open").names == gallery.templates("omz").names == ("Anna", "Bob")
    again = gallery.packs.switch("omz")
    assert not again.changed and gallery.version() == version + 1
    assert gallery.packs.switch("open").before == "omz"  # and back


def test_nobody_is_lost_by_a_switch_unless_named(gallery: Gallery) -> None:
    add(gallery, "Carl", [1, 0])
    embed(gallery, "a1")
    version = gallery.version()
    with pytest.raises(GalleryError, match=r"nothing was changed: Bob, Carl would be left .*omz"):
        gallery.packs.switch("omz")
    with pytest.raises(GalleryError, match="Carl would be left"):
        gallery.packs.switch("omz", without=["Bob"])
    with pytest.raises(UnknownIdentity):
        gallery.packs.switch("omz", without=["Bob", "Carl", "Nobody"])
    assert gallery.version() == version and gallery.packs.in_use() == ("open", EMBEDDER)
    switch = gallery.packs.switch("omz", without=["Bob", "Carl"])
    assert switch.without == ("Bob", "Carl")
    assert gallery.templates("omz").missing == ("Bob", "Carl")


def test_whose_time_is_over_hinders_no_switch(gallery: Gallery) -> None:
    embed(gallery, "a1")
    gallery.edit("Bob", Change(valid_until=100.0))
    with pytest.raises(GalleryError, match="Bob would be left"):
        gallery.packs.switch("omz", now=99.0)
    assert gallery.packs.switch("omz", now=100.0).without == ()


def test_a_pack_that_is_not_there_or_is_two_is_told(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match=r"holds no embedding of pack omz: .*reembed"):
        gallery.packs.switch("omz")
    made = [new(photo, 1, 2) for photo in ("a1", "a2", "b1")]
    gallery.packs.add(made, pack="open", embedder=OTHER)  # a newer file of the same pack
    with pytest.raises(GalleryError, match=r"2 embedder files .*--embedder eeee.* or ffff"):
        gallery.packs.switch("open")
    assert gallery.packs.switch("open", embedder="ff").embedder == OTHER
    dropped = gallery.packs.drop("open")  # the file that is not in use
    assert (dropped.embeddings, dropped.samples) == (3, 0)
    assert statuses(gallery) == [("open", True, 2, 2, 3, ())]


def test_a_reader_never_sees_half_a_switch(gallery: Gallery, place: str) -> None:
    """Whoever is enrolled with one pack alone is matched when, and only when, it is in use."""
    embed(gallery, "a1", "a2", "b1")
    ended = threading.Event()

    def go_over() -> None:
        with Gallery.open(place, create=False) as other:
            for number in range(12):
                # In one step with the embeddings that the switch needs: two packs by turns.
                pack = ("omz", "open")[number % 2]
                other.packs.switch(pack)
        ended.set()

    thread = threading.Thread(target=go_over)
    thread.start()
    seen = set()
    switches = {"open": 0, "omz": 1}
    while not ended.is_set():
        roster = gallery.roster("open", EMBEDDER)
        assert roster.in_use is not None
        seen.add(roster.in_use)
        # Version 4 was before the first switch, and each raised it by one.
        assert (roster.version - 4) % 2 == switches[roster.in_use[0]]
    thread.join(20)
    assert gallery.version() == 16 and seen <= {("open", EMBEDDER), ("omz", OTHER)}


# Dropping


def test_the_old_pack_is_dropped_with_what_only_it_knew(gallery: Gallery) -> None:
    embed(gallery, "a1", "b1")
    gallery.packs.switch("omz")
    dropped = gallery.packs.drop("open")
    assert (dropped.embeddings, dropped.samples, dropped.without) == (3, 1, ())
    assert statuses(gallery) == [("omz", True, 3, 2, 2, ())]
    assert [s.source for s in gallery.show("Anna").samples] == ["a1"]
    assert gallery.history()[-1].action == "drop-pack"


def test_marks_hold_with_their_pack_alone_and_go_with_it(gallery: Gallery) -> None:
    for pack, embedder, face in (("open", EMBEDDER, [1, 0]), ("omz", OTHER, [1, 0, 0])):
        embed(gallery, "a1", "a2", "b1")
        vector = np.array(face, np.float32)
        gallery.mark_not("Anna", vector, pack=pack, embedder=embedder, source="door")
    switch = gallery.packs.switch("omz")
    assert (switch.marks, gallery.packs.switch("omz").marks) == (1, 0)
    assert gallery.packs.drop("open").marks == 1
    assert [mark.pack for mark in gallery.marks()] == ["omz"]


def test_a_dropped_pack_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    place = tmp_path / "gallery.db"
    vector = np.random.default_rng(1).normal(size=128).astype(np.float32)
    with Gallery.open(place, create=True) as gallery:
        add(gallery, "Anna", vector.tolist(), "a1")
        embed(gallery, "a1")
        gallery.packs.switch("omz")
        files = [place, place.with_name(place.name + "-wal")]
        assert any(vector.tobytes()[:64] in file.read_bytes() for file in files if file.exists())
        gallery.packs.drop("open")
        files = [file for file in files if file.exists()]
        assert not any(vector.tobytes()[:64] in file.read_bytes() for file in files)


def test_the_pack_in_use_and_the_last_of_somebody_are_kept(gallery: Gallery) -> None:
    embed(gallery, "a1")
    with pytest.raises(GalleryError, match="pack open is in use"):
        gallery.packs.drop("open")
    with pytest.raises(GalleryError, match="no embedding of pack nosuch"):
        gallery.packs.drop("nosuch")
    gallery.packs.switch("omz", without=["Bob"])
    with pytest.raises(GalleryError, match="nothing was changed: Bob would be left"):
        gallery.packs.drop("open")
    assert gallery.packs.drop("open", without=["Bob"]).without == ("Bob",)
    assert gallery.show("Bob").samples == () and gallery.templates("omz").missing == ("Bob",)


# Archives and matchers


def test_an_archive_brings_along_which_pack_is_in_use(gallery: Gallery, tmp_path: Path) -> None:
    embed(gallery, "a1", "a2", "b1")
    gallery.packs.switch("omz")
    gallery.export(tmp_path / "people.zip")
    with Gallery.temporary() as other:
        other.import_archive(tmp_path / "people.zip")
        assert other.packs.in_use() == ("omz", OTHER)
    with Gallery.temporary() as other:
        add(other, "Carl", [1, 0])
        other.import_archive(tmp_path / "people.zip")
        assert other.packs.in_use() == ("open", EMBEDDER)  # it has one already


def test_a_matcher_goes_on_with_the_old_pack_and_says_so_once(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    def until(version: int) -> GalleryIndex:
        deadline = time.monotonic() + 20
        while known()[0] != version:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return known()

    with KnownPeople(
        gallery, pack="open", embedder=EMBEDDER, dimension=2, anchors=None, look_seconds=0.02
    ) as known:
        embed(gallery, "a1", "a2", "b1")
        gallery.packs.switch("omz")
        assert until(gallery.version())[2] == ("Anna", "Bob")
        gallery.edit("Anna", Change(notes="new"))
        until(gallery.version())
        told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert len(told) == 1
        assert "is matched with pack omz; this program goes on with" in told[0]
        assert "of pack open" in told[0]
