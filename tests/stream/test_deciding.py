"""Deciding: what it answers, what it stores beside the events, and what it closes."""

from __future__ import annotations

import numpy as np
import pytest

from facestream import RecordError
from facestream.configs.schema import CameraConfig, Config, MatchConfig, PublishConfig
from facestream.models.aggregators import make_aggregator
from facestream.models.card import Card
from facestream.models.search import SearchIndex
from facestream.models.store import load_card
from facestream.stream import deciding
from facestream.stream.aggregate import AggregateStage
from facestream.stream.deciding import Deciding
from facestream.stream.endings import outline_key
from facestream.stream.events import AnyEvent, CameraState, SightingEnded, System, TrackEvent
from facestream.stream.flow import (
    Begin,
    Done,
    Finish,
    Item,
    Mark,
    Refuse,
    Restart,
    Resume,
    State,
    StateChange,
    TracksEnded,
    Work,
)
from facestream.stream.journal import Journal
from facestream.stream.match import GalleryIndex, MatchStage
from facestream.stream.meter import Meter
from facestream.stream.publish import Publisher
from facestream.stream.records import (
    Face,
    FrameRef,
    Observation,
    Observed,
    Tracked,
    TrackedFace,
    TrackEnd,
    TrackKey,
)
from facestream.stream.sighting_keeper import SightingKeeper
from facestream.stream.thresholds import DecisionNumbers, PackRules

C = 6
ANNA, STRANGER = np.eye(C, dtype=np.float32)[:2]


class Told:
    """Deciding over a journal, and the works of one camera for it."""

    def __init__(
        self,
        journal: Journal,
        card: Card,
        camera: str = "door",
        apart: tuple[tuple[str, ...], ...] = (),
        keeper: SightingKeeper | None = None,
    ) -> None:
        self.journal = journal
        self.camera = camera
        self.likeness = 1.0  # cosine of track 1 to Anna
        self.people: tuple[str, ...] = ("Anna",)
        config = Config(
            cameras=(CameraConfig("door", "clip.mp4"), CameraConfig("gate", "clip.mp4")),
            match=MatchConfig(score="cosine", unknown_frames=100, apart=apart),
        )
        numbers = DecisionNumbers(threshold=0.5, cosine_threshold=0.5)
        self.deciding = Deciding(
            config,
            card,
            MatchStage(self.gallery, config.match, PackRules(config.match, numbers)),
            AggregateStage(make_aggregator("mean", dimension=C), 2, keeper),
            Publisher(journal, PublishConfig(endpoint="")),
            self.gallery,
            Meter(),
            sightings=keeper,
        )
        self.attempt, self.position, self.sequence = "", -1, -1
        self.ordinals: dict[int, int] = {}

    def gallery(self) -> GalleryIndex:
        count = len(self.people)
        index = SearchIndex(ANNA[None][:count], np.arange(count))
        return GalleryIndex(1, index, self.people)

    def begin(self, attempt: str, *, live: bool = False, fingerprint: str = "f") -> Resume:
        self.attempt, self.position = attempt, -1
        self.deciding.send([Begin(self.camera, attempt, live, "" if live else fingerprint)])
        (resume,) = self.deciding.collect()
        assert isinstance(resume, Resume) and resume.attempt == attempt
        return resume

    def give(self, item: Item) -> Work:
        """Send an item as the next work."""
        self.position += 1
        work = Work(self.camera, self.attempt, self.position, item)
        self.deciding.send([work])
        return work

    def show(self, *tracks: int, times: int = 1) -> None:
        """Frames that show these tracks; the one that is 1 is Anna."""
        for _ in range(times):
            self.sequence += 1
            frame = FrameRef(self.camera, self.sequence, self.sequence / 10, 1e9, 640, 360)
            started = tuple(self.key(track) for track in tracks if track not in self.ordinals)
            for track in tracks:
                self.ordinals[track] = self.ordinals.get(track, -1) + 1
            face = Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9)
            faces = tuple(TrackedFace(track, self.ordinals[track], face) for track in tracks)
            tracked = Tracked(frame, faces, started, detected=len(tracks))
            self.give(Observed(tracked, tuple(self._observe(frame, face) for face in faces)))

    def end(self, track: int) -> None:
        frame = FrameRef(self.camera, self.sequence, self.sequence / 10, 1e9, 640, 360)
        end = TrackEnd(self.key(track), frame, frame, self.ordinals[track] + 1)
        self.give(TracksEnded(self.camera, (end,)))

    def say(self, state: State, **dropped: int) -> None:
        self.give(StateChange(self.camera, state, "detail", 0, dropped))

    def key(self, track: int) -> TrackKey:
        return TrackKey(self.camera, self.journal.epoch, track)

    def _observe(self, frame: FrameRef, face: TrackedFace) -> Observation:
        style, box = np.zeros((0, 2), np.float32), np.array([1, 2, 3, 4], np.float32)
        anna = self.likeness * ANNA + np.sqrt(np.float32(1.0 - self.likeness**2)) * STRANGER
        embedding = 3.0 * (anna if face.track == 1 else STRANGER)
        key = self.key(face.track)
        return Observation(key, frame, face.ordinal, embedding, 3.0, 0.5, style, box)

    def events(self) -> list[AnyEvent]:
        return list(self.journal.read())

    def kinds(self) -> list[tuple[str, int]]:
        return [(e.kind, e.track) for e in self.events() if isinstance(e, TrackEvent)]


