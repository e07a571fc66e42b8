"""KnownPeople: the matcher's index follows the gallery, and is not made anew for nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facestream.models.ida import Anchors
from facestream.stream.gallery import Gallery
from facestream.stream.known import LOOK_SECONDS, KnownPeople

C, EMBEDDER = 4, "a" * 64


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "gallery.db", create=True) as opened:
        yield opened


def enrol(gallery: Gallery, name: str, axis: int, *, pack: str = "tiny") -> None:
    gallery.add_sample(
        name,
        np.eye(C, dtype=np.float32)[axis],
        norm=1.0,
        quality=0.5,
        pack=pack,
        embedder=EMBEDDER,
        source=f"{name}.jpg",
        digest=f"{pack}-{name}-{axis}",
    )


def know(gallery: Gallery, clock: Clock | None = None, anchors: Anchors | None = None):
    return KnownPeople(
        gallery,
        pack="tiny",
        embedder=EMBEDDER,
        dimension=C,
        anchors=anchors,
        clock=clock or Clock(),
    )


def best(known: KnownPeople, axis: int) -> str:
    _, index, names = known()
    ((hit, *_),) = index.search(np.eye(C, dtype=np.float32)[axis : axis + 1], 1)
    return names[hit.identity]


def test_an_empty_gallery_offers_nobody(gallery: Gallery) -> None:
    version, index, names = know(gallery)()
    assert (version, index.identities, len(names)) == (gallery.version(), 0, 0)
    assert index.search(np.eye(C, dtype=np.float32)[:2], 3) == [(), ()]


def test_everybody_of_the_pack_is_found_by_name(gallery: Gallery) -> None:
    for axis, name in enumerate(("Carol", "Anna", "Bert")):
        enrol(gallery, name, axis)
    known = know(gallery)
    assert [best(known, axis) for axis in range(3)] == ["Carol", "Anna", "Bert"]


def test_people_without_an_embedding_of_the_pack_are_told_apart(gallery: Gallery) -> None:
    enrol(gallery, "Anna", 0)
    enrol(gallery, "Bert", 1, pack="other")
    known = know(gallery)
    assert known.missing == ("Bert",) and list(known()[2]) == ["Anna"]


def test_changes_by_another_process_are_followed_after_a_look(gallery: Gallery) -> None:
    clock = Clock()
    enrol(gallery, "Anna", 0)
    known = know(gallery, clock)
    before = known()
    with Gallery.open(gallery.place, create=False) as elsewhere:
        enrol(elsewhere, "Bert", 1)
        assert known() is before
        clock.now += LOOK_SECONDS
        assert known()[0] == elsewhere.version() > before[0]
        assert best(known, 1) == "Bert"
        elsewhere.remove("Anna")
        clock.now += LOOK_SECONDS
        assert list(known()[2]) == ["Bert"]


def test_an_unchanged_gallery_keeps_its_index(gallery: Gallery) -> None:
    clock = Clock()
    enrol(gallery, "Anna", 0)
    known = know(gallery, clock)
    before = known()
    clock.now += 10 * LOOK_SECONDS
    assert known() is before
    assert LOOK_SECONDS < 1.0


def test_anchors_reach_the_index(gallery: Gallery) -> None:
    enrol(gallery, "Anna", 0)
    anchors = Anchors(np.eye(C, dtype=np.float32), version="v1", k=2, tau=1.0)
    (hit,) = know(gallery, anchors=anchors)()[1].search(np.eye(C, dtype=np.float32)[1:2], 1)[0]
    assert hit.score < hit.cosine == 0.0


def test_threads_share_it(gallery: Gallery) -> None:
    clock = Clock()
    known = know(gallery, clock)
    seen: list[int] = []

    def ask() -> None:
        for _ in range(50):
            clock.now += LOOK_SECONDS / 5
            seen.append(known()[0])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    enrol(gallery, "Anna", 0)
    for thread in threads:
        thread.join(20)
    assert len(seen) == 200
    clock.now += LOOK_SECONDS
    assert known()[0] == gallery.version()
