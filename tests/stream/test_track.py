from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.configs.schema import DetectConfig, TrackConfig
from facestream.models.backends import open_session
from facestream.models.detectors.yunet import YuNet
from facestream.models.inference import Detector
from facestream.models.pack import Pack
from facestream.stream.detect import DetectStage
from facestream.stream.records import Detections, Face, Frame, FrameRef, Tracked, TrackKey
from facestream.stream.track import TrackStage, distinct

WIDTH, HEIGHT = 1280, 720
Place = tuple[float, float, float]  # centre x, centre y, height of a face, px
Path_ = Callable[[float], Place | None]  # where somebody's face is at a time, None where unseen


def face(x: float, y: float, height: float, score: float = 0.9) -> Face:
    width = 0.8 * height
    points = np.array([[-0.2, -0.1], [0.2, -0.1], [0, 0.1], [-0.15, 0.25], [0.15, 0.25]])
    return Face(
        np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dtype=np.float32),
        (points * height + [x, y]).astype(np.float32),
        score,
    )


def frame_at(pts: float, sequence: int = 0, camera: str = "door") -> FrameRef:
    return FrameRef(camera, sequence, pts, 1.7e9 + pts, WIDTH, HEIGHT)


def stage(**config: float) -> TrackStage:
    return TrackStage(TrackConfig(**config), "epoch")  # type: ignore[arg-type]


def follow(
    people: Mapping[str, Path_], times: Sequence[float], tracker: TrackStage | None = None
) -> tuple[dict[str, list[int]], list[Tracked]]:
    """Show people to a tracker at times; returns each one's track ids (as a set would show, in
    order of appearance) and what the tracker said of every frame."""
    tracker = tracker or stage()
    ids: dict[str, list[int]] = {name: [] for name in people}
    said: list[Tracked] = []
    for sequence, pts in enumerate(times):
        seen = {name: place for name, path in people.items() if (place := path(pts)) is not None}
        faces = {name: face(*place) for name, place in seen.items()}
        said.append(tracker.process(Detections(frame_at(pts, sequence), tuple(faces.values()))))
        for tracked in said[-1].faces:
            (name,) = (name for name, one in faces.items() if one is tracked.face)
            if tracked.track not in ids[name]:
                ids[name].append(tracked.track)
    return ids, said


def clock(fps: float, seconds: float) -> list[float]:
    return [n / fps for n in range(round(fps * seconds))]


def walker(x: float, y: float, height: float, speed: float) -> Path_:
    """Somebody who walks across the picture, `speed` px per second to the right."""
    return lambda t: (x + speed * t, y, height)


def hidden(path: Path_, since: float, until: float) -> Path_:
    return lambda t: None if since < t < until else path(t)


# --- beginning and ending ---


def test_a_track_is_believed_with_its_third_face_in_a_row() -> None:
    tracker = stage(confirm_faces=3)
    said = [
        tracker.process(Detections(frame_at(n / 25, n), (face(300, 300, 40),))) for n in range(4)
    ]
    assert [len(item.faces) for item in said] == [0, 0, 1, 1]
    assert said[2].started == (TrackKey("door", "epoch", 1),)
    assert [said[n].faces[0].ordinal for n in (2, 3)] == [0, 1]
    assert not (said[0].started or said[1].started or said[3].started)


def test_one_face_is_enough_where_configuration_says_so() -> None:
    said = stage(confirm_faces=1).process(Detections(frame_at(0.0), (face(300, 300, 40),)))
    assert [(f.track, f.ordinal) for f in said.faces] == [(1, 0)]


def test_faces_that_flicker_are_never_believed() -> None:
    blinking: Path_ = lambda t: (300, 300, 40) if round(t * 25) % 3 else None  # noqa: E731
    ids, _ = follow({"poster": blinking}, clock(25, 3))
    assert ids == {"poster": []}


