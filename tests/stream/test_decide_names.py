"""Who has which name: one live track per camera, cameras that are apart, and names that stay."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.events import (
    AnyEvent,
    DecisionEvent,
    MatchEvent,
    MatchRevised,
    SightingEnded,
)

from .world import ANNA, BERT, NOBODY, Cosines, World

FAINT = (0.55, 0.0, 0.0)
"""Anna, barely."""
TWIN = (0.66, 0.64, 0.0)
"""Anna or Bert."""
DOOR, YARD = "door", "yard"


def told(events: list[AnyEvent]) -> list[tuple[int, str, str | None]]:
    """Track, kind and identity of decisions."""
    return [(e.track, e.kind, e.identity) for e in events if isinstance(e, DecisionEvent)]


class Names:
    """Who has which name, as a subscriber would know it from the events alone."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, int], str] = {}

    def hear(self, event: AnyEvent) -> None:
        if not isinstance(event, DecisionEvent):
            return
        key = (event.camera, event.track)
        if event.identity is None or isinstance(event, SightingEnded):
            self.held.pop(key, None)
        else:
            self.held[key] = event.identity

    def of(self, camera: str) -> list[str]:
        return [name for (where, _), name in self.held.items() if where == camera]


# --- one live track per camera ---


def test_a_name_goes_over_to_the_track_that_is_in_view() -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    events = world.show_often(4, {2: FAINT})  # track 1 is out of sight, and not over yet
    assert told(events) == [(1, "match.revised", None), (2, "match", "Anna")]
    moved, match = (e for e in events if isinstance(e, DecisionEvent))
    assert isinstance(moved, MatchRevised) and isinstance(match, MatchEvent)
    assert (moved.previous_identity, moved.cause) == ("Anna", "track")
    assert (moved.frame, match.frame) == (3, 6)  # as of the last frame that shows either
    # It was right while it lasted: the end tells it, and raises no second alarm.
    (ended,) = world.end(1)
    assert isinstance(ended, SightingEnded)
    assert (ended.identity, ended.reason) == ("Anna", "matched")
    assert world.label(2).identity == "Anna"


def test_a_track_that_is_seen_again_gets_its_name_back_from_one_that_is_not() -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    world.show_often(4, {2: FAINT})
    events = world.show({1: ANNA})
    assert told(events) == [(2, "match.revised", None), (1, "match.revised", "Anna")]
    assert told(world.show({1: ANNA, 2: FAINT})) == []  # now they are beside each other
    world.end(1)
    assert told(world.end(2)) == [(2, "sighting.ended", None)]


def test_two_that_turn_out_to_be_beside_each_other_are_decided_together() -> None:
    world = World()
    world.show_often(4, {1: ANNA})
    world.show_often(4, {2: FAINT})
    events = world.show({1: ANNA, 2: FAINT})
    assert sorted(told(events)) == [(1, "match.revised", "Anna"), (2, "match.revised", None)]


def test_whoever_was_beside_a_track_cannot_have_the_name_that_went_over() -> None:
    world = World()
    world.show_often(4, {1: ANNA, 3: NOBODY})
    world.show_often(4, {2: FAINT})
    world.show_often(20, {3: (0.99, 0.0, 0.0)})
    assert (world.label(2).identity, world.label(3).identity) == ("Anna", None)


def test_at_its_end_a_track_takes_no_name_from_one_that_goes_on() -> None:
    world = World(unknown_frames=50)
    world.show_often(9, {1: (0.45, 0.0, 0.0)})
    world.show_often(3, {1: (0.99, 0.0, 0.0)})  # the next decision is due at the 13th
    world.show_often(4, {2: ANNA})
    assert told(world.events) == [(2, "match", "Anna")]
    assert told(world.end(1)) == [(1, "sighting.ended", "Anna")]
    assert world.label(2).identity == "Anna"


FACES = st.sampled_from([ANNA, BERT, FAINT, TWIN, NOBODY, None])
STORIES = st.lists(st.dictionaries(st.integers(1, 5), FACES, max_size=3), max_size=40)


@settings(max_examples=60, deadline=None)
@given(story=STORIES, release=st.floats(0.0, 0.1), margin=st.floats(0.0, 0.1))
def test_no_two_live_tracks_of_a_camera_ever_have_one_name(
    story: list[dict[int, Cosines | None]], release: float, margin: float
) -> None:
    world, names = World(release=release, margin=margin, unknown_frames=4), Names()
    over: set[int] = set()
    for number, seen in enumerate(story):
        seen = {track: cosines for track, cosines in seen.items() if track not in over}
        hidden = sorted(set(world.faces) - set(seen) - over)
        ends = hidden[:1] if number % 7 == 6 else []
        over |= set(ends)
        for event in world.show(seen, ended=ends):
            names.hear(event)
        held = names.of(DOOR)
        assert len(held) == len(set(held))
        live = world.stage.sightings[DOOR]
        own = {track: one.identity for track, one in live.items() if one.identity is not None}
        assert own == {track: name for (_, track), name in names.held.items()}
    for event, _ in world.stage.close(DOOR):
        names.hear(event)
    assert names.held == {}
