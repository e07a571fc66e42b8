"""DecideStage: which event tells what about a track, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.stream.decide import is_due
from facestream.stream.events import (
    AnyEvent,
    DecisionEvent,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    TrackEvent,
    Unknown,
)
from facestream.stream.watcher import Label

from .world import ANNA, BERT, CLOCK, NOBODY, PEOPLE, TWIN, Cosines, World, kinds, named

# --- one track ---


def test_a_known_face_is_started_matched_and_ended() -> None:
    world = World()
    assert kinds(world.show({7: ANNA})) == ["sighting.started"]
    assert world.show({7: ANNA}) == []
    (match,) = world.show({7: ANNA})
    assert isinstance(match, MatchEvent) and match.identity == "Anna"
    assert (match.track, match.frame, match.pts) == (7, 2, pytest.approx(0.08))
    assert (match.cosine, match.score) == (pytest.approx(0.9), pytest.approx(0.9))
    assert [c.identity for c in match.candidates] == ["Anna", "Bert", "Carol"]
    assert (match.threshold, match.target_fpir, match.gallery_version) == (0.5, 0.01, 1)
    assert match.threshold_why == "the pack's own threshold"
    assert (match.frames, match.pack) == (3, "tiny")
    assert (match.quality_min, match.quality_median, match.quality_max) == (0.0, 0.25, 0.5)
    assert [round(e.weight, 3) for e in match.evidence] == [0.333, 0.333]
    assert match.decided_at == datetime.fromtimestamp(CLOCK, UTC)
    assert world.show_often(9, {7: ANNA}) == []
    (ended,) = world.show({}, ended=[7])
    assert isinstance(ended, SightingEnded)
    assert (ended.identity, ended.reason, ended.faces, ended.frames) == ("Anna", "matched", 12, 12)
    assert ended.frame == 11 and ended.duration == pytest.approx(11 / 25)
    assert ended.started_at == datetime.fromtimestamp(1e9, UTC)
    assert world.stage.sightings["door"] == {} and world.stage.aggregate.tracks == ()


def test_a_stranger_is_unknown_once_after_unknown_frames() -> None:
    world = World(unknown_frames=8)
    assert kinds(world.show_often(7, {1: NOBODY})) == ["sighting.started"]
    events = world.show_often(60, {1: NOBODY})
    assert named(events) == [("unknown", None)]
    first = events[0]
    assert isinstance(first, Unknown) and 8 <= first.frames <= 9
    assert first.candidates and first.score == first.candidates[0].score
    (ended,) = world.end(1)
    assert isinstance(ended, SightingEnded) and ended.reason == "unknown"


def test_the_end_tells_the_best_score_of_all_decisions_on_a_track() -> None:
    world = World(least_frames=1)
    world.show({1: (0.45, 0.1, 0.0)})
    world.show_often(20, {1: (0.1, 0.2, 0.0)})
    (ended,) = [e for e in world.end(1) if isinstance(e, SightingEnded)]
    assert ended.score is not None and ended.score < 0.3
    assert ended.best_score == pytest.approx(0.45, abs=1e-6)
    world.show({2: None})
    (ended,) = [e for e in world.end(2) if isinstance(e, SightingEnded)]
    assert ended.best_score is None


def test_a_stranger_who_leaves_early_is_unknown_at_the_end() -> None:
    world = World(least_frames=3, unknown_frames=8)
    world.show_often(5, {1: NOBODY})
    assert named(world.show({}, ended=[1])) == [("unknown", None), ("sighting.ended", None)]


def test_a_name_given_at_the_very_end_is_told_before_the_end() -> None:
    world = World(least_frames=3)
    world.show_often(4, {1: (0.45, 0.0, 0.0)})
    world.show({1: (0.95, 0.0, 0.0)})
    assert named(world.events) == []
    assert named(world.end(1)) == [("match", "Anna"), ("sighting.ended", "Anna")]


def test_later_frames_revise_a_decision() -> None:
    world = World()
    world.show_often(4, {1: (0.7, 0.3, 0.0)})
    assert world.label(1) == Label("Anna", True, pytest.approx(0.7))
    world.show_often(40, {1: (0.1, 0.9, 0.0)})
    world.end(1)
    assert named(world.events) == [
        ("match", "Anna"),
        ("match.revised", "Bert"),
        ("sighting.ended", "Bert"),
    ]
    (revised,) = (e for e in world.events if isinstance(e, MatchRevised))
    assert revised.previous_identity == "Anna"


def test_a_name_can_be_withdrawn_and_given_again() -> None:
    world = World()
    world.show_often(3, {1: (0.6, 0.0, 0.0)})
    world.show_often(20, {1: NOBODY})
    assert world.label(1).identity is None and world.label(1).decided
    world.show_often(60, {1: ANNA})
    assert named(world.events) == [
        ("match", "Anna"),
        ("match.revised", None),
        ("match.revised", "Anna"),
    ]
    previous = [e.previous_identity for e in world.events if isinstance(e, MatchRevised)]
    assert previous == ["Anna", None]


def test_unknown_may_become_somebody() -> None:
    world = World()
    world.show_often(12, {1: NOBODY})
    world.show_often(60, {1: ANNA})
    assert named(world.events) == [("unknown", None), ("match.revised", "Anna")]


def test_too_few_frames_are_not_decided() -> None:
    world = World(least_frames=3)
    world.show_often(2, {1: ANNA})
    (ended,) = world.end(1)
    assert isinstance(ended, SightingEnded)
    assert (ended.reason, ended.identity, ended.score) == ("too few frames", None, None)
    assert (ended.frames, ended.faces, ended.candidates) == (2, 2, ())


def test_faces_that_are_never_usable_are_counted_and_end_without_a_decision() -> None:
    world = World()
    world.show_often(20, {1: None})
    assert world.label(1) == Label(None, False, None)
    (ended,) = world.end(1)
    assert isinstance(ended, SightingEnded)
    assert (ended.reason, ended.faces, ended.frames) == ("no usable face", 20, 0)
    assert (ended.quality_min, ended.evidence) == (None, ())


def test_an_empty_gallery_makes_everybody_unknown() -> None:
    world = World()
    world.names = ()
    world.show_often(12, {1: ANNA})
    (unknown,) = (e for e in world.events if isinstance(e, Unknown))
    assert (unknown.score, unknown.cosine, unknown.candidates) == (None, None, ())
    assert world.label(1) == Label(None, True, None)


# --- several tracks ---


def test_two_faces_of_a_frame_never_share_a_name() -> None:
    world = World()
    world.show_often(6, {1: (0.8, 0.3, 0.0), 2: (0.9, 0.2, 0.0)})
    assert {t: world.label(t).identity for t in (1, 2)} == {1: None, 2: "Anna"}
    world = World()
    world.show_often(6, {1: (0.8, 0.58, 0.0), 2: (0.9, 0.2, 0.0)})
    assert {t: world.label(t).identity for t in (1, 2)} == {1: "Bert", 2: "Anna"}


def test_a_hidden_rival_keeps_its_name() -> None:
    world = World()
    world.show_often(4, {1: ANNA, 2: NOBODY})
    world.show_often(30, {2: (0.99, 0.0, 0.0)})
    assert world.label(1).identity == "Anna" and world.label(2).identity is None
    assert ("match.revised", "Anna") not in named(world.events)


def test_a_face_without_an_observation_is_beside_the_others_all_the_same() -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    world.show_often(30, {1: None, 2: (0.99, 0.0, 0.0)})
    assert world.label(2).identity is None


def test_the_name_of_a_rival_that_left_is_not_free() -> None:
    world = World()
    world.show_often(6, {1: (0.9, 0.1, 0.0), 2: (0.8, 0.1, 0.0)})
    world.show({2: (0.8, 0.1, 0.0)}, ended=[1])
    world.show_often(30, {2: (0.8, 0.1, 0.0)})
    world.end(2)
    assert [e.identity for e in world.events if isinstance(e, SightingEnded)] == ["Anna", None]


def test_tracks_that_end_together_keep_different_names() -> None:
    world = World()
    world.show_often(6, {1: (0.9, 0.1, 0.0), 2: (0.8, 0.1, 0.0)})
    events = world.show({}, ended=[1, 2])
    ends = [event.identity for event in events if isinstance(event, SightingEnded)]
    assert ends == ["Anna", None]


def test_a_rival_that_left_without_a_name_leaves_all_names_free() -> None:
    world = World()
    world.show_often(2, {1: ANNA, 2: ANNA})
    world.show({2: ANNA}, ended=[1])
    assert ("sighting.ended", None) in named(world.events)
    world.show_often(8, {2: ANNA})
    assert world.label(2).identity == "Anna"


def test_events_of_a_frame_tell_beginnings_then_decisions_then_ends() -> None:
    world = World()
    world.show_often(2, {1: ANNA, 2: BERT})
    events = world.show({1: ANNA, 3: NOBODY}, ended=[2])
    assert kinds(events) == ["sighting.started", "match", "sighting.ended"]
    tracks = [e.track for e in events if isinstance(e, TrackEvent)]
    assert tracks == [3, 1, 2]


def test_cameras_do_not_know_of_each_other() -> None:
    here, there = World(camera="here"), World(camera="there")
    there.stage = here.stage
    for _ in range(4):
        here.show({1: ANNA})
        there.show({1: ANNA})
    assert here.label(1).identity == there.label(1).identity == "Anna"
    here.end(1)
    assert there.stage.labels("there")[1].identity == "Anna"


def test_a_changed_gallery_makes_everybody_due() -> None:
    world = World()
    world.names = ()
    world.show_often(43, {1: ANNA})
    assert named(world.events) == [("unknown", None)]
    world.names, world.version = PEOPLE, 2
    assert world.show({1: ANNA}) == []
    world.stage.reconsider()
    (revised,) = world.show({1: ANNA})
    assert isinstance(revised, MatchRevised)
    assert (revised.identity, revised.gallery_version) == ("Anna", 2)
    assert world.show({1: ANNA}) == []


# --- ids and the schedule ---

STORY: list[tuple[dict[int, Cosines | None], list[int]]] = [
    *[({1: (0.6, 0.0, 0.0), 2: NOBODY}, [])] * 9,
    *[({1: (0.0, 0.6, 0.0)}, [2])],
    *[({1: (0.0, 0.6, 0.0)}, [])] * 30,
    ({}, [1]),
]


def tell_story(epoch: str) -> list[AnyEvent]:
    world = World(epoch=epoch)
    for seen, ended in STORY:
        world.show(seen, ended=ended)
    return world.events


def test_event_ids_are_the_same_when_a_story_is_told_again_and_never_twice() -> None:
    once, again, elsewhere = tell_story("e1"), tell_story("e1"), tell_story("e2")
    assert once == again
    ids = [event.id for event in once]
    assert len(set(ids)) == len(ids) >= 7
    assert not set(ids) & {event.id for event in elsewhere}


def test_a_track_number_that_goes_on_after_a_restart_gives_new_ids() -> None:
    before, after = World(), World()
    before.show_often(4, {1: ANNA})
    after.show_often(4, {2: ANNA})
    assert not {e.id for e in before.events} & {e.id for e in after.events}


@settings(max_examples=60, deadline=None)
@given(least=st.integers(1, 20), until=st.integers(1, 400))
def test_decisions_begin_on_time_thin_out_and_never_stop(least: int, until: int) -> None:
    decided, at = [], 0
    for count in range(1, until + 1):
        if is_due(count, at, least):
            at = count
            decided.append(count)
    assert decided == ([] if until < least else [least, *decided[1:]])
    gaps = np.diff(decided)
    assert all(1 <= gap <= 16 for gap in gaps) and all(np.diff(gaps) >= 0)
    assert until < least or until - decided[-1] < 16


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 300), least=st.integers(1, 20), count=st.integers(0, 400))
def test_once_due_a_track_stays_due(at: int, least: int, count: int) -> None:
    assert not (is_due(count, at, least) and not is_due(count + 1, at, least))


@settings(max_examples=25, deadline=None)
@given(
    frames=st.lists(
        st.dictionaries(st.integers(1, 4), st.sampled_from([ANNA, BERT, NOBODY, None])),
        min_size=1,
        max_size=40,
    )
)
def test_whoever_is_seen_every_sighting_begins_once_and_ends_once(
    frames: list[dict[int, Cosines | None]],
) -> None:
    world = World()
    for seen in frames:
        world.show(seen)
        visible = [world.label(t).identity for t in seen if world.label(t).identity]
        assert len(visible) == len(set(visible))
    for track in list(world.faces):
        world.end(track)
    for track in world.faces:
        told = [e for e in world.events if isinstance(e, TrackEvent) and e.track == track]
        assert isinstance(told[0], SightingStarted) and isinstance(told[-1], SightingEnded)
        middle = [e for e in told[1:-1] if isinstance(e, DecisionEvent)]
        assert len(middle) == len(told) - 2
        assert all(isinstance(e, MatchRevised) == (n > 0) for n, e in enumerate(middle))
    by_name: dict[str, list[int]] = {}
    for event in world.events:
        if isinstance(event, SightingEnded) and event.identity is not None:
            by_name.setdefault(event.identity, []).append(event.track)
    for seen in frames:
        assert not any(len(set(tracks) & set(seen)) > 1 for tracks in by_name.values())


# --- state as bytes ---

# Of up to three people: who is seen in a frame, how, and whose track ends with it.
STORIES = st.lists(
    st.dictionaries(st.integers(1, 3), st.sampled_from([ANNA, BERT, TWIN, NOBODY, None])),
    min_size=5,
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(story=STORIES)
def test_decisions_go_on_to_the_bit_from_any_frame(story: list[dict[int, Cosines | None]]) -> None:
    whole, moved = (World(unknown_frames=4, release=0.1, margin=0.1) for _ in range(2))
    ended: set[int] = set()
    for number, seen in enumerate(story):
        seen = {track: cosines for track, cosines in seen.items() if track not in ended}
        over = {track for track in whole.faces if track not in {*seen, *ended} and number % 5 == 4}
        ended |= over
        assert moved.show(seen, ended=sorted(over)) == whole.show(seen, ended=sorted(over))
        state = moved.stage.snapshot("door")
        assert state == whole.stage.snapshot("door")
        moved.stage = moved._stage()
        moved.stage.restore("door", state)
    assert moved._keep(moved.stage.close("door")) == whole._keep(whole.stage.close("door"))
    assert moved.stage.sightings["door"] == {} and moved.stage.aggregate.tracks == ()


def test_open_sightings_are_closed_as_of_the_frame_that_showed_them_last() -> None:
    world = World()
    world.show_often(4, {1: ANNA, 2: NOBODY})
    world.show_often(2, {1: ANNA})
    events = [event for event, _ in world.stage.close("door")]
    unknown, *ends = sorted(events, key=lambda event: event.kind == "sighting.ended")
    assert isinstance(unknown, Unknown) and unknown.track == 2
    assert [(e.track, e.frame, e.faces) for e in ends if isinstance(e, SightingEnded)] == [
        (1, 5, 6),
        (2, 3, 4),
    ]


def test_an_outline_is_enough_to_close_sightings_with_the_decision_they_had() -> None:
    world = World()
    world.show_often(6, {1: ANNA, 2: NOBODY, 3: None})
    told = [(e.kind, e.track) for e in world.events if isinstance(e, TrackEvent)]
    assert ("match", 1) in told and ("unknown", 2) not in told
    closing = world._stage()
    events = [event for event, _ in closing.close_outlined("door", world.stage.outline("door"))]
    assert [(e.kind, e.track) for e in events if isinstance(e, TrackEvent)] == [
        ("sighting.ended", 1),
        ("unknown", 2),
        ("sighting.ended", 2),
        ("sighting.ended", 3),
    ]
    ends = [e for e in events if isinstance(e, SightingEnded)]
    assert [(e.identity, e.reason) for e in ends] == [
        ("Anna", "matched"),
        (None, "unknown"),
        (None, "no usable face"),
    ]
    (match,) = (e for e in world.events if isinstance(e, MatchEvent))
    assert ends[0].score == pytest.approx(match.score)
    assert ends[0].evidence and ends[0].frames >= match.frames
    assert closing.sightings["door"] == {} and closing.aggregate.tracks == ()


def test_sightings_of_a_forgotten_camera_are_gone_without_a_word() -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    world.stage.forget("door")
    assert world.stage.close("door") == [] and world.stage.aggregate.tracks == ()


@pytest.mark.parametrize("data", [b"", b"garbage", msgspec.msgpack.encode([99, []])])
def test_other_bytes_are_no_sightings(data: bytes) -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    with pytest.raises(RecordError, match="stored sightings"):
        world.stage.restore("door", data)
    assert not world.stage.sightings.get("door")