def test_a_track_ends_when_nobody_was_seen_for_the_set_time() -> None:
    times = clock(10, 4)
    ids, said = follow({"a": lambda t: (300, 300, 40) if t < 1 else None}, times)
    assert ids == {"a": [1]}
    (frame,) = (item for item in said if item.ended)
    (end,) = frame.ended
    assert end.key == TrackKey("door", "epoch", 1)
    assert (end.first.pts, end.last.pts, end.faces) == (0.2, 0.9, 8)
    assert frame.frame.pts == pytest.approx(2.5)  # the first frame more than 1.5 s after 0.9


def test_who_leaves_the_picture_ends_at_once_and_who_enters_there_is_somebody_else() -> None:
    leaves = hidden(walker(1000, 300, 60, 300), 0.93, 99)  # at the border when last seen
    enters: Path_ = lambda t: (1290 - 200 * (t - 1.2), 300, 60) if t > 1.2 else None  # noqa: E731
    ids, said = follow({"leaves": leaves, "enters": enters}, clock(25, 3))
    assert ids == {"leaves": [1], "enters": [2]}
    ended = [item.frame.pts for item in said if item.ended]
    assert len(ended) == 1 and ended[0] < 1.3  # not after the whole lost_seconds


def test_the_end_of_a_source_ends_its_tracks_and_ids_go_on() -> None:
    tracker = TrackStage(TrackConfig(), "epoch", first_ids={"door": 41})
    stands: Path_ = lambda t: (300, 300, 40)  # noqa: E731
    ids, _ = follow({"a": stands}, clock(25, 1), tracker)
    assert ids == {"a": [41]}
    (end,) = tracker.finish("door")
    assert (end.key.track, end.faces, end.last.pts) == (41, 23, 0.96)
    assert tracker.finish("door") == () and tracker.finish("never seen") == ()
    ids, _ = follow({"a": stands}, clock(25, 1), tracker)
    assert ids == {"a": [42]}


def test_a_clock_that_jumps_back_is_another_recording() -> None:
    tracker = stage()
    stands: Path_ = lambda t: (300, 300, 40)  # noqa: E731
    follow({"a": stands}, [100 + t for t in clock(25, 1)], tracker)
    ids, said = follow({"a": stands}, clock(25, 1), tracker)
    assert said[0].ended and ids == {"a": [2]}


def test_a_face_of_another_size_is_somebody_else() -> None:
    """A cut: the clip jumps to a close-up of another person at the same place."""
    ids, _ = follow(
        {
            "far": lambda t: (400, 300, 40) if t < 1 else None,
            "near": lambda t: (400, 300, 110) if t >= 1 else None,
        },
        clock(25, 2),
    )
    assert ids == {"far": [1], "near": [2]}


# --- going on ---


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_faces_that_cross_keep_their_ids(stride: int) -> None:
    people = {"right": walker(300, 300, 50, 200), "left": walker(700, 320, 55, -200)}
    ids, _ = follow(people, clock(25, 2)[::stride])
    assert sorted(ids.values()) == [[1], [2]]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_face_that_passes_behind_another_keeps_its_id(stride: int) -> None:
    """The detector sees one face of the two while they overlap: 200 px apart at 1 s +- 0.125 s."""
    behind = hidden(walker(700, 310, 48, -200), 0.85, 1.15)
    ids, _ = follow({"front": walker(300, 300, 50, 200), "behind": behind}, clock(25, 2)[::stride])
    assert sorted(ids.values()) == [[1], [2]]


@pytest.mark.parametrize("fps", [5, 12, 25, 60])
def test_an_occlusion_of_one_second_is_bridged(fps: float) -> None:
    person = hidden(walker(200, 300, 60, 180), 1.5, 2.5)
    ids, said = follow({"a": person}, clock(fps, 4))
    assert ids == {"a": [1]}
    assert not any(item.ended for item in said)


def test_who_stops_behind_a_pillar_is_found_where_they_were_last_seen() -> None:
    def path(t: float) -> Place | None:
        if 1.0 < t < 2.0:
            return None
        return (200 + 180 * min(t, 1.15), 300, 60)

    ids, _ = follow({"a": path}, clock(25, 3))
    assert ids == {"a": [1]}


