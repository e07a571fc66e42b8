"""Keeping the sightings of a run: in order, once whatever is killed, and by policy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from facestream import SightingsUnreadable
from facestream.configs.schema import SightingsConfig
from facestream.models.card import Card
from facestream.models.store import load_card
from facestream.stream import deciding, sighting_keeper
from facestream.stream.events import DecisionEvent, SightingEnded
from facestream.stream.flow import Finish, Mark
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change
from facestream.stream.journal import Journal
from facestream.stream.sighting_keeper import MOST_DRAFTS, RETRY_SECONDS, SightingKeeper
from facestream.stream.sighting_people import erased_people, uid_of
from facestream.stream.sighting_records import SightingRecord, sighting_id
from facestream.stream.sighting_store import Sightings

from .test_deciding import ANNA, STRANGER, C, Told
from .test_gallery import add

# The frames of these runs were taken long ago, and nothing is too old here.
NOTHING = SightingsConfig(keep=True, keep_days=None, template_days=None, crop_days=None)
UNKNOWN = replace(NOTHING, templates="unknown")
EVERYTHING = replace(NOTHING, templates="all", crops="all")
PATIENCE = 30.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A gallery with Anna, a store, and runs that are kept in it."""

    def __init__(self, journal: Journal, card: Card, place: Path) -> None:
        self.journal, self.card = journal, card
        self.gallery = Gallery.temporary()
        add(self.gallery, "Anna", ANNA.tolist(), "a1")
        self.anna = self.gallery.show("Anna").identity.id
        self.store = Sightings.open(place, create=True)
        self.clock = Clock()

    def run(self, config: SightingsConfig = NOTHING) -> Told:
        """A process that decides, with a keeper of its own."""
        self.keeper = SightingKeeper(
            self.store,
            config,
            self.gallery,
            epoch=self.journal.epoch,
            embedder="e" * 64,
            clock=self.clock,
        )
        return Told(self.journal, self.card, keeper=self.keeper)

    def one(self, track: int) -> SightingRecord:
        return self.store.find(sighting_id(self.journal.epoch, "door", track))

    def weights(self, track: int) -> list[tuple[int, float]]:
        return [
            (one.frame, round(one.weight, 6)) for one in self.store.show(self.one(track).id).weights
        ]

    def close(self) -> None:
        self.store.close()
        self.gallery.close()


@pytest.fixture(scope="module")
def card() -> Card:
    return load_card("open")


@pytest.fixture(autouse=True)
def marks_are_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "MARK_SECONDS", 0.0)


@pytest.fixture
def kept(journal: Journal, card: Card, tmp_path: Path) -> Iterator[Kept]:
    made = Kept(journal, card, tmp_path / "sightings.db")
    yield made
    made.close()


def test_a_sighting_is_kept_from_its_start_to_its_end(kept: Kept) -> None:
    told = kept.run()
    told.begin("a1")
    told.show(1, 2, times=2)
    assert kept.one(1).reason == "open" and kept.one(1).ended_at is None
    told.show(1, 2, times=4)
    assert (kept.one(1).identity, kept.one(1).uid) == ("Anna", kept.anna)
    told.give(Finish("over"))
    anna, stranger = kept.one(1), kept.one(2)
    assert (anna.reason, anna.named, anna.frames, anna.faces) == ("matched", "decided", 6, 6)
    assert (anna.first_frame, anna.first_pts, anna.gallery_version) == (0, 0.0, 1)
    assert anna.score == pytest.approx(1.0) and anna.threshold == 0.5
    told_last = next(one for one in reversed(told.events()) if one.kind == "sighting.ended")
    assert isinstance(told_last, SightingEnded) and told_last.threshold_why
    last = kept.one(told_last.track)
    assert last.threshold_why == told_last.threshold_why
    assert last.best_score == told_last.best_score is not None
    assert (stranger.reason, stranger.identity, stranger.uid) == ("unknown", None, "")
    assert kept.weights(1) == [(frame, round(1 / 6, 6)) for frame in range(6)]
    # By default neither template nor picture of anybody.
    assert not (anna.template or stranger.template or anna.crops or stranger.crops)