@pytest.fixture(scope="module")
def card() -> Card:
    return load_card("open")


@pytest.fixture(autouse=True)
def marks_are_stored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "MARK_SECONDS", 0.0)


@pytest.fixture
def told(journal: Journal, card: Card) -> Told:
    return Told(journal, card)


# --- answers ---


def test_positions_are_answered_once_and_together(told: Told) -> None:
    told.begin("a1")
    told.say("connecting")
    told.show(times=3)
    assert told.deciding.collect() == [Done("door", "a1", 3)]
    assert told.deciding.collect() == []


def test_what_comes_with_the_end_of_tracks_is_not_done_before_itself(told: Told) -> None:
    told.begin("a1")
    told.show(1, times=4)
    told.deciding.collect()
    told.end(1)
    assert told.deciding.collect() == []
    told.position -= 1
    told.say("ended")
    assert told.deciding.collect() == [Done("door", "a1", 4)]


def test_a_camera_that_is_not_in_the_configuration_is_refused(told: Told) -> None:
    told.deciding.send([Begin("cellar", "a1", False, "f")])
    (refusal,) = told.deciding.collect()
    assert isinstance(refusal, Refuse) and "no camera 'cellar'" in refusal.why


def test_works_of_which_nothing_is_known_ask_for_a_restart_once(told: Told) -> None:
    told.attempt = "a1"
    told.show(1, times=3)
    (restart,) = told.deciding.collect()
    assert isinstance(restart, Restart) and (restart.camera, restart.attempt) == ("door", "a1")
    told.begin("a2")
    told.attempt = "a1"
    told.show(1, times=3)
    assert told.deciding.collect() == [] and told.events() == []


def test_works_that_were_not_embedded_are_a_bug(told: Told) -> None:
    told.begin("a1")
    with pytest.raises(RecordError, match="expected what embedding makes"):
        told.give(Tracked(FrameRef("door", 0, 0.0, 0.0, 1, 1), ()))


def test_a_run_is_finished_when_every_camera_is(journal: Journal, card: Card) -> None:
    told = Told(journal, card)
    told.begin("a1")
    told.give(Finish("over", {"corrupt": 2}))
    assert told.deciding.collect() and not told.deciding.finished
    assert told.deciding.totals.dropped == {"door": {"corrupt": 2}, "gate": {}}
    told.camera = "gate"
    told.begin("a2")
    told.give(Finish("over"))
    assert told.deciding.finished


# --- recorded ---