def test_small_faces_that_jump_nearly_their_own_size_are_followed() -> None:
    """20 px faces, 15 px a frame at 12 frames per second, three abreast: they never overlap."""
    people = {f"p{n}": walker(200 + 55 * n, 300, 20, 15 * 12) for n in range(3)}
    ids, _ = follow(people, clock(12, 4))
    assert sorted(ids.values()) == [[1], [2], [3]]


@pytest.mark.parametrize("seed", range(5))
def test_missed_detections_and_uneven_time_do_not_break_a_track(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.01, 0.12, 120)).tolist()
    missed = {t for t in times[5:] if random.random() < 0.3}
    shaken = {t: random.normal(0, 1.5, 2) for t in times}

    def path(x: float, y: float, height: float, speed: float) -> Path_:
        def place(t: float) -> Place | None:
            dx, dy = shaken[t]
            return None if t in missed else (x + speed * t + dx, y + dy, height)

        return place

    ids, _ = follow({"a": path(200, 200, 30, 90), "b": path(260, 210, 35, 90)}, times)
    assert sorted(ids.values()) == [[1], [2]]


def test_weak_faces_continue_a_track_but_begin_none() -> None:
    tracker = stage()
    for n in range(40):
        score = 0.9 if n < 10 else 0.4
        tracked = tracker.process(
            Detections(frame_at(n / 25, n), (face(300 + n, 300, 40, score), face(9, 9, 40, 0.4)))
        )
    assert [(f.track, f.ordinal) for f in tracked.faces] == [(1, 37)]


def test_a_weak_face_continues_a_track_that_is_not_believed_yet() -> None:
    tracker = stage()
    for n, score in enumerate((0.9, 0.4, 0.4)):
        tracked = tracker.process(
            Detections(frame_at(n / 25, n), (face(300 + n, 300, 40, score), face(9, 9, 40, 0.4)))
        )
    assert [(f.track, f.ordinal) for f in tracked.faces] == [(1, 0)]


def test_who_comes_back_into_view_is_known_by_a_weak_face() -> None:
    """Coming out from behind something, a face is half hidden at first."""
    tracker = stage()
    for n in range(40):
        x, score = 300 + 4 * n, 0.4 if n == 35 else 0.9
        hidden_now = 20 <= n < 35
        faces = () if hidden_now else (face(x, 300, 60, score),)
        tracked = tracker.process(Detections(frame_at(n / 25, n), faces))
        assert [f.track for f in tracked.faces] == ([] if hidden_now or n < 2 else [1])


def test_who_turns_back_behind_somebody_is_found_where_they_were_last_seen() -> None:
    """Hidden for 0.2 s: the prediction has gone on by one and a half face heights meanwhile."""

    def path(t: float) -> Place | None:
        if 1.0 < t < 1.2:
            return None
        return (300 + 360 * min(t, 1.1) - 360 * max(t - 1.1, 0), 300, 50)

    ids, _ = follow({"a": path}, clock(25, 2))
    assert ids == {"a": [1]}


def test_a_face_found_twice_makes_one_track() -> None:
    tracker = stage()
    for n in range(30):
        x = 300.0 + 3 * n
        twice = (face(x, 300, 40), face(x + 4, 302, 44, 0.8), face(x, 305, 20, 0.7))
        tracked = tracker.process(Detections(frame_at(n / 25, n), twice))
    assert [f.track for f in tracked.faces] == [1]
    assert tracked.faces[0].face is twice[0]


def test_the_better_of_two_boxes_stays_and_neighbours_both_do() -> None:
    best, repeat, neighbour = face(300, 300, 40), face(303, 300, 44, 0.7), face(335, 300, 40, 0.6)
    assert distinct((neighbour, repeat, best)) == (best, neighbour)
    assert distinct(()) == ()


# --- properties ---