def test_templates_are_kept_by_policy_and_not_of_what_was_not_decided(kept: Kept) -> None:
    told = kept.run(UNKNOWN)
    told.begin("a1")
    told.show(1, 2, times=6)
    told.show(3, times=2)
    told.give(Finish("over"))
    assert [kept.one(track).template for track in (1, 2, 3)] == [False, True, False]
    assert kept.one(3).reason == "too few frames"
    (vector,) = kept.store.templates("open", "e" * 64).vectors
    np.testing.assert_allclose(vector, STRANGER, atol=1e-6)


def test_a_name_that_comes_later_takes_the_template_away(kept: Kept) -> None:
    told = kept.run(UNKNOWN)
    told.likeness = 0.1
    told.begin("a1")
    told.show(1, times=120)  # unknown, as the test's settings call it after 100
    assert kept.one(1).template and kept.one(1).identity is None
    told.likeness = 1.0
    told.show(1, times=400)
    assert kept.one(1).identity == "Anna" and not kept.one(1).template


def test_a_killed_run_that_goes_on_leaves_what_an_undisturbed_one_does(
    journal: Journal, card: Card, tmp_path: Path
) -> None:
    def tell(told: Told) -> None:
        told.show(1, 2, times=7)
        told.give(Mark({"source": b"7"}))

    def end(told: Told) -> None:
        told.show(1, 3, times=9)
        told.give(Finish("over"))

    def content(kept: Kept) -> Any:
        details = [kept.store.show(one.id) for one in kept.store.list()]
        plain = msgspec.to_builtins(details)
        for one in plain:
            one["sighting"]["uid"] = bool(one["sighting"]["uid"])
        return plain

    whole = Kept(journal, card, tmp_path / "whole.db")
    told = whole.run(EVERYTHING)
    told.begin("a1", fingerprint="whole")
    tell(told)
    end(told)
    whole_content = content(whole)
    assert len(whole_content) == 3
    whole.close()

    with Journal.open(tmp_path / "other.db") as other:
        killed = Kept(other, card, tmp_path / "killed.db")
        told = killed.run(EVERYTHING)
        told.begin("a1")
        tell(told)
        told.show(1, 3, times=5)  # killed here: the rest is made again
        again = killed.run(EVERYTHING)
        again.begin("a2")
        again.sequence, again.ordinals = 6, {1: 6, 2: 6}
        end(again)
        got = content(killed)
        killed.close()
    numbers = ("id", "epoch")
    for one in (*got, *whole_content):
        for key in numbers:
            del one["sighting"][key]
    assert got == whole_content