def test_a_recorded_run_is_resumed_from_its_mark_and_repeats_its_events(
    journal: Journal, card: Card
) -> None:
    told = Told(journal, card)
    first = told.begin("a1")
    assert (first.epoch, first.run, first.first_track, first.states) == (journal.epoch, "1", 1, {})
    told.give(Mark({"source": b"0"}))
    told.say("running")
    told.show(1, 2, times=4)
    told.give(Mark({"source": b"4", "detect": b"d"}))
    told.show(1, times=4)
    before = told.events()

    again = Told(journal, card)  # the process was killed
    resume = again.begin("a2")
    assert (resume.run, resume.first_track) == ("1", 1)
    assert resume.states == {"source": b"4", "detect": b"d"}
    again.say("running")
    again.sequence, again.ordinals = 3, {1: 3, 2: 3}
    again.show(1, times=4)
    assert again.events() == before
    again.show(1, 3)
    again.give(Finish("over"))
    ended = {e.track: e.faces for e in again.events() if isinstance(e, SightingEnded)}
    assert ended == {1: 9, 2: 4, 3: 1}
    assert journal.checkpoints() == {}
    assert again.begin("a3").run == "2"


def test_another_attempt_in_the_same_process_is_resumed_too(told: Told) -> None:
    told.begin("a1")
    told.give(Mark({"source": b"0"}))
    told.show(1, times=5)
    before = told.events()
    assert told.begin("a2").states == {"source": b"0"}
    told.sequence, told.ordinals = -1, {}
    told.show(1, times=5)
    assert told.events() == before
    # What is made a second time counts once.
    totals = told.deciding.totals
    assert (totals.frames, totals.faces, totals.events) == (5, 5, len(before))


@pytest.mark.parametrize("change", ["fingerprint", "settings", "camera"])
def test_another_run_closes_what_was_left_open(journal: Journal, card: Card, change: str) -> None:
    told = Told(journal, card)
    told.begin("a1")
    told.give(Mark({"source": b"0"}))
    told.show(1, times=4)
    told.show(1, 2, times=4)
    told.end(2)
    again = Told(journal, card)
    if change == "settings":
        again.deciding._settings = "other"
    if change == "camera":
        again.camera = "gate"
        resume = again.begin("a2")
        assert (resume.run, resume.first_track) == ("1", 1)
        assert [e.track for e in again.events() if isinstance(e, SightingEnded)] == [2]
        return
    resume = again.begin("a2", fingerprint="g" if change == "fingerprint" else "f")
    assert (resume.run, resume.first_track, resume.states) == ("2", 3, {})
    last = again.events()[-1]
    assert isinstance(last, SightingEnded) and (last.track, last.identity) == (1, "Anna")
    assert (last.faces, last.frame) == (8, 7)
    assert journal.checkpoints() == {}


def test_what_a_twice_killed_run_left_open_is_closed_though_it_had_begun_to_repeat(
    journal: Journal, card: Card
) -> None:
    told = Told(journal, card)
    told.begin("a1")
    told.give(Mark({"source": b"0"}))
    told.show(1, times=4)
    told.end(1)
    told.show(2, times=4)  # killed with 2 in view
    again = Told(journal, card)
    again.begin("a2")
    again.show(1, times=4)  # killed again, having repeated a little
    last = Told(journal, card)
    last.begin("a3", fingerprint="another clip")
    assert [e.track for e in last.events() if isinstance(e, SightingEnded)] == [1, 2]