coordinate = st.floats(0, 600, width=32)
Scene = list[tuple[float, float, float, float]]
scene = st.lists(
    st.lists(
        st.tuples(coordinate, coordinate, st.sampled_from([16.0, 24.0, 40.0]), st.floats(0.2, 1)),
        max_size=5,
    ),
    min_size=1,
    max_size=25,
)


def summary(tracked: Tracked) -> list[tuple[object, ...]]:
    ends = [(end.key.track, end.first.pts, end.last.pts, end.faces) for end in tracked.ended]
    return [(f.track, f.ordinal, *f.face.box.tolist()) for f in tracked.faces] + sorted(ends)


@settings(max_examples=40, deadline=None)
@given(scene=scene, seed=st.integers(0, 2**16))
def test_any_scene_gives_sound_tracks_whatever_the_order_of_faces(
    scene: list[Scene], seed: int
) -> None:
    random = np.random.default_rng(seed)
    one, other = stage(confirm_faces=2), stage(confirm_faces=2)
    alive: dict[int, int] = {}
    used: set[int] = set()
    for n, places in enumerate(scene):
        faces = [face(*place) for place in places]
        ref = frame_at(0.4 * n, n)
        said = one.process(Detections(ref, tuple(faces)))
        turned = tuple(faces[i] for i in random.permutation(len(faces)))
        assert summary(other.process(Detections(ref, turned))) == summary(said)

        for key in said.started:
            assert key.track not in used  # ids are never used again
            used.add(key.track)
            alive[key.track] = 0
        for tracked in said.faces:
            assert tracked.ordinal == alive[tracked.track]  # started before, counted from 0
            alive[tracked.track] += 1
        assert len({f.track for f in said.faces}) == len(said.faces)
        assert len({id(f.face) for f in said.faces}) == len(said.faces)
        assert all(any(f.face is one for one in faces) for f in said.faces)
        for end in said.ended:
            assert alive.pop(end.key.track) == end.faces
    assert {end.key.track: end.faces for end in one.finish("door")} == alive


@settings(max_examples=20, deadline=None)
@given(first=scene, second=scene)
def test_cameras_do_not_disturb_each_other(
    first: list[Scene],
    second: list[Scene],
) -> None:
    def shown(tracker: TrackStage, camera: str, n: int, places: Scene) -> list[tuple[object, ...]]:
        faces = tuple(face(*place) for place in places)
        return summary(tracker.process(Detections(frame_at(0.1 * n, n, camera), faces)))

    together, alone, apart = stage(), stage(), stage()
    for n in range(max(len(first), len(second))):
        if n < len(first):
            assert shown(together, "a", n, first[n]) == shown(alone, "a", n, first[n])
        if n < len(second):
            assert shown(together, "b", n, second[n]) == shown(apart, "b", n, second[n])


@settings(max_examples=20, deadline=None)
@given(stride=st.integers(1, 4), speed=st.floats(-150, 150), jitter=st.floats(0, 0.01))
def test_strides_and_jitter_do_not_change_who_is_who(
    stride: int, speed: float, jitter: float
) -> None:
    people = {"a": walker(400, 200, 40, speed), "b": walker(500, 300, 50, -speed)}
    times = [t + jitter * (-1) ** n for n, t in enumerate(clock(25, 3))]
    ids, said = follow(people, times[::stride])
    assert sorted(ids.values()) == [[1], [2]]
    assert not any(item.ended for item in said)


# --- real faces ---

PEOPLE = {
    "classroom.gif": 4,
    "face-demographics-walking-and-pause.gif": 3,
    "face-demographics-walking.gif": 2,
    "head-pose-face-detection-female-and-male.gif": 2,
    "head-pose-face-detection-female.gif": 1,
    "head-pose-face-detection-male.gif": 1,
}
"""How many people each clip shows; all of them stay in view to its end."""