def test_a_recorded_run_ends_where_its_sightings_cannot_be_stored(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = kept.run()
    told.begin("a1")
    told.show(1, times=2)
    before = told.events()
    monkeypatch.setattr(kept.store, "write", _refuse)
    with pytest.raises(SightingsUnreadable, match="does not answer"):
        told.show(1, times=4)
    assert told.events() == before  # nothing is told that is not kept
    kept.keeper.close()


def test_live_cameras_go_on_and_their_sightings_are_stored_later(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = kept.run()
    told.begin("a1", live=True)
    with monkeypatch.context() as patch:
        patch.setattr(kept.store, "write", _refuse)
        told.show(1, 2, times=6)
        told.end(1)
        assert kept.keeper.wait(PATIENCE)
        told.show(2)
        assert kept.keeper.wait(PATIENCE)  # what it may have begun to write fails, too
    assert ("sighting.ended", 1) in told.kinds()
    told.show(2, times=29)
    assert kept.keeper.wait(PATIENCE) and kept.store.list() == ()  # it is left alone for a while
    kept.clock.now += RETRY_SECONDS
    told.end(2)
    deadline = time.monotonic() + PATIENCE
    while "the sighting store takes sightings again" not in caplog.messages:
        assert time.monotonic() < deadline, "nothing is stored"
        assert kept.keeper.wait(PATIENCE)
        kept.clock.now += RETRY_SECONDS
        told.say("running")
    assert kept.keeper.wait(PATIENCE)
    assert [one.track for one in kept.store.list()] == [1, 2]
    assert len(kept.weights(1)) == 6 and len(kept.weights(2)) == 36
    assert [record.message for record in caplog.records if "sighting" in record.message] == [
        "sightings are held back, and events go on: the store does not answer",
        "the sighting store takes sightings again",
    ]
    assert kept.keeper.lost == 0


def test_live_cameras_do_not_wait_for_a_store_that_hangs(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    write = kept.store.write

    def hang(drafts: Any) -> None:
        assert answers.wait(PATIENCE)
        write(drafts)

    monkeypatch.setattr(kept.store, "write", hang)
    monkeypatch.setattr(sighting_keeper, "CLOSE_SECONDS", 0.05)
    told = kept.run()
    told.begin("a1", live=True)
    told.show(1, 2, times=6)
    told.end(1)
    assert ("sighting.ended", 1) in told.kinds()
    deadline = time.monotonic() + PATIENCE
    while kept.keeper.wait(0.05):  # the purge of the beginning may have been under way until now
        assert time.monotonic() < deadline
        kept.keeper.pulse(live=True)
    kept.keeper.close()
    assert kept.keeper.lost == 2 and "could not be stored: 2" in caplog.text
    answers.set()
    assert kept.keeper.wait(PATIENCE)


def test_what_is_lost_in_the_end_is_counted_and_told(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sighting_keeper, "MOST_DRAFTS", 2)
    assert MOST_DRAFTS > 2
    monkeypatch.setattr(kept.store, "write", _refuse)
    told = kept.run()
    told.begin("a1", live=True)
    told.show(1, 2, 3, 4)
    assert kept.keeper.wait(PATIENCE)
    told.show(1, 2, 3, 4)
    assert kept.keeper.lost == 2
    kept.keeper.close()
    assert kept.keeper.lost == 4
    assert caplog.records[-1].levelno == logging.ERROR
    assert "could not be stored: 4" in caplog.messages[-1]


def test_what_a_killed_live_run_had_under_way_is_caught_up_from_the_journal(kept: Kept) -> None:
    told = kept.run()
    told.begin("a1", live=True)
    told.show(1, times=6)
    assert kept.keeper.wait(PATIENCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept.store, "write", lambda drafts: None)  # killed before it was written
        told.end(1)
        told.show(2, times=4)
        told.end(2)
        assert kept.keeper.wait(PATIENCE)
    assert kept.one(1).ended_at is None
    before = kept.store.show(kept.one(1).id).weights
    kept.run()
    kept.keeper.catch_up(kept.journal.read())
    assert kept.keeper.wait(PATIENCE)
    assert (kept.one(1).reason, kept.one(1).uid) == ("matched", kept.anna)
    assert kept.store.show(kept.one(1).id).weights == before
    assert (kept.one(2).reason, kept.one(2).faces, kept.one(2).frames) == ("unknown", 4, 4)
    # What has ended is left alone, whatever the gallery calls people since.
    kept.gallery.edit("Anna", Change(name="Anna Smith"))
    kept.run()
    kept.keeper.catch_up(kept.journal.read())
    assert kept.keeper.wait(PATIENCE)
    assert kept.one(1).identity == "Anna"


def test_nothing_is_kept_of_whom_the_gallery_no_longer_knows(kept: Kept) -> None:
    told = kept.run(EVERYTHING)
    told.begin("a1")
    kept.gallery.remove("Anna")  # and the matcher has not heard of it yet
    told.show(1, times=6)
    assert (kept.one(1).identity, kept.one(1).uid) == (None, "")
    assert not kept.one(1).template and kept.one(1).crops == 0


def test_another_name_after_a_write_that_failed_has_the_id_of_its_own(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(kept.gallery, "Bob", STRANGER.tolist(), "b1")
    told = kept.run()
    told.begin("a1")
    told.show(1, times=6)
    anna = next(event for event in told.events() if isinstance(event, DecisionEvent))
    assert anna.identity == "Anna"
    kept.run()
    with monkeypatch.context() as patch:
        patch.setattr(kept.store, "write", _refuse)
        kept.keeper.store([(anna, None)], live=True)
        assert kept.keeper.wait(PATIENCE)
    now = {"identity": "Bob", "gallery_version": kept.gallery.version()}
    kept.keeper.store([(msgspec.structs.replace(anna, **now), None)], live=True)
    kept.clock.now += RETRY_SECONDS
    kept.keeper.flush(live=True)
    assert kept.keeper.wait(PATIENCE)
    bob = kept.gallery.show("Bob").identity.id
    assert (kept.one(1).identity, kept.one(1).uid) == ("Bob", bob)


def test_the_id_is_not_that_of_somebody_who_has_the_name_since(kept: Kept) -> None:
    told = kept.run(EVERYTHING)
    told.begin("a1")
    kept.gallery.remove("Anna")  # and the matcher has not heard of it yet, nor of the other Anna
    add(kept.gallery, "Anna", STRANGER.tolist(), "b1")
    told.show(1, times=6)
    assert (kept.one(1).identity, kept.one(1).uid) == (None, "")
    add(kept.gallery, "Bob", STRANGER.tolist(), "b2")
    before = kept.gallery.version()
    assert uid_of(kept.gallery, "Bob", before) and not uid_of(kept.gallery, "Bob", before - 1)
    kept.gallery.edit("Bob", Change(name="Carl", notes="x"))
    assert not uid_of(kept.gallery, "Carl", before) and uid_of(kept.gallery, "Carl", before + 1)
    assert not uid_of(kept.gallery, "Bob", before)
    add(kept.gallery, "Carl", ANNA.tolist(), "b3")  # one more photo changes nothing
    assert uid_of(kept.gallery, "Carl", before + 1)


def test_who_is_removed_between_two_writes_of_one_version_has_no_name(kept: Kept) -> None:
    told = kept.run()
    told.begin("a1")
    told.show(1, times=6)
    assert kept.one(1).uid == kept.anna
    kept.gallery.remove("Anna")
    told.show(2, times=6)
    told.end(1)
    assert (kept.one(1).identity, kept.one(1).uid) == (None, "")


def test_who_is_removed_while_a_sighting_is_written_is_not_kept(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = kept.run(EVERYTHING)
    told.begin("a1")
    write: Callable[..., None] = kept.store.write
    left = iter([kept.gallery.remove])

    def removed_meanwhile(drafts: Any) -> None:
        write(drafts)
        for remove in left:
            remove("Anna")

    told.show(1, times=2)
    monkeypatch.setattr(kept.store, "write", removed_meanwhile)
    told.show(1, times=4)
    assert kept.gallery.identities() == []
    assert kept.anna not in kept.store.people()


def test_people_who_were_removed_go_within_the_hour(kept: Kept) -> None:
    told = kept.run()
    told.begin("a1")
    told.show(1, 2, times=6)
    told.give(Finish("over"))
    kept.gallery.remove("Anna")
    assert erased_people(kept.gallery, kept.store.people()) == {kept.anna}
    kept.clock.now += sighting_keeper.PURGE_SECONDS
    told.begin("a2")
    assert kept.keeper.wait(PATIENCE)
    assert [one.track for one in kept.store.list()] == [2]


def test_people_of_another_gallery_stay(kept: Kept) -> None:
    with Gallery.temporary() as other:
        add(other, "Bob", [1.0, 0.0], "b1")
        other.remove("Bob")
        assert erased_people(other, {kept.anna}) == frozenset()


def test_weights_do_not_wait_for_an_event_for_ever(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sighting_keeper, "MOST_ROWS", 10)
    written: list[int] = []
    write: Callable[..., None] = kept.store.write

    def count(drafts: Any) -> None:
        written.append(len(drafts))
        write(drafts)

    told = kept.run()
    told.begin("a1", live=True)
    told.show(1, times=6)
    assert kept.keeper.wait(PATIENCE)
    monkeypatch.setattr(kept.store, "write", count)
    for _ in range(25):
        told.show(1)
        assert kept.keeper.wait(PATIENCE)
    assert len(written) >= 2
    assert len(kept.weights(1)) >= 20


def _refuse(drafts: object) -> None:
    raise SightingsUnreadable("the store does not answer")


def test_the_id_is_that_of_any_event_of_the_track(kept: Kept) -> None:
    told = kept.run()
    told.begin("a1")
    told.show(1, times=6)
    event = next(event for event in told.events() if event.kind == "match")
    assert sighting_id(event.epoch, event.camera, event.track) == kept.one(1).id  # type: ignore[union-attr]
    assert C == 6
