"""The measures of `facestream evaluate video`, worked out by hand on miniatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from facestream.tools.eval_tracks import (
    HEIGHTS,
    Boxes,
    TrackingCounts,
    class_names,
    count_detections,
    count_tracking,
    judge_frame,
    match_boxes,
    score_tracking,
)
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.eval_video_decide import (
    Alert,
    Decisions,
    Seen,
    Shown,
    SystemTrack,
    Watched,
    boxes_of,
)
from facestream.tools.eval_video_identify import Video, build_case, measure_case, rank
from facestream.tools.eval_video_pictures import caption, cut_face, extreme_tracks
from facestream.tools.eval_video_set import Clip, Rules
from facestream.tools.report_record import Number
from facestream.tools.truth import FaceTruth, VideoTruth

Faces = Sequence[tuple[int, float]]
"""Faces of a frame: id and left border; all are 20 px wide and high."""


def at(*faces: tuple[int, float], size: float = 20.0) -> Boxes:
    return boxes_of([(one, np.array([x, 0, x + size, size], np.float32)) for one, x in faces])


def judge(truth: list[Boxes], found: list[Boxes]):
    return [
        judge_frame(t, np.ones(len(t.ids), np.bool_), f) for t, f in zip(truth, found, strict=True)
    ]


def track(truth: list[Boxes], found: list[Boxes]) -> TrackingCounts:
    pytest.importorskip("motrics")
    return count_tracking(truth, found, judge(truth, found))


# --- detection ---


def test_boxes_are_matched_for_the_largest_overlap_in_all() -> None:
    # The best pair alone (0.82) would leave both others without one; two pairs have 0.54 + 0.67.
    truth, found = at((1, 0), (2, 8)), at((1, 6), (2, 12))
    rows, columns = match_boxes(truth.boxes, found.boxes, 0.5)
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (1, 1)]
    # 10 of 20 px shared: 10 / 30 = a third.
    assert len(match_boxes(at((1, 0)).boxes, at((1, 10)).boxes, 0.34)[0]) == 0
    assert len(match_boxes(at((1, 0)).boxes, at((1, 10)).boxes, 0.33)[0]) == 1


def test_faces_that_need_not_be_found_count_neither_way() -> None:
    truth, found = at((1, 0), (2, 100)), at((7, 0), (8, 100), (9, 200))
    judged = judge_frame(truth, np.array([True, False]), found)
    assert judged.kept.tolist() == [True, False, True]
    counts = count_detections([truth], [found], [judged])
    assert (counts.faces.sum(), counts.found.sum(), counts.false.sum()) == (1, 1, 1)


def test_recall_is_by_the_height_of_the_truth_false_positives_by_their_own() -> None:
    truth = [at((1, 0), size=16), at((1, 0), size=60)]
    found = [at((5, 0), size=16), at((5, 300), size=100)]
    counts = count_detections(truth, found, judge(truth, found))
    rows = np.column_stack([counts.faces, counts.found, counts.false])
    by_name = dict(zip(class_names(), map(tuple, rows.tolist()), strict=True))
    assert by_name["14 to 20 px"] == (1, 1, 0)
    assert by_name["48 to 80 px"] == (1, 0, 0)
    assert by_name["80 px and more"] == (0, 0, 1)
    assert counts.frames == 2 and len(class_names()) == len(HEIGHTS) - 1


def test_a_frame_without_truth_or_without_finds() -> None:
    truth, found = [at(), at((1, 0))], [at((1, 0)), at()]
    counts = count_detections(truth, found, judge(truth, found))
    assert (counts.faces.sum(), counts.found.sum(), counts.false.sum()) == (1, 0, 1)


# --- tracking ---


def test_a_track_that_changes_its_id_in_the_middle() -> None:
    truth = [at((1, 0))] * 4
    found = [at((7, 0))] * 2 + [at((8, 0))] * 2
    scores = score_tracking([track(truth, found)], [1.0])
    # Everything is found where it is. Of each pair's 4 frames the other id has 2: AssA 2 / 4.
    assert scores.detection == pytest.approx(1.0)
    assert scores.association == pytest.approx(0.5)
    assert scores.hota == pytest.approx(np.sqrt(0.5))
    # One of the ids is taken for the track: IDTP 2, IDFP 2, IDFN 2.
    assert scores.idf1 == pytest.approx(0.5)
    assert scores.switches == 1


def test_a_false_positive_and_a_miss() -> None:
    truth = [at((1, 0)), at((1, 0)), at((1, 0))]
    found = [at((7, 0), (9, 300)), at((7, 0)), at()]
    scores = score_tracking([track(truth, found)], [1.0])
    # TP 2, FN 1, FP 1: DetA 2 / 4. The pair shares 2 of 3 frames: AssA 2 / 3. IDF1 2 / (2 + 1).
    assert scores.detection == pytest.approx(0.5)
    assert scores.association == pytest.approx(2 / 3)
    assert scores.hota == pytest.approx(np.sqrt(1 / 3))
    assert scores.idf1 == pytest.approx(2 / 3)
    assert scores.switches == 0


def test_hota_falls_with_loose_boxes() -> None:
    # 20 px boxes that are 5 px off: IoU 15 / 25 = 0.6, so found at alpha 0.05 .. 0.6: 12 of 19.
    truth, found = [at((1, 0))] * 3, [at((1, 5))] * 3
    scores = score_tracking([track(truth, found)], [1.0])
    assert scores.hota == pytest.approx(12 / 19)
    assert scores.idf1 == pytest.approx(1.0)


def test_videos_together_are_one_sequence_with_other_tracks() -> None:
    draw = np.random.default_rng(3)
    videos = []
    for _ in range(2):
        truth = [at((1, 3.0 * n), (2, 200 - 2.0 * n)) for n in range(30)]
        found = [
            at(*((int(one.ids[k]) + (n > 12), float(x) + draw.normal(0, 2)) for k, x in
                 enumerate(one.boxes[:, 0]) if draw.uniform() > 0.2))
            for n, one in enumerate(truth)
        ]  # fmt: skip
        videos.append((truth, found))
    apart = score_tracking([track(*one) for one in videos], [1.0, 1.0])

    def renumber(frames: list[Boxes], by: int) -> list[Boxes]:
        return [Boxes(one.ids + by, one.boxes) for one in frames]

    truth = videos[0][0] + renumber(videos[1][0], 100)
    found = videos[0][1] + renumber(videos[1][1], 100)
    together = score_tracking([track(truth, found)], [1.0])
    assert apart == pytest.approx(together)
    assert 0.2 < apart.hota < 0.9
    # A video drawn twice counts twice.
    assert score_tracking([track(*videos[0])], [2.0])[:4] == pytest.approx(
        score_tracking([track(*videos[0])], [1.0])[:4]
    )


def test_nothing_to_find_and_nothing_found_is_undefined() -> None:
    scores = score_tracking([track([at()], [at()])], [1.0])
    assert np.isnan(scores.hota) and np.isnan(scores.idf1)


# --- identification ---

GALLERY = ["ann", "bob", "cat"]
"""dan is not enrolled."""


def vector(*scores: float) -> np.ndarray:
    """A template that scores this against ann, bob and cat."""
    return np.array(scores, np.float32)


def watched(*frames: tuple[Faces, Faces]) -> Watched:
    """Truth and tracks of each frame."""
    truth = [at(*one) for one, _ in frames]
    tracked = [at(*one) for _, one in frames]
    judged = judge(truth, tracked)
    return Watched(list(range(len(frames))), truth, tracked, tracked, judged, judged)


def video(
    name: str, subjects: dict[int, str], seen: Watched, alerts: list[Alert], tracks: list
) -> Video:
    """At one frame a second."""
    faces = [
        FaceTruth(number, int(track), subjects[int(track)], box.astype(np.float32), None, 1.0)
        for number, frame in enumerate(seen.truth)
        for track, box in zip(frame.ids, frame.boxes, strict=True)
    ]
    truth = VideoTruth(1.0, (640, 360), len(seen.truth), tuple(faces))
    return Video(Clip(name, Path(name), truth), seen, Decisions(alerts, tracks))


@pytest.fixture
def videos() -> list[Video]:
    """ann is named rightly, in a second track wrongly; bob is never found; dan is named cat."""
    seen = watched(
        *[([(1, 0), (2, 100), (3, 200)], [(11, 0), (13, 200)])] * 4,
        *[([(1, 0), (2, 100), (3, 200)], [(12, 0), (13, 200), (14, 400)])] * 4,
    )
    tracks = [
        SystemTrack(1, (vector(0.9, 0.1, 0.2),)),
        SystemTrack(1, (vector(0.4, 0.5, 0.1),)),
        SystemTrack(3, (vector(0.3, 0.2, 0.6),)),
        SystemTrack(0, (vector(0.1, 0.0, 0.2),)),
        SystemTrack(3, ()),  # too short to be decided
    ]
    alerts = [
        Alert("ann", 1, 2.0),
        Alert("ann", 1, 3.0),
        Alert("bob", 1, 6.0),
        Alert("cat", 3, 4.0),
        Alert("cat", 0, 7.0),
    ]
    return [video("one", {1: "ann", 2: "bob", 3: "dan"}, seen, alerts, tracks)]


def test_per_track_and_per_video_by_hand(videos: list[Video]) -> None:
    case = build_case(videos, GALLERY, lambda templates: templates.astype(np.float64))
    # Per track: ann 1, ann 2, dan, nobody, and bob, who was missed.
    ranks = rank(case.searches["per track"])
    assert ranks.mated.tolist() == [True, True, False, False, True]
    assert ranks.ranks[:2].tolist() == [1, 2] and ranks.ranks[4] > 1000
    # Per video: ann by the better of her tracks, bob missed, dan, nobody.
    per_video = case.searches["per video"]
    ranks = rank(per_video)
    by_name = dict(zip([case.people[p] for p in per_video.persons], ranks.ranks, strict=True))
    assert by_name["ann"] == 1 and by_name["bob"] > 1000
    assert by_name["dan"] == by_name["nobody in one"] == 0
    tables, plots, _ = measure_case(case, Bootstrap(0))
    per_track = tables[0].rows[0].cells
    numbers = [cell.value for cell in per_track if isinstance(cell, Number)]
    # Rank 1 and 5; no stranger may pass: the threshold is dan's 0.6, and ann's 0.9 is above.
    assert numbers == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert per_track[-3:] == ["3", "1", "2"]
    rates = [cell.value for cell in tables[0].rows[1].cells if isinstance(cell, Number)]
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.5])
    assert {plot.title for plot in plots} >= {"CMC", "Open-set identification"}


def test_a_track_counts_by_the_best_of_all_its_decisions() -> None:
    seen = watched(*[([(1, 0), (3, 200), (4, 300)], [(11, 0), (13, 200), (14, 300)])] * 3)
    tracks = [
        # ann: right and sure in the middle, wrong in the end.
        SystemTrack(1, (vector(0.2, 0.1, 0), vector(0.8, 0.3, 0), vector(0.3, 0.4, 0))),
        # dan, a stranger, comes near to cat once: that is what would have raised an alert.
        SystemTrack(3, (vector(0, 0, 0.7), vector(0, 0, 0.1))),
        SystemTrack(4, (vector(0, 0.5, 0.2),)),
    ]
    made = video("one", {1: "ann", 3: "dan", 4: "eve"}, seen, [], tracks)
    case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
    best, last = (rank(case.searches[name]) for name in ("per track", "per track, last decision"))
    assert best.ranks.tolist() == [1, 0, 0] and last.ranks.tolist() == [2, 0, 0]
    assert best.mates[0] == pytest.approx(0.8) and last.mates[0] == pytest.approx(0.3)
    # The thresholds are made of the strangers' best moments too: 0.7 where the last says 0.5.
    assert best.others[1:] == pytest.approx([0.7, 0.5])
    assert last.others[1:] == pytest.approx([0.1, 0.5])
    tables, _, _ = measure_case(case, Bootstrap(0))
    assert [row.label for row in tables[0].rows] == list(case.searches)


def test_the_most_telling_tracks_are_those_for_the_page() -> None:
    seen = watched(*[([(1, 0), (2, 100), (3, 200)], [(11, 0), (12, 100), (13, 200)])] * 3)

    def track(shown: int, *scores: float) -> SystemTrack:
        place = Seen(len(scores), 0, np.zeros(4, np.float32), shown)
        return SystemTrack(shown, (vector(*scores),), (place,))

    tracks = [
        track(1, 0.9, 0.1, 0.0),
        track(1, 0.5, 0.6, 0.0),
        track(1, 0.2, 0.7, 0.0),
        track(2, 0.1, 0.4, 0.0),
        track(3, 0.0, 0.1, 0.3),
        SystemTrack(1, (vector(0.99, 0, 0),)),  # no frame of it is kept
        SystemTrack(1, ()),
    ]
    made = video("one", {1: "ann", 2: "bob", 3: "dan"}, seen, [], tracks)
    case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
    groups = [
        (title.rpartition(": ")[2], [(GALLERY[one.person], round(one.score, 2)) for one in some])
        for title, some in extreme_tracks(case, 1)
    ]
    assert groups == [
        ("wrong, highest scores", [("bob", 0.7)]),
        ("strangers, highest scores", [("cat", 0.3)]),
        ("right, lowest scores", [("bob", 0.4)]),
        ("right, highest scores", [("ann", 0.9)]),
    ]


def test_a_track_that_goes_over_to_another_is_shown_where_it_is_its_own_person() -> None:
    # System track 11 is ann's in three frames, then bob's in two.
    frames = [([(1, 0), (2, 100)], [(11, 0)])] * 3 + [([(1, 0), (2, 100)], [(11, 100)])] * 2
    shown = Shown(watched(*frames, ([], [(11, 0)])))
    assert shown.mostly(11) == 1
    box = np.zeros(4, np.float32)
    assert [shown.see(11, number, box).shown for number in range(6)] == [1, 1, 1, 2, 2, 0]

    def captions(numbers: Sequence[int], *scores: float) -> list[tuple[str, str]]:
        """Group and caption of the track, whose frames weigh in this order."""
        seen = tuple(shown.see(11, number, box) for number in numbers)
        track = SystemTrack(shown.mostly(11), (vector(*scores),), seen)
        made = video("one", {1: "ann", 2: "bob"}, watched(*frames), [], [track])
        case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
        return [
            (title.rpartition(": ")[2], caption(one, case.enrolled, "one"))
            for title, some in extreme_tracks(case)
            for one in some
        ]

    right, wrong = "right, lowest scores", "wrong, highest scores"
    where = "; one, track 11, frame"
    assert captions([4, 1, 0], 0.9, 0.2, 0.0) == [(right, f"score 0.900{where} 1")]
    other = ", where the track shows somebody or something else"
    assert captions([4, 3], 0.9, 0.2, 0.0) == [(right, f"score 0.900{where} 4{other}")]
    assert captions([5], 0.9, 0.2, 0.0) == [(right, f"score 0.900{where} 5{other}")]
    words = f"score 0.800, the right person 0.300{where}"
    over = ", where the track shows the person beside it"
    assert captions([3, 4], 0.3, 0.8, 0.0) == [(wrong, f"{words} 3{over}")]
    assert captions([3, 0], 0.3, 0.8, 0.0) == [(wrong, f"{words} 0")]


@pytest.mark.parametrize("side", [20, 112, 200])
def test_a_face_is_cut_out_as_a_square_with_some_room(side: int) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[40 : 40 + side, 50 : 50 + side // 2] = 255
    box = np.array([50, 40, 50 + side // 2, 40 + side], np.float32)
    face = cut_face(image, box)
    assert face.shape == (112, 112, 3)
    # The face is two thirds as high as the square, and in its middle.
    bright = np.flatnonzero(face[:, 56, 0] > 127)
    assert bright[0] == pytest.approx(112 / 6, abs=3)
    assert bright[-1] == pytest.approx(112 * 5 / 6, abs=3)
    # At the border of the picture there is no error.
    assert cut_face(image, np.array([-30, -30, 30, 30], np.float32)).shape == (112, 112, 3)


def test_alerts_by_hand(videos: list[Video]) -> None:
    case = build_case(videos, GALLERY, lambda templates: templates.astype(np.float64))
    cells = measure_case(case, Bootstrap(0))[0][1].rows[0].cells
    matched, time, per_hour, named = (cell.value for cell in cells if isinstance(cell, Number))
    assert matched == 0.5  # of ann and bob
    assert time == 2.0
    assert named == 1.0  # dan; the poster is nobody who passed
    # ann called bob, dan called cat, and a poster called cat, in 8 s of video.
    assert per_hour == pytest.approx(3 / (8 / 3600))
    assert cells[4:] == ["1 of 2", "1 of 1", "3", "2"]
    assert [one.misnamed for one in case.passes] == [True, False, True]  # ann was bob for once


def test_whoever_is_missed_is_no_hit_in_a_gallery_of_one() -> None:
    seen = watched(*[([(1, 0), (2, 100)], [(12, 100)])] * 3)
    tracks = [SystemTrack(2, (vector(0.5),))]
    made = video("one", {1: "ann", 2: "dan"}, seen, [], tracks)
    case = build_case([made], ["ann"], lambda templates: templates.astype(np.float64))
    tables, _, _ = measure_case(case, Bootstrap(0))
    for row in tables[0].rows:
        assert [cell.value for cell in row.cells if isinstance(cell, Number)] == [0, 0, 0, 0]
    alerts = tables[1].rows[0].cells
    assert isinstance(alerts[0], Number) and alerts[0].value == 0.0
    assert isinstance(alerts[1], Number) and alerts[1].value is None


def test_nothing_decided_at_all() -> None:
    made = video("one", {1: "ann"}, watched(([(1, 0)], [])), [], [])
    case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
    tables, _, _ = measure_case(case, Bootstrap(10))
    cells = tables[0].rows[0].cells
    assert isinstance(cells[0], Number) and cells[0].value == 0.0
    assert isinstance(cells[2], Number) and cells[2].value is None  # no stranger was there


def test_time_counts_from_the_first_face_that_must_be_found() -> None:
    truth = [at((1, 0))] * 4
    must = [False, False, True, True]
    judged = [
        judge_frame(one, np.array([flag]), at((9, 0)))
        for one, flag in zip(truth, must, strict=True)
    ]
    tracked = [at((9, 0))] * 4
    seen = Watched([0, 1, 2, 3], truth, tracked, tracked, judged, judged)
    made = video(
        "one", {1: "ann"}, seen, [Alert("ann", 1, 3.0)], [SystemTrack(1, (vector(1, 0, 0),))]
    )
    case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
    assert case.passes[0].start == 2.0 and case.passes[0].matched == 1.0


def test_a_track_shows_whom_most_of_its_faces_show() -> None:
    seen = watched(
        ([(1, 0), (2, 100)], [(9, 0)]),
        ([(1, 0), (2, 100)], [(9, 100)]),
        ([(1, 0), (2, 100)], [(9, 100)]),
        ([(1, 0), (2, 100)], [(9, 300)]),
    )
    shown = Shown(seen)
    assert shown.mostly(9) == 2 and shown.mostly(5) == 0
    # An event counts for the face that the track was on last.
    assert [shown.at(9, frame) for frame in range(4)] == [1, 2, 2, 2]
    assert shown.at(9, -1) == 0


def test_resamples_of_people_are_those_of_another_system_on_the_same_truth() -> None:
    seen = watched(*[([(1, 0), (2, 100), (3, 200)], [(11, 0), (12, 100), (13, 200)])] * 3)
    names = {1: "ann", 2: "bob", 3: "dan"}
    good = [SystemTrack(n, (vector(*np.eye(3)[n - 1]),)) for n in (1, 2)]
    for tracks in (good, good[:1]):
        made = video("one", names, seen, [], tracks)
        case = build_case([made], GALLERY, lambda templates: templates.astype(np.float64))
        _, _, draws = measure_case(case, Bootstrap(50, seed=4))
        key = "Identification / per video / rank 1"
        undefined = np.isnan(draws[key])  # resamples without anybody of the gallery
        if len(tracks) == 2:
            whole = undefined
            assert draws[key][~whole] == pytest.approx(np.ones(int((~whole).sum())))
        else:
            np.testing.assert_array_equal(undefined, whole)
            assert len(undefined) == 50 and 0 < np.nanmean(draws[key]) < 1


def test_rules_have_the_defaults_of_the_documentation() -> None:
    assert Rules() == (0.5, 0.25, 14.0)
