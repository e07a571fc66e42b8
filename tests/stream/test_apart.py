"""Cameras that cannot show one person at the same moment."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.events import AnyEvent, DecisionEvent, MatchRevised
from facestream.stream.sightings import Sighting

from .world import ANNA, BERT, FAINT, NOBODY, TWIN, Cosines, Names, World, told

DOOR, YARD = "door", "yard"
FACES = st.sampled_from([ANNA, BERT, FAINT, TWIN, NOBODY])


class Cameras:
    """Two live cameras of one DecideStage, on one clock."""

    def __init__(self, *, live: bool = True, **config: object) -> None:
        apart = {"apart": ((DOOR, YARD),), **config}
        self.worlds = {name: World(camera=name, **apart) for name in (DOOR, YARD)}
        self.stage = self.worlds[DOOR].stage
        self.names = Names()
        for name, world in self.worlds.items():
            world.stage = self.stage
            self.stage.begin(name, live=live)

    def show(self, camera: str, seen: dict[int, Cosines | None], times: int = 1) -> list[AnyEvent]:
        events = self.worlds[camera].show_often(times, seen)
        for event in events:
            self.names.hear(event)
        return events

    def skip(self, camera: str, frames: int) -> None:
        """Time passes at a camera: 25 frames a second."""
        self.worlds[camera].sequence += frames


def where(events: list[AnyEvent]) -> list[tuple[str, str, str | None]]:
    return [(e.camera, e.kind, e.identity) for e in events if isinstance(e, DecisionEvent)]


def test_a_better_score_takes_a_name_from_a_camera_that_is_apart() -> None:
    cameras = Cameras()
    assert where(cameras.show(DOOR, {1: FAINT}, 4)) == [(DOOR, "match", "Anna")]
    events = cameras.show(YARD, {1: ANNA}, 4)
    assert where(events) == [(DOOR, "match.revised", None), (YARD, "match", "Anna")]
    lost = events[1]
    assert isinstance(lost, MatchRevised) and lost.cause == "camera"
    assert lost.previous_identity == "Anna" and lost.frame == 3
    # It is decided again with its next face, and is still outdone.
    assert where(cameras.show(DOOR, {1: FAINT}, 30)) == []
    assert cameras.stage.labels(DOOR)[1].identity is None


def test_a_worse_score_does_not_get_a_name_that_is_held_elsewhere() -> None:
    cameras = Cameras()
    cameras.show(DOOR, {1: ANNA}, 4)
    assert where(cameras.show(YARD, {1: FAINT}, 30)) == [(YARD, "unknown", None)]
    # The next best that passes is given instead.
    cameras.show(DOOR, {1: ANNA}, 30)
    cameras.show(YARD, {2: (0.6, 0.55, 0.0)}, 4)
    assert cameras.stage.labels(YARD)[2].identity == "Bert"


def test_nearly_equal_scores_leave_a_name_where_it_is() -> None:
    cameras = Cameras(margin=0.1)
    cameras.show(DOOR, {1: (0.8, 0.0, 0.0)}, 4)
    cameras.show(YARD, {1: (0.85, 0.0, 0.0)}, 30)
    assert cameras.names.held == {(DOOR, 1): "Anna"}


def test_who_had_the_time_to_walk_over_is_named_there() -> None:
    cameras = Cameras()
    cameras.show(DOOR, {1: ANNA}, 4)
    cameras.skip(YARD, 3 + 26)  # more than a second after the last face at the door
    cameras.show(YARD, {1: FAINT}, 4)
    assert cameras.stage.labels(YARD)[1].identity == "Anna"


def test_a_camera_that_lags_behind_is_judged_by_its_own_clock() -> None:
    cameras = Cameras()
    cameras.show(DOOR, {1: ANNA}, 100)
    cameras.show(YARD, {1: FAINT}, 4)  # of the first moments; at the door she was there already
    assert cameras.stage.labels(YARD)[1].identity is None


def test_both_are_named_until_it_is_known_that_they_were_there_at_once() -> None:
    cameras = Cameras()
    cameras.show(DOOR, {1: ANNA}, 4)
    cameras.skip(YARD, 60)
    cameras.show(YARD, {1: FAINT}, 4)
    assert len(cameras.names.held) == 2
    # The door's camera lagged: its track is still in view at that time.
    cameras.show(DOOR, {1: ANNA}, 70)
    assert cameras.names.held == {(DOOR, 1): "Anna"}


def test_who_was_elsewhere_while_somebody_was_in_view_is_not_them_afterwards() -> None:
    cameras = Cameras()
    cameras.show(DOOR, {1: ANNA}, 4)
    cameras.show(YARD, {1: FAINT}, 4)
    cameras.worlds[DOOR].end(1)
    cameras.show(YARD, {1: FAINT}, 40)
    assert cameras.stage.labels(YARD)[1].identity is None


def test_at_its_end_a_better_track_takes_the_name_from_one_that_goes_on() -> None:
    cameras = Cameras(unknown_frames=50)
    cameras.show(DOOR, {1: (0.45, 0.0, 0.0)}, 9)
    cameras.show(DOOR, {1: (0.99, 0.0, 0.0)}, 3)  # the next decision is due at the 13th
    cameras.show(YARD, {1: FAINT}, 4)
    assert cameras.names.held == {(YARD, 1): "Anna"}
    assert told(cameras.worlds[DOOR].end(1)) == [(1, "sighting.ended", "Anna")]
    (revised,) = (e for e in cameras.show(YARD, {1: FAINT}) if isinstance(e, MatchRevised))
    assert (revised.identity, revised.cause) == (None, "camera")


def test_recordings_are_not_held_to_be_apart(caplog: pytest.LogCaptureFixture) -> None:
    cameras = Cameras(live=False)
    assert caplog.messages == [
        f"camera {name} is a recording: match.apart does not hold for it" for name in (DOOR, YARD)
    ]
    cameras.show(DOOR, {1: ANNA}, 4)
    cameras.show(YARD, {1: ANNA}, 4)
    assert len(cameras.names.held) == 2


def test_cameras_that_nobody_declared_are_not_held_to_be_apart() -> None:
    cameras = Cameras(apart=())
    cameras.show(DOOR, {1: ANNA}, 4)
    cameras.show(YARD, {1: ANNA}, 4)
    assert len(cameras.names.held) == 2


def overlap(one: Sighting, other: Sighting) -> bool:
    """Whether two were in view within a second of each other."""
    begin = max(one.started.captured_at, other.started.captured_at)
    return begin - min(one.seen.captured_at, other.seen.captured_at) <= 1.0


MOVES = st.lists(
    st.tuples(
        st.sampled_from([DOOR, YARD]),
        st.dictionaries(st.integers(1, 3), FACES, max_size=2),
        st.integers(1, 4),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(story=MOVES, margin=st.floats(0.0, 0.1), release=st.floats(0.0, 0.1))
def test_nobody_is_named_in_two_cameras_that_are_apart_at_once(
    story: list[tuple[str, dict[int, Cosines | None], int]], margin: float, release: float
) -> None:
    cameras = Cameras(margin=margin, release=release, unknown_frames=4)
    for camera, seen, times in story:
        for _ in range(times):
            cameras.show(camera, seen)
            other = YARD if camera == DOOR else DOOR
            for one in (cameras.stage.sightings[camera][track] for track in seen):
                assert not any(
                    one.identity == two.identity and overlap(one, two)
                    for two in cameras.stage.sightings.get(other, {}).values()
                    if one.identity is not None
                )
            for name in (DOOR, YARD):
                held = cameras.names.of(name)
                assert len(held) == len(set(held))