def test_a_mark_of_other_bytes_begins_anew(
    journal: Journal, card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(journal, card)
    told.begin("a1")
    told.give(Mark({"source": b"0"}))
    stored = journal.checkpoint("door")
    assert stored is not None
    broken = type(stored)(stored.fingerprint, stored.run, False, b"garbage", stored.states)
    journal.append_many([], {"door": broken, outline_key("door"): broken})
    resume = Told(journal, card).begin("a2")
    assert (resume.run, resume.states) == ("2", {})
    assert "its run begins anew" in caplog.text and "stay open" in caplog.text


def test_states_of_a_camera_are_counted_within_the_run(told: Told) -> None:
    told.begin("a1")
    told.give(Mark({"source": b"0"}))
    told.say("connecting")
    told.say("running")
    told.begin("a2")
    told.say("connecting")
    told.say("running")
    told.say("failed", corrupt=1)
    states = [e.state for e in told.events() if isinstance(e, CameraState)]
    assert states == ["connecting", "running", "failed"]
    assert told.deciding.totals.failed == {"door": "detail"}
    assert told.deciding.totals.dropped["door"] == {"corrupt": 1}


def test_marks_in_quick_succession_wait_for_an_event_to_be_stored_with(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "MARK_SECONDS", 1e6)

    def stored() -> dict[str, bytes]:
        checkpoint = told.journal.checkpoint("door")
        assert checkpoint is not None
        return checkpoint.states

    told.begin("a1")
    for number in (b"0", b"1", b"2"):
        told.give(Mark({"source": number}))
    assert stored() == {"source": b"0"}  # the first is: it says when the run began
    told.say("running")
    assert stored() == {"source": b"2"}
    told.give(Mark({"source": b"3"}))
    told.show(1)
    assert stored() == {"source": b"3"}


# --- live ---


def test_a_live_camera_that_begins_again_has_its_sightings_closed_first(told: Told) -> None:
    assert told.begin("a1", live=True).run == "a1"
    told.show(1, times=4)
    resume = told.begin("a2", live=True)
    assert (resume.run, resume.first_track, resume.states) == ("a2", 2, {})
    assert told.kinds()[-1] == ("sighting.ended", 1)


def test_a_killed_process_leaves_an_outline_of_whoever_a_live_camera_showed(
    journal: Journal, card: Card
) -> None:
    told = Told(journal, card)
    told.begin("a1", live=True)
    told.show(1, times=4)
    told.show(1, 2, times=4)
    told.end(2)
    assert list(journal.checkpoints()) == [outline_key("door")]
    again = Told(journal, card)
    again.begin("a2", live=True)
    assert again.kinds()[-2:] == [("sighting.ended", 2), ("sighting.ended", 1)]
    assert journal.checkpoints() == {}
    again.show(3, times=4)
    again.end(3)
    assert journal.checkpoints() == {}


def test_what_one_live_camera_takes_from_another_is_in_the_outline_of_the_other(
    journal: Journal, card: Card
) -> None:
    door = Told(journal, card, apart=(("door", "gate"),))
    door.begin("a1", live=True)
    door.likeness = 0.8
    door.show(1, times=4)
    door.deciding.collect()
    gate = Told(journal, card, "gate")
    gate.deciding = door.deciding
    gate.begin("b1", live=True)
    gate.show(1, times=4)
    told = [(e.kind, e.camera) for e in door.events() if isinstance(e, TrackEvent)]
    assert told[-2:] == [("match.revised", "door"), ("match", "gate")]
    again = Told(journal, card)  # killed here
    again.begin("a2", live=True)
    again.camera = "gate"
    again.begin("b2", live=True)
    ends = {e.camera: e.identity for e in door.events() if isinstance(e, SightingEnded)}
    assert ends == {"door": None, "gate": "Anna"}


def test_a_camera_may_change_from_live_to_recorded(journal: Journal, card: Card) -> None:
    told = Told(journal, card)
    told.begin("a1", live=True)
    told.show(1, times=4)
    resume = Told(journal, card).begin("a2")
    assert (resume.run, resume.first_track, resume.states) == ("1", 2, {})
    assert told.kinds()[-1] == ("sighting.ended", 1)


def test_who_expires_while_in_view_is_named_no_more_and_it_is_told(
    journal: Journal, card: Card
) -> None:
    told = Told(journal, card)
    told.begin("a")
    told.show(1, times=6)
    told.people = ()  # the same version: time alone took Anna away
    told.show(1, times=6)
    assert told.kinds() == [("sighting.started", 1), ("match", 1), ("match.revised", 1)]
    (changed,) = (e for e in told.events() if isinstance(e, System))
    assert changed.state == "gallery.changed"
    assert changed.detail == "version 1: 0 people can be recognised"


def test_people_who_come_and_go_are_told_each_time(journal: Journal, card: Card) -> None:
    told = Told(journal, card)
    told.begin("a")
    everybody = told.people
    for people in ((), everybody, ()):
        told.people = people
        told.show(1, times=2)
    details = [e.detail for e in told.events() if isinstance(e, System)]
    assert [detail.split(": ")[1][0] for detail in details] == ["0", "1", "0"]
