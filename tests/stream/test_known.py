"""KnownPeople: the matcher's index follows the gallery, and is not made anew for nothing."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facestream.models.ida import Anchors
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change
from facestream.stream.known import LOOK_SECONDS, RETRY_SECONDS, KnownPeople

from ..postgres_server import PostgresServer

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


def know(
    gallery: Gallery,
    clock: Clock | None = None,
    anchors: Anchors | None = None,
    now: Clock | None = None,
) -> KnownPeople:
    return KnownPeople(
        gallery,
        pack="tiny",
        embedder=EMBEDDER,
        dimension=C,
        anchors=anchors,
        clock=clock or Clock(),
        now=now or Clock(),
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


def test_changes_by_another_program_are_followed_after_a_look(place: str) -> None:
    clock = Clock()
    with Gallery.open(place, create=True) as gallery, Gallery.open(place, create=False) as other:
        enrol(gallery, "Anna", 0)
        known = know(gallery, clock)
        before = known()
        enrol(other, "Bert", 1)
        assert known() is before
        clock.now += LOOK_SECONDS
        assert known()[0] == other.version() > before[0]
        assert best(known, 1) == "Bert"
        other.remove("Anna")
        clock.now += LOOK_SECONDS
        assert list(known()[2]) == ["Bert"]


def test_people_come_and_go_by_the_clock_alone(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    clock, wall = Clock(), Clock()
    for axis, name in enumerate(("Anna", "Bert", "Cleo")):
        enrol(gallery, name, axis)
    gallery.edit("Anna", Change(valid_until=150.0))
    gallery.edit("Bert", Change(valid_from=200.0))
    known = know(gallery, clock, now=wall)
    version = known()[0]
    assert (list(known()[2]), known.expired) == (["Anna", "Cleo"], ("Bert",))
    wall.now = 150.0
    clock.now += LOOK_SECONDS
    assert (list(known()[2]), known.expired) == (["Cleo"], ("Anna", "Bert"))
    assert best(known, 0) == "Cleo"
    wall.now = 200.0
    clock.now += LOOK_SECONDS
    assert (list(known()[2]), known.expired) == (["Bert", "Cleo"], ("Anna",))
    assert known()[0] == version == gallery.version()
    told = [record.getMessage() for record in caplog.records]
    assert [message.split()[0] for message in told] == ["Bert", "Anna"]
    assert all("not recognised" in message for message in told)


def test_a_server_that_is_away_for_a_while_does_not_end_recognition(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    with Gallery.open(postgres.new_gallery(), create=True) as gallery:
        enrol(gallery, "Anna", 0)
        known = know(gallery, clock)
        postgres.stop()
        try:
            for _ in range(3):
                clock.now += RETRY_SECONDS
                assert best(known, 0) == "Anna"
        finally:
            postgres.start()
        enrol(gallery, "Bert", 1)
        clock.now += RETRY_SECONDS
        assert best(known, 1) == "Bert"
    first, second = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "people of version 1 stay in use" in first.getMessage()
    assert postgres.password not in first.getMessage()
    assert second.getMessage() == "the gallery can be read again: version 2"


@pytest.mark.parametrize(
    ("vector", "quality", "told"),
    [
        (np.eye(C, dtype=np.float32)[1], np.inf, "a quality beyond 1e+06"),
        (np.ones(2 * C, np.float32), 0.5, "have 8 numbers, the pack makes 4"),
    ],
)
def test_what_cannot_be_used_leaves_the_people_known_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, vector: np.ndarray, quality: float, told: str
) -> None:
    clock = Clock()
    with Gallery.open(tmp_path / "gallery.db", create=True) as gallery:
        known = know(gallery, clock)
        assert known()[2] == ()
        enrol(gallery, "ANNA", 0)
        # As another program could leave it: this one refuses such numbers.
        with sqlite3.connect(tmp_path / "gallery.db") as damage:
            damage.execute(
                "UPDATE embedding SET vector = ?, quality = ?", (vector.tobytes(), quality)
            )
        damage.close()
        clock.now += LOOK_SECONDS
        assert known()[2] == ()
        assert told in caplog.text and "stay in use" in caplog.text
        gallery.remove("ANNA")
        enrol(gallery, "BERT", 1)
        clock.now += RETRY_SECONDS
        assert known()[2] == ("BERT",)


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