def track_clip(
    clip: Path, detector: Detector, *, stride: int = 1, only: Sequence[range] | None = None
) -> dict[int, list[int]]:
    """Frame numbers by track id."""
    detect = DetectStage(detector, {}, DetectConfig(), {}, minimal_eye_distance=0.0)
    tracker = stage()
    seen: dict[int, list[int]] = {}
    with av.open(str(clip)) as container:
        for n, picture in enumerate(container.decode(video=0)):
            if n % stride or (only is not None and not any(n in part for part in only)):
                continue
            image = picture.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
            assert picture.time is not None
            frame = Frame("clip", n, picture.time, 1.7e9 + picture.time, image)
            for tracked in tracker.process(detect.process([frame])[0]).faces:
                seen.setdefault(tracked.track, []).append(n)
    return seen


@pytest.fixture(scope="module")
def yunet(assets: Path) -> Detector:
    return YuNet(open_session(assets / "models" / "yunet_n_dynamic.onnx"))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("clip", PEOPLE)
def test_yunet_gives_every_person_of_a_clip_one_track(
    assets: Path, yunet: Detector, clip: str, stride: int
) -> None:
    seen = track_clip(assets / "video" / clip, yunet, stride=stride)
    assert len(seen) == PEOPLE[clip]


@pytest.mark.parametrize("clip", PEOPLE)
def test_centerface_gives_every_person_of_a_clip_one_track(
    assets: Path, open_models: Pack, clip: str
) -> None:
    seen = track_clip(assets / "video" / clip, open_models.detector)
    assert len(seen) == PEOPLE[clip]


def test_three_people_who_turn_round_as_they_leave_are_three_tracks(
    assets: Path, open_models: Pack
) -> None:
    """Most of this clip shows backs of heads; three people show a profile on their way out."""
    turns = [range(680, 700), range(848, 870), range(1340, 1360)]
    clip = assets / "video" / "one-by-one-person-detection.mp4"
    seen = track_clip(clip, open_models.detector, only=turns)
    shown = [{turns.index(turn) for turn in turns for n in of if n in turn} for of in seen.values()]
    assert shown == [{0}, {1}, {2}]


# --- state as bytes ---


@settings(max_examples=15, deadline=None)
@given(
    walks=st.lists(st.tuples(coordinate, coordinate, st.floats(-200, 200)), max_size=5),
    seed=st.integers(0, 2**16),
)
def test_a_tracker_goes_on_to_the_bit_from_any_frame(
    walks: list[tuple[float, float, float]], seed: int
) -> None:
    people = [walker(x, y, 40, speed) for x, y, speed in walks]
    whole, moved = stage(lost_seconds=0.5), stage(lost_seconds=0.5)
    rng = np.random.default_rng(seed)
    for sequence, pts in enumerate(clock(12, 4)):
        shown = [place for path in people if rng.uniform() < 0.8 and (place := path(pts))]
        faces = tuple(face(*place) for place in shown)
        detections = Detections(frame_at(pts, sequence), faces)
        assert summary(moved.process(detections)) == summary(whole.process(detections))
        state = moved.snapshot("door")
        assert state == whole.snapshot("door")
        moved = stage(lost_seconds=0.5)
        moved.restore("door", state)
    assert moved.finish("door") == whole.finish("door")
    assert moved.snapshot("door") == whole.snapshot("door")  # ids go on


def test_a_tracker_that_has_seen_nothing_keeps_its_first_id() -> None:
    tracker = TrackStage(TrackConfig(), "epoch", first_ids={"door": 7})
    other = stage()
    other.restore("door", tracker.snapshot("door"))
    said = follow({"a": lambda t: (300, 300, 40)}, clock(10, 1), other)[1]
    assert [key.track for tracked in said for key in tracked.started] == [7]


@pytest.mark.parametrize("data", [b"", b"garbage", msgspec.msgpack.encode([99, 1, None, []])])
def test_other_bytes_are_no_tracker(data: bytes) -> None:
    with pytest.raises(RecordError, match="snapshot"):
        stage().restore("door", data)
