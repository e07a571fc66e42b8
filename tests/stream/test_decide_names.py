"""Who has which name: one live track per camera, names that stay, look-alikes and marks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.events import (
    DecisionEvent,
    MatchEvent,
    MatchRevised,
    SightingEnded,
)
from facestream.stream.negatives import Negatives

from .world import ANNA, BERT, FAINT, NOBODY, TWIN, Cosines, Names, World, told, vector

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
        held = names.of("door")
        assert len(held) == len(set(held))
        live = world.stage.sightings["door"]
        own = {track: one.identity for track, one in live.items() if one.identity is not None}
        assert own == {track: name for (_, track), name in names.held.items()}
    for event, _ in world.stage.close("door"):
        names.hear(event)
    assert names.held == {}


# --- names that stay ---


def test_a_name_is_kept_a_little_below_the_threshold_that_gave_it() -> None:
    world = World(release=0.1)
    world.show_often(3, {1: (0.55, 0.0, 0.0)})
    world.show_often(40, {1: (0.42, 0.0, 0.0)})
    assert told(world.events) == [(1, "match", "Anna")]
    world.show_often(80, {1: (0.30, 0.0, 0.0)})
    assert told(world.events)[1:] == [(1, "match.revised", None)]
    # Once it is gone it takes the whole threshold again.
    world.show_often(60, {1: (0.45, 0.0, 0.0)})
    world.end(1)
    assert told(world.events)[2:] == [(1, "sighting.ended", None)]


def test_without_release_the_threshold_alone_decides() -> None:
    world = World(release=0.0)
    world.show_often(3, {1: (0.55, 0.0, 0.0)})
    world.show_often(40, {1: (0.42, 0.0, 0.0)})
    assert told(world.events) == [(1, "match", "Anna"), (1, "match.revised", None)]


def test_another_name_must_win_by_the_margin() -> None:
    world = World(margin=0.1)
    world.show_often(4, {1: (0.75, 0.5, 0.0)})
    world.show_often(30, {1: (0.62, 0.70, 0.0)})
    assert {name for _, _, name in told(world.events)} == {"Anna"}
    world.show_often(200, {1: (0.5, 0.75, 0.0)})
    assert told(world.events)[-1] == (1, "match.revised", "Bert")
    steady = len(told(world.events))
    world.show_often(60, {1: (0.65, 0.68, 0.0)})
    assert len(told(world.events)) == steady


def test_a_face_that_holds_a_name_loses_it_to_another_only_by_the_margin() -> None:
    for margin, second in ((0.1, None), (0.0, "Anna")):
        world = World(margin=margin)
        world.show_often(4, {1: (0.70, 0.0, 0.0), 2: NOBODY})
        world.show_often(90, {1: (0.70, 0.0, 0.0), 2: (0.76, 0.0, 0.0)})
        assert world.label(2).identity == second


# --- look-alikes ---


def test_look_alikes_are_told_with_both_names_once_there_is_enough() -> None:
    world = World(margin=0.1, unknown_frames=8)
    assert told(world.show_often(7, {1: TWIN})) == []  # a few faces more may tell them apart
    (match,) = (e for e in world.show_often(9, {1: TWIN}) if isinstance(e, MatchEvent))
    assert (match.identity, match.ambiguous) == ("Anna", ("Anna", "Bert"))
    assert match.frames >= 8
    (ended,) = world.end(1)
    assert isinstance(ended, SightingEnded)
    assert (ended.identity, ended.ambiguous) == ("Anna", ("Anna", "Bert"))


def test_a_track_that_ends_early_tells_who_it_might_be() -> None:
    world = World(margin=0.1)
    world.show_often(4, {1: TWIN})
    match, ended = (e for e in world.end(1) if isinstance(e, DecisionEvent))
    assert (match.kind, match.identity, match.ambiguous) == ("match", "Anna", ("Anna", "Bert"))
    assert ended.ambiguous == match.ambiguous


def test_a_doubt_that_is_resolved_is_told_and_does_not_come_back_for_a_little() -> None:
    world = World(margin=0.1, unknown_frames=8)
    world.show_often(10, {1: TWIN})
    events = world.show_often(120, {1: (0.75, 0.45, 0.0)})
    (revised,) = (e for e in events if isinstance(e, MatchRevised))
    assert (revised.identity, revised.previous_identity) == ("Anna", "Anna")
    assert (revised.ambiguous, revised.cause) == ((), "frames")
    # Told apart by twice the margin; it takes less than the margin to be in doubt again.
    assert told(world.show_often(40, {1: (0.70, 0.56, 0.0)})) == []


def test_who_is_below_the_threshold_is_no_look_alike() -> None:
    world = World(margin=0.1)
    (_, match) = world.show_often(3, {1: (0.53, 0.48, 0.0)})
    assert isinstance(match, MatchEvent) and match.ambiguous == ()


def test_whoever_is_surely_somebody_beside_is_not_in_doubt() -> None:
    world = World(margin=0.1)
    events = world.show_often(3, {1: TWIN, 2: (0.05, 0.95, 0.0)})
    assert {(e.track, e.identity, e.ambiguous) for e in events if isinstance(e, MatchEvent)} == {
        (1, "Anna", ()),
        (2, "Bert", ()),
    }


def test_twins_beside_each_other_stay_in_doubt() -> None:
    world = World(margin=0.1, unknown_frames=3)
    events = world.show_often(3, {1: (0.66, 0.64, 0.0), 2: (0.65, 0.66, 0.0)})
    assert {(e.identity, e.ambiguous) for e in events if isinstance(e, MatchEvent)} == {
        ("Anna", ("Anna", "Bert")),
        ("Bert", ("Bert", "Anna")),
    }


def test_a_look_alike_is_found_though_one_candidate_is_listed() -> None:
    world = World(margin=0.1, top_k=1, unknown_frames=3)
    (_, match) = world.show_often(3, {1: TWIN})
    assert isinstance(match, MatchEvent)
    assert [c.identity for c in match.candidates] == ["Anna", "Bert"] == list(match.ambiguous)


# --- "not this person" ---


def test_a_mark_takes_the_name_with_the_next_face_and_says_that_the_gallery_changed() -> None:
    world = World(release=0.1, margin=0.1)
    world.show_often(43, {1: ANNA})
    world.negatives = Negatives({"Anna": vector(ANNA)[None]})
    world.version = 2
    world.stage.reconsider()
    (revised,) = (e for e in world.show({1: ANNA}) if isinstance(e, MatchRevised))
    assert (revised.identity, revised.previous_identity) == (None, "Anna")
    assert (revised.cause, revised.gallery_version) == ("gallery", 2)
    assert "Anna" not in {c.identity for c in revised.candidates}
    world.show_often(4, {2: (0.999, 0.0, 0.0)})
    assert world.label(2).identity == "Anna"  # herself
