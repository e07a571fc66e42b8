"""Truth in files: what is written is read back, and what is malformed is named by its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import SourceCorrupt, SourceMissing
from facestream.tools import truth
from facestream.tools.truth import FaceTruth, VideoFormat

CLIP = VideoFormat(25, (640, 360), 3)


def face(
    frame: int = 0, track: int = 1, subject: str = "london/005", x: float = 10.25
) -> FaceTruth:
    box = np.array([x, 20.5, x + 30, 60.75], np.float32)
    points = np.arange(10, dtype=np.float32).reshape(5, 2) + np.float32(0.5)
    return FaceTruth(frame, track, subject, box, points, 0.875)


def write(folder: Path, faces: list[list[FaceTruth]]) -> tuple[Path, Path]:
    own, mot = folder / "truth" / "clip.csv", folder / "mot" / "clip"
    with truth.TruthWriter(own, mot, CLIP) as writer:
        for frame in faces:
            writer.add(frame)
    return own, mot


coordinate = st.floats(-200, 4000, allow_nan=False).map(lambda v: round(v, 2))
faces_drawn = st.builds(
    FaceTruth,
    st.integers(0, 10**6),
    st.integers(1, 10**4),
    st.text("abcxyz0189/-_.", min_size=1, max_size=12),
    st.lists(coordinate, min_size=4, max_size=4).map(lambda v: np.array(v, np.float32)),
    st.lists(coordinate, min_size=10, max_size=10).map(
        lambda v: np.array(v, np.float32).reshape(5, 2)
    ),
    st.floats(0, 1).map(lambda v: round(v, 3)),
)


@settings(max_examples=25, deadline=None)
@given(one=faces_drawn)
def test_a_face_comes_back_from_our_own_layout(
    one: FaceTruth, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own, _ = write(tmp_path_factory.mktemp("truth"), [[one]])
    read = truth.read_truth(own)
    assert (read.fps, read.size, read.frames) == CLIP
    (back,) = read.faces
    assert back[:3] == one[:3]
    assert back.visible == pytest.approx(one.visible)
    np.testing.assert_allclose(back.box, one.box, atol=0.006)
    np.testing.assert_allclose(back.points, one.points, atol=0.006)


def test_mot_counts_frames_from_one_and_boxes_by_width_and_height(tmp_path: Path) -> None:
    _, mot = write(tmp_path, [[face()], [], [face(2, 4)]])
    lines = (mot / "gt" / "gt.txt").read_text().splitlines()
    assert lines == [
        "1,1,10.25,20.50,30.00,40.25,1,1,0.875",
        "3,4,10.25,20.50,30.00,40.25,1,1,0.875",
    ]
    read = truth.read_mot(mot)
    assert (read.fps, read.size, read.frames) == CLIP
    assert [(f.frame, f.track, f.subject, f.points) for f in read.faces] == [
        (0, 1, "", None),
        (2, 4, "", None),
    ]
    np.testing.assert_allclose(read.faces[0].box, face().box)


def test_faces_that_mot_marks_as_ignored_are_left_out(tmp_path: Path) -> None:
    _, mot = write(tmp_path, [[face()]])
    with (mot / "gt" / "gt.txt").open("a") as file:
        file.write("2,7,1,1,5,5,0,1,1\n")
    assert len(truth.read_mot(mot).faces) == 1


def test_faces_of_a_frame_stand_in_order_of_track(tmp_path: Path) -> None:
    own, _ = write(tmp_path, [[face(track=9), face(track=2)]])
    assert [f.track for f in truth.read_truth(own).faces] == [2, 9]


def test_ijbs_puts_subject_and_path_first(tmp_path: Path) -> None:
    writer = truth.IjbsWriter(tmp_path)
    writer.add_image(7, "img/7_1.jpg")
    writer.add_face(7, "videos/a.mp4", face(frame=3))
    writer.close()
    lines = (tmp_path / "cs6_metadata.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [["7", "img/7_1.jpg"], ["7", "videos/a.mp4"]]
    image, video = truth.read_ijbs_faces(tmp_path)
    assert image[0] == "img/7_1.jpg" and np.isnan(image[1].box).all()
    assert (video[0], video[1].frame, video[1].subject) == ("videos/a.mp4", 3, "7")
    np.testing.assert_allclose(video[1].box, face().box)


def test_ijbs_metadata_without_boxes_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cs6_metadata.csv").write_text("SUBJECT_ID,FILENAME\n12,videos/4012.mp4\n")
    ((path, one),) = truth.read_ijbs_faces(tmp_path)
    assert (path, one.subject) == ("videos/4012.mp4", "12") and np.isnan(one.box).all()


def test_ijbs_lists_have_a_header_and_one_path_per_line(tmp_path: Path) -> None:
    truth.write_ijbs_probes(tmp_path, "surveillance_to_surveillance", ["videos/a.mp4"])
    truth.write_ijbs_gallery(tmp_path, "surveillance_to_single", 1, [(3, "img/3_1.jpg")])
    probe = tmp_path / "cs6_surveillance_to_surveillance_probe.csv"
    gallery = tmp_path / "galleries" / "cs6_surveillance_to_single_g1.csv"
    assert probe.read_text().splitlines()[1:] == ["videos/a.mp4"]
    assert gallery.read_text().splitlines()[1].split(",")[1:] == ["3", "img/3_1.jpg"]


def test_after_an_error_no_half_file_is_left(tmp_path: Path) -> None:
    own, mot = tmp_path / "clip.csv", tmp_path / "clip"
    with pytest.raises(RuntimeError), truth.TruthWriter(own, mot, CLIP) as writer:
        writer.add([face()])
        raise RuntimeError
    assert not own.exists() and not list(tmp_path.glob(".*")) and not list((mot / "gt").iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:-1], "0,1,somebody,1,2"], "line 3: expected 17 numbers, got 4"),
        (lambda lines: [*lines, lines[2].replace("0.875", "nan")], "line 4: expected 17 numbers"),
        (lambda lines: lines[1:], "line 1 must begin with '# facestream-truth 1"),
        (lambda lines: [lines[0], "frame,track"], "line 2 must name the columns"),
    ],
)
def test_malformed_truth_is_named_by_file_and_line(tmp_path: Path, change, words: str) -> None:
    own, _ = write(tmp_path, [[face()]])
    own.write_text("\n".join(change(own.read_text().splitlines())) + "\n")
    with pytest.raises(SourceCorrupt, match=words) as error:
        truth.read_truth(own)
    assert str(own) in str(error.value)


def test_malformed_mot_is_named_by_file_and_line(tmp_path: Path) -> None:
    _, mot = write(tmp_path, [[face()]])
    (mot / "gt" / "gt.txt").write_text("1,1,10\n")
    with pytest.raises(SourceCorrupt, match=r"gt\.txt: line 1: expected 9 numbers, got 3"):
        truth.read_mot(mot)
    (mot / "seqinfo.ini").write_text("[Sequence]\nframeRate=25\n")
    with pytest.raises(SourceCorrupt, match=r"seqinfo\.ini: expected \[Sequence\]"):
        truth.read_mot(mot)


def test_truth_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no truth at"):
        truth.read_truth(tmp_path / "none.csv")


def test_a_subject_that_would_break_the_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not hold a comma"):
        write(tmp_path, [[face(subject="a,b")]])
