"""KnownPeople: the matcher's index follows the gallery, and never waits for it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from facestream import GalleryUnreadable
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.stream import known as module
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change
from facestream.stream.known import LOOK_SECONDS, KnownPeople

from ..postgres_server import PostgresServer

C, EMBEDDER = 4, "a" * 64
LOOK = 0.02


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Know(Protocol):
    """Makes a follower that the test's end closes."""

    def __call__(
        self, gallery: Gallery, anchors: Anchors | None = None, now: Clock | None = None
    ) -> KnownPeople: ...


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "gallery.db", create=True) as opened:
        yield opened


@pytest.fixture
def know() -> Iterator[Know]:
    with ExitStack() as stack:

        def make(
            gallery: Gallery, anchors: Anchors | None = None, now: Clock | None = None
        ) -> KnownPeople:
            known = KnownPeople(
                gallery,
                pack="tiny",
                embedder=EMBEDDER,
                dimension=C,
                anchors=anchors,
                look_seconds=LOOK,
                now=now or Clock(),
            )
            return stack.enter_context(known)

        yield make


def until(true: Callable[[], bool]) -> None:
    """Wait for what a follower does by itself."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(LOOK / 4)


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


def best(known: KnownPeople, axis: int) -> str:
    _, index, names, _ = known()
    ((hit, *_),) = index.search(np.eye(C, dtype=np.float32)[axis : axis + 1], 1)
    return names[hit.identity]


def test_an_empty_gallery_offers_nobody(gallery: Gallery, know: Know) -> None:
    version, index, names, _ = know(gallery)()
    assert (version, index.identities, len(names)) == (gallery.version(), 0, 0)
    assert index.search(np.eye(C, dtype=np.float32)[:2], 3) == [(), ()]


def test_everybody_of_the_pack_is_found_by_name(gallery: Gallery, know: Know) -> None:
    for axis, name in enumerate(("Carol", "Anna", "Bert")):
        enrol(gallery, name, axis)
    known = know(gallery)
    assert [best(known, axis) for axis in range(3)] == ["Carol", "Anna", "Bert"]


def test_people_without_an_embedding_of_the_pack_are_told_apart(
    gallery: Gallery, know: Know
) -> None:
    enrol(gallery, "Anna", 0)
    enrol(gallery, "Bert", 1, pack="other")
    known = know(gallery)
    assert known.missing == ("Bert",) and list(known()[2]) == ["Anna"]


def test_changes_by_another_program_are_followed(place: str, know: Know) -> None:
    with Gallery.open(place, create=True) as gallery, Gallery.open(place, create=False) as other:
        enrol(gallery, "Anna", 0)
        known = know(gallery)
        before = known()
        enrol(other, "Bert", 1)
        until(lambda: known() is not before)
        assert known()[0] == other.version() > before[0]
        assert best(known, 1) == "Bert"
        other.remove("Anna")
        until(lambda: list(known()[2]) == ["Bert"])
        known.close()


def test_people_come_and_go_by_the_clock_alone(
    gallery: Gallery, know: Know, caplog: pytest.LogCaptureFixture
) -> None:
    wall = Clock()
    for axis, name in enumerate(("Anna", "Bert", "Cleo")):
        enrol(gallery, name, axis)
    gallery.edit("Anna", Change(valid_until=150.0))
    gallery.edit("Bert", Change(valid_from=200.0))
    known = know(gallery, now=wall)
    version = known()[0]
    assert (list(known()[2]), known.expired) == (["Anna", "Cleo"], ("Bert",))
    wall.now = 150.0
    until(lambda: list(known()[2]) == ["Cleo"])
    assert known.expired == ("Anna", "Bert")
    assert best(known, 0) == "Cleo"
    wall.now = 200.0
    until(lambda: list(known()[2]) == ["Bert", "Cleo"])
    assert known.expired == ("Anna",)
    assert known()[0] == version == gallery.version()
    told = [record.getMessage() for record in caplog.records]
    assert [message.split()[0] for message in told] == ["Bert", "Anna"]
    assert all("not recognised" in message for message in told)


def test_times_run_out_also_where_an_index_could_not_be_made_at_once(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    wall, failures = Clock(), iter([False, True, True])
    enrol(gallery, "Anna", 0)
    enrol(gallery, "Bert", 1)
    gallery.edit("Anna", Change(valid_until=150.0))

    def make(*args: Any, **kwargs: Any) -> SearchIndex:
        if next(failures, False):
            raise MemoryError
        return SearchIndex(*args, **kwargs)

    with KnownPeople(
        gallery,
        pack="tiny",
        embedder=EMBEDDER,
        dimension=C,
        anchors=None,
        make_index=make,
        look_seconds=LOOK,
        now=wall,
    ) as known:
        wall.now = 150.0
        until(lambda: list(known()[2]) == ["Bert"])
    assert caplog.text.count("whose time has ended stays in use") == 1


def test_a_clock_that_is_set_back_brings_back_whose_time_is_not_over(
    gallery: Gallery, know: Know
) -> None:
    wall = Clock()
    wall.now = 500.0
    enrol(gallery, "Anna", 0)
    gallery.edit("Anna", Change(valid_until=300.0))
    known = know(gallery, now=wall)
    assert known()[2] == () and known.expired == ("Anna",)
    wall.now = 250.0
    until(lambda: known()[2] == ("Anna",))


def test_a_clock_that_is_set_back_while_the_gallery_cannot_be_read_is_not_forgotten(
    gallery: Gallery, know: Know, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Clock()
    wall.now = 500.0
    enrol(gallery, "Anna", 0)
    gallery.edit("Anna", Change(valid_until=300.0))
    known = know(gallery, now=wall)
    whole, failures = gallery.roster, iter([True])

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise GalleryUnreadable("locked")
        return whole(*args, **kwargs)

    monkeypatch.setattr(gallery, "roster", fails_once)
    wall.now = 250.0
    until(lambda: known()[2] == ("Anna",))
    assert next(failures, None) is None


def test_a_server_that_is_away_for_a_while_does_not_end_recognition(
    postgres: PostgresServer, know: Know, caplog: pytest.LogCaptureFixture
) -> None:
    with Gallery.open(postgres.new_gallery(), create=True) as gallery:
        enrol(gallery, "Anna", 0)
        known = know(gallery)
        postgres.stop()
        try:
            until(lambda: "stay in use" in caplog.text)
            assert best(known, 0) == "Anna"
        finally:
            postgres.start()
        enrol(gallery, "Bert", 1)
        until(lambda: len(known()[2]) == 2)
        assert best(known, 1) == "Bert"
        until(lambda: "read again" in caplog.text)
        known.close()
    first, second = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "people of version 1 stay in use" in first.getMessage()
    assert postgres.password not in first.getMessage()
    assert "the gallery can be read again: version" in second.getMessage()


def test_a_server_that_hangs_is_not_waited_for_and_times_run_out_by_the_local_clock(
    postgres: PostgresServer,
    know: Know,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.1)
    wall = Clock()
    with Gallery.open(postgres.new_gallery(), create=True) as gallery:
        for axis, name in enumerate(("Anna", "Bert", "Cleo")):
            enrol(gallery, name, axis)
        gallery.edit("Anna", Change(valid_until=150.0))
        gallery.edit("Bert", Change(valid_from=200.0))
        known, closed = know(gallery, now=wall), know(gallery, now=wall)
        postgres.freeze()
        try:
            until(lambda: "does not answer" in caplog.text)
            assert list(known()[2]) == ["Anna", "Cleo"]
            wall.now = 150.0
            until(lambda: list(known()[2]) == ["Cleo"])
            wall.now = 200.0
            until(lambda: list(known()[2]) == ["Bert", "Cleo"])
            assert best(known, 1) == "Bert"
            closed.close()  # returns, though its look has no answer yet
            assert any(thread.name == "gallery-follow" for thread in threading.enumerate())
        finally:
            postgres.thaw()
        gallery.remove("Bert")
        until(lambda: list(known()[2]) == ["Cleo"])
        until(lambda: "read again" in caplog.text)
        known.close()
    assert postgres.password not in caplog.text


def test_a_reader_is_never_kept_waiting(gallery: Gallery, know: Know) -> None:
    enrol(gallery, "Anna", 0)
    known = know(gallery)
    entered, leave = threading.Event(), threading.Event()
    version = gallery.version

    def stuck() -> int:
        entered.set()
        assert leave.wait(20)
        return version()

    gallery.version = stuck  # type: ignore[method-assign]
    assert entered.wait(20)
    assert known()[2] == ("Anna",)
    enrol(gallery, "Bert", 1)
    assert known()[2] == ("Anna",)
    leave.set()
    until(lambda: known()[2] == ("Anna", "Bert"))


def test_closed_it_follows_no_more_and_leaves_no_thread(gallery: Gallery, know: Know) -> None:
    before = set(threading.enumerate())
    known = know(gallery)
    known.close()
    assert set(threading.enumerate()) == before
    enrol(gallery, "Anna", 0)
    assert known()[2] == ()
    known.close()


@pytest.mark.parametrize(
    ("vector", "quality", "told"),
    [
        (np.eye(C, dtype=np.float32)[1], np.inf, "a quality beyond 1e+06"),
        (np.ones(2 * C, np.float32), 0.5, "have 8 numbers, the pack makes 4"),
    ],
)
def test_what_cannot_be_used_leaves_the_people_known_last(
    gallery: Gallery,
    know: Know,
    caplog: pytest.LogCaptureFixture,
    vector: np.ndarray,
    quality: float,
    told: str,
) -> None:
    enrol(gallery, "ANNA", 0)
    known = know(gallery)
    # As another program could leave it: this one refuses such numbers.
    with sqlite3.connect(gallery.place) as damage:
        damage.execute("UPDATE embedding SET vector = ?, quality = ?", (vector.tobytes(), quality))
        damage.execute("UPDATE gallery_state SET version = version + 1")
    damage.close()
    until(lambda: told in caplog.text)
    assert "people of version 1 stay in use" in caplog.text
    assert known()[2] == ("ANNA",)
    gallery.remove("ANNA")
    enrol(gallery, "BERT", 1)
    until(lambda: known()[2] == ("BERT",))


def test_embeddings_of_different_lengths_are_no_reason_to_stop_following(
    gallery: Gallery, know: Know, caplog: pytest.LogCaptureFixture
) -> None:
    enrol(gallery, "ANNA", 0)
    enrol(gallery, "BERT", 1)
    known = know(gallery)
    with sqlite3.connect(gallery.place) as damage:
        damage.execute("UPDATE embedding SET vector = ? WHERE id = 2", (b"\0\0\x80\x3f" * 3,))
        damage.execute("UPDATE gallery_state SET version = version + 1")
    damage.close()
    until(lambda: "of 3 and of 4 numbers" in caplog.text)
    assert known()[2] == ("ANNA", "BERT")
    gallery.remove("BERT")
    until(lambda: known()[2] == ("ANNA",))


def test_an_unchanged_gallery_keeps_its_index(gallery: Gallery, know: Know) -> None:
    enrol(gallery, "Anna", 0)
    known = know(gallery)
    before = known()
    time.sleep(10 * LOOK)
    assert known() is before
    assert LOOK_SECONDS < 1.0


def test_anchors_reach_the_index(gallery: Gallery, know: Know) -> None:
    enrol(gallery, "Anna", 0)
    anchors = Anchors(np.eye(C, dtype=np.float32), version="v1", k=2, tau=1.0)
    (hit,) = know(gallery, anchors)()[1].search(np.eye(C, dtype=np.float32)[1:2], 1)[0]
    assert hit.score < hit.cosine == 0.0


def test_a_density_is_computed_once_however_many_versions_there_are(
    gallery: Gallery, know: Know, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    whole = Anchors.template_density

    def counted(self: Anchors, vectors: np.ndarray) -> np.ndarray:
        computed.append(len(vectors))
        return whole(self, vectors)

    monkeypatch.setattr(Anchors, "template_density", counted)
    enrol(gallery, "Anna", 0)
    enrol(gallery, "Bert", 1)
    anchors = Anchors(np.eye(C, dtype=np.float32), version="v1", k=2, tau=1.0)
    known = know(gallery, anchors)
    assert computed == [2]
    enrol(gallery, "Cleo", 2)
    until(lambda: len(known()[2]) == 3)
    gallery.edit("Anna", Change(notes="nothing that a template is made of"))
    until(lambda: known()[0] == gallery.version())
    assert computed == [2, 1]
    assert gallery.measure("tiny", EMBEDDER, anchors) == 3
    gallery.remove("Anna")
    until(lambda: len(known()[2]) == 2)
    assert computed == [2, 1, 3]  # the last by `measure`
