"""`facestream evaluate video`: detection, tracking and identification on video with truth."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import av
import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, GalleryEmpty, SourceCorrupt, SourceMissing
from facestream.configs.simulation import Simulation
from facestream.models.pack import Pack
from facestream.models.photo import find_faces
from facestream.models.pull import fetch_group_photo
from facestream.stream.events import AnyEvent, SightingEnded, TrackEvent
from facestream.stream.records import Frame, FrameRef, Template, Tracked
from facestream.stream.watcher import SourceInfo
from facestream.tools import sim_cast, sim_set
from facestream.tools.build import Parts
from facestream.tools.eval_ijbs_lists import Entry
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.eval_video import VideoChoices, evaluate_video
from facestream.tools.eval_video_decide import Decider, live_aggregator, watch
from facestream.tools.eval_video_ijbs import SeenFuser
from facestream.tools.eval_video_record import Recording, record
from facestream.tools.eval_video_set import Clip, Rules, read_set
from facestream.tools.evaluate import app
from facestream.tools.report_record import Number, Report, Result
from facestream.tools.run import configure
from facestream.tools.truth import read_truth

from .killed import kill_when, run_to_end

SETTINGS = Simulation(
    size=(480, 270),
    fps=10,
    seconds=3.0,
    scenes=2,
    cameras=1,
    subjects=2,
    passers_by=1,
    face_height=(40.0, 110.0),
    objects=0,
    noise=0,
    blur=0,
    haze=0,
    flicker=0,
    bit_rate=4000,
)
CHOICES = VideoChoices(tracking=False, bootstrap=Bootstrap(20))


@pytest.fixture(scope="module")
def simulated(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 30 frames, whose people are cut out of the group photo."""
    folder = tmp_path_factory.mktemp("video")
    photo = cv2.imread(str(fetch_group_photo()))
    faces = find_faces(open_models.detector, photo)
    (folder / "stills").mkdir()
    largest = np.argsort(faces.boxes[:, 1] - faces.boxes[:, 3])[:6]
    for name, (x0, y0, x1, y1) in zip("ABCDEF", faces.boxes[largest], strict=True):
        wide, high = x1 - x0, y1 - y0
        left, top = max(0, int(x0 - wide)), max(0, int(y0 - high))
        crop = photo[top : int(y1 + high), left : int(x1 + wide)]
        big = cv2.resize(crop, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "stills" / f"{name}.png"), big)
    cast = sim_cast.cast_from_folders(folder / "stills", None)
    request = sim_set.Request("tiny", SETTINGS, 3, cast, "open")
    sim_set.render_set(request, open_models.detector, folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was seen, shared by the tests."""
    return tmp_path_factory.mktemp("seen")


@pytest.fixture(scope="module")
def measured(simulated: Path, store: Path) -> Result:
    """The set evaluated once, as it is."""
    return evaluate_video(simulated, CHOICES._replace(store=store))


@pytest.fixture(scope="module")
def ijbs(simulated: Path, store: Path) -> Result:
    """The same set in the layout of IJB-S, with its protocols."""
    return evaluate_video(simulated, CHOICES._replace(store=store, layout="ijbs"))


def value(result: Result, key: str) -> float:
    number = result.report.numbers()[key]
    assert isinstance(number, Number) and number.value is not None
    return number.value


class Noting:
    """A watcher that notes what is decided."""

    wants_frames = False

    def __init__(self) -> None:
        self.noted: list[tuple[object, ...]] = []

    def source(self, info: SourceInfo) -> None: ...

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: object) -> None: ...

    def event(self, event: AnyEvent, template: Template | None) -> None:
        if isinstance(event, TrackEvent):
            self.noted.append(
                (
                    type(event).__name__,
                    event.track,
                    event.frame,
                    getattr(event, "identity", None),
                    getattr(event, "score", None),
                )
            )

    def close(self) -> None: ...


def test_it_decides_as_the_running_system_does(
    simulated: Path, open_models: Pack, store: Path, tmp_path: Path
) -> None:
    chosen = read_set(simulated, "auto", None, skip_bad=False, bad=[])
    people = tmp_path / "people"
    for name, photos in chosen.photos.items():
        (people / name).mkdir(parents=True)
        for photo in photos:
            shutil.copy(photo, people / name)
    clip = chosen.clips[0]
    config = configure(
        None, [str(clip.source)], gallery=str(people), endpoint="", journal=str(tmp_path / "j.db")
    )
    config = dataclasses.replace(config, cameras=(clip.camera,))
    live = Noting()
    with Parts(config, open_models) as parts:
        parts.pipeline([live]).run()
    offline = Noting()
    with Decider(config, open_models, chosen.photos, []) as decider:
        seen = record(clip, config, open_models, store, lambda count: None)
        replay = decider.replay(seen)
        for event, template in replay.events:
            offline.event(event, template)
        # Every decision is noted, of which events tell a few; the last is of all that was seen.
        for event, template in replay.events:
            if isinstance(event, SightingEnded) and event.reason in ("matched", "unknown"):
                decided = replay.decided[event.track]
                assert template is not None and (decided[-1] == template.embedding).all()
        assert max(map(len, replay.decided.values())) > 2
    assert offline.noted == live.noted
    kinds = {kind for kind, *_ in live.noted}
    assert {"SightingStarted", "MatchEvent", "SightingEnded"} <= kinds


def test_a_simulated_set_is_measured_from_pixels_to_alerts(simulated: Path, store: Path) -> None:
    result = evaluate_video(simulated, CHOICES._replace(store=store, pictures=True))
    assert value(result, "Detection / all / recall") > 0.8
    assert value(result, "Detection, faces in tracks / all / recall") <= value(
        result, "Detection / all / recall"
    )
    assert value(result, "Identification / per video / rank 1") > 0.7
    assert value(result, "Alerts / threshold in force / matched correctly") > 0.5
    assert value(result, "Alerts / threshold in force / time to first correct match") < 3.0
    numbers = result.report.numbers()
    assert set(result.draws) <= set(numbers)
    drawn = numbers["Identification / per video / rank 1"]
    assert drawn.low is not None and drawn.low <= (drawn.value or 0) <= (drawn.high or 0)
    assert any("count as missed" in line for line in result.report.variant)
    assert result.report.data.facts["videos"] == "2"
    _check_pictures(simulated, result)


def _check_pictures(simulated: Path, result: Result) -> None:
    """Each example shows the frame that it names, beside a photo; nothing else was written."""
    assert {one.group.rpartition(": ")[2] for one in result.examples} >= {
        "strangers, highest scores",
        "right, lowest scores",
    }
    for one in result.examples:
        faces = [decode(uri) for uri in one.pictures]
        assert [face.shape for face in faces] == [(112, 112, 3)] * 2
    told = re.search(r"; (\S+), track \d+, frame (\d+)$", result.examples[-1].caption)
    assert told is not None
    with av.open(str(simulated / "videos" / f"{told[1]}.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    shown = decode(result.examples[-1].pictures[0])
    # The face is found in that frame at some size; in the frames beside it nothing is as like.
    near = range(max(0, int(told[2]) - 2), min(len(frames), int(told[2]) + 3))
    likest = {number: likeness(frames[number], shown) for number in near}
    assert max(likest, key=likest.__getitem__) == int(told[2]) and likest[int(told[2])] > 0.95


def likeness(frame: np.ndarray, face: np.ndarray) -> float:
    """How like the likest square of a frame is, -1 to 1."""
    half = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    sizes = [(side, side) for side in range(24, 90, 2)]
    faces = [cv2.resize(face, size, interpolation=cv2.INTER_AREA) for size in sizes]
    return max(cv2.matchTemplate(half, one, cv2.TM_CCOEFF_NORMED).max() for one in faces)


def decode(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_a_second_run_reads_what_was_seen_and_says_the_same(
    simulated: Path, store: Path, measured: Result
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    again = evaluate_video(simulated, CHOICES._replace(store=store))
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before
    assert again.report.tables == measured.report.tables
    # Another matcher sees the same; another detector threshold does not.
    other = CHOICES._replace(store=store, settings=("match.score=cosine",))
    evaluate_video(simulated, other)
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before
    settings = ("detect.score=0.9",)
    evaluate_video(simulated, CHOICES._replace(store=store, settings=settings))
    assert len(list(store.iterdir())) == len(before) + 2


def test_a_run_killed_while_it_records_goes_on_and_says_the_same(
    simulated: Path, measured: Result, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    options = ["--no-tracking", "--resamples", "20", "--no-images", "--json"]
    command = ["evaluate", "video", str(simulated), "--store", str(seen), *options]

    def in_the_second() -> bool:
        return len(list(seen.glob("*.seen"))) == 1 and len(list(seen.glob("*.part"))) == 1

    kill_when(in_the_second, *command)
    (first,) = seen.glob("*.seen")
    before = first.stat().st_mtime_ns
    report = msgspec.json.decode(run_to_end(*command), type=Report)
    assert msgspec.structs.replace(report, made=measured.report.made) == measured.report
    assert first.stat().st_mtime_ns == before
    assert [path.suffix for path in seen.iterdir()] == [".seen"] * 2


def test_a_recording_that_is_none_is_said(
    simulated: Path, open_models: Pack, store: Path, tmp_path: Path
) -> None:
    clip = read_set(simulated, "own", None, skip_bad=False, bad=[]).clips[0]
    config = configure(None, [str(clip.source)])
    stored = record(clip, config, open_models, store, lambda count: None)
    seen = Recording(tmp_path / stored.path.name)
    whole = stored.path.read_bytes()
    seen.path.write_bytes(whole[:-3])
    with pytest.raises(SourceCorrupt, match="not a whole recording"):
        list(seen.frames())
    seen.path.write_bytes(b"something else")
    with pytest.raises(SourceCorrupt, match="expected a recording"):
        list(seen.frames())


def test_given_boxes_leave_the_detector_and_the_tracker_out(simulated: Path, store: Path) -> None:
    given = CHOICES._replace(store=store, given=True, tracking=True)
    result = evaluate_video(simulated, given)
    assert [table.title for table in result.report.tables] == ["Identification", "Alerts"]
    per_track = result.report.tables[0].rows[0]
    # Nobody can be missed, and every track of the truth is one person's.
    faces = [face for path in simulated.glob("truth/*.csv") for face in read_truth(path).faces]
    people = {face.subject for face in faces if Rules().must_find(face)}
    known = people & set(read_set(simulated, "own", None, skip_bad=False, bad=[]).photos)
    assert per_track.cells[-3:] == [str(len(known)), "0", str(len(people - known))]
    assert value(result, "Identification / per track / rank 1") > 0.7
    assert "boxes given" in result.report.title
    with pytest.raises(ConfigError, match="boxes can only be given where the truth has landmarks"):
        evaluate_video(simulated, given._replace(layout="ijbs"))


def test_three_layouts_of_one_set_agree(
    simulated: Path, store: Path, measured: Result, ijbs: Result
) -> None:
    choices = CHOICES._replace(store=store)
    mot = evaluate_video(simulated, choices._replace(layout="mot"))
    assert value(mot, "Detection / all / recall") == value(measured, "Detection / all / recall")
    assert not any(table.title == "Identification" for table in mot.report.tables)
    assert any("names nobody" in line for line in mot.report.variant)
    # Passers-by are not annotated there: they count as false positives, and it says so.
    key = "Detection / all / false positives per frame"
    assert value(ijbs, key) > value(measured, key)
    assert any("only subjects are annotated" in line for line in ijbs.report.variant)
    rank = "Identification / per video / rank 1"
    assert value(ijbs, rank) == value(measured, rank)


def test_the_protocols_of_ijbs_end_to_end(ijbs: Result) -> None:
    table, templates = ijbs.report.tables[:2]
    assert table.title == "IJB-S, end to end"
    assert [row.label for row in table.rows] == [row.label for row in templates.rows]
    key = "IJB-S, end to end / surveillance-to-booking / "
    assert value(ijbs, key + "rank 1") > 0.7
    assert set(ijbs.draws) <= set(ijbs.report.numbers())
    assert any("zero vector" in line for line in ijbs.report.variant)


def test_a_subject_whom_no_track_shows_is_a_zero_vector(
    simulated: Path, open_models: Pack, store: Path
) -> None:
    chosen = read_set(simulated, "ijbs", None, skip_bad=False, bad=[])
    config = configure(None, [str(chosen.clips[0].source)])
    clip = chosen.clips[0]
    seen = record(clip, config, open_models, store, lambda count: None)
    # Boxes somewhere else: nobody's face is where a track is.
    moved = tuple(face._replace(box=face.box + 2000) for face in clip.truth.faces)
    away = clip._replace(truth=clip.truth._replace(faces=moved))
    subject = int(moved[0].subject)
    fuse = SeenFuser(simulated, open_models, live_aggregator(config, open_models), [])
    fuse.add_video(away, seen, watch(away, seen, Rules()))
    source = (subject, f"videos/{clip.source.name}")
    assert fuse.fuse([Entry(subject, (source,))]).missing == 1
    fuse = SeenFuser(simulated, open_models, live_aggregator(config, open_models), [])
    fuse.add_video(clip, seen, watch(clip, seen, Rules()))
    fused = fuse.fuse([Entry(subject, (source,))])
    assert fused.missing == 0 and np.linalg.norm(fused.vectors[0]) == pytest.approx(1, abs=1e-5)


def test_the_command_prints_a_report(simulated: Path, store: Path, tmp_path: Path) -> None:
    options = ["--no-tracking", "--store", str(store), "--resamples", "0", "--json"]
    options += ["--set", "fuse.aggregator=mean", "-o", str(tmp_path / "report"), "--no-images"]
    result = CliRunner().invoke(app, ["video", str(simulated), *options])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["model"]["Fusion"] == "mean"
    assert [table["title"] for table in report["tables"]][:2] == ["Identification", "Alerts"]
    assert "data:image" not in (tmp_path / "report" / "report.html").read_text()
    assert sorted(p.suffix for p in store.iterdir()) == [".seen"] * len(list(store.iterdir()))


def test_pictures_in_a_folder_are_a_video_too(simulated: Path, tmp_path: Path) -> None:
    name = "scene000-camera0"
    shutil.copytree(simulated / "mot" / name, tmp_path / name)
    (tmp_path / name / "img1").mkdir()
    with av.open(str(simulated / "videos" / f"{name}.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0), 1):
            picture = frame.to_ndarray(format="bgr24")
            cv2.imwrite(str(tmp_path / name / "img1" / f"{number:06}.png"), picture)
    result = evaluate_video(tmp_path / name, CHOICES)
    assert value(result, "Detection / all / recall") > 0.8


def test_faults_are_named_or_left_out(simulated: Path, store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(simulated, broken)
    truth = sorted(broken.glob("truth/*.csv"))[0]
    truth.write_text(truth.read_text() + "1,2,x\n")
    with pytest.raises(SourceCorrupt, match=r"truth/scene000-camera0\.csv: line \d+: expected"):
        evaluate_video(broken, CHOICES)
    report = evaluate_video(broken, CHOICES._replace(skip_bad=True, given=True)).report
    assert report.bad_total == 1 and report.data.facts["videos"] == "1"
    sorted(broken.glob("videos/*.mp4"))[1].unlink()
    with pytest.raises(ConfigError, match="expected videos with truth in layout own, got none"):
        evaluate_video(broken, CHOICES._replace(skip_bad=True))
    with pytest.raises(SourceMissing, match=r"expected the video scene001-camera0\.mp4"):
        shutil.copy(simulated / "truth" / truth.name, truth)
        evaluate_video(broken, CHOICES)


def test_photos_that_cannot_be_enrolled_are_counted(
    simulated: Path, store: Path, tmp_path: Path
) -> None:
    """A still that is listed and missing, or shows nobody: the others are enrolled."""
    broken = tmp_path / "broken"
    shutil.copytree(simulated, broken, ignore=shutil.ignore_patterns("scene001*"))
    choices = CHOICES._replace(store=store, given=True)
    first, *_ = sorted(broken.glob("img/*.png"))
    first.write_bytes(b"not a picture")
    report = evaluate_video(broken, choices).report
    assert report.bad_total == 1 and report.bad[0].where.endswith(first.name)
    assert report.bad[0].why.startswith("not enrolled: ")
    first.unlink()
    with pytest.raises(SourceMissing, match=rf"{first.name}: expected the photo"):
        evaluate_video(broken, choices)
    skipping = choices._replace(skip_bad=True)
    assert evaluate_video(broken, skipping).report.bad_total == 1


def test_what_is_no_set_is_said(simulated: Path, open_models: Pack, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected truth/NAME\.csv \(own layout\), gt/gt\.txt"):
        evaluate_video(tmp_path, CHOICES)
    with pytest.raises(ConfigError, match="--layout must be"):
        evaluate_video(simulated, CHOICES._replace(layout="x"))
    with pytest.raises(ConfigError, match="--set cameras"):
        evaluate_video(simulated, CHOICES._replace(settings=("cameras[0].stride=2",)))
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(GalleryEmpty, match="nobody could be enrolled: all 1 photos were refused"):
        evaluate_video(simulated, CHOICES._replace(gallery=tmp_path))
    without = tmp_path / "without"
    shutil.copytree(simulated, without, ignore=shutil.ignore_patterns("cs6_*"))
    with pytest.raises(ConfigError, match=r"expected cs6_metadata\.csv.*--gallery"):
        evaluate_video(without, CHOICES)


def test_a_video_that_ends_before_its_truth_is_said(
    simulated: Path, open_models: Pack, store: Path
) -> None:
    clip = read_set(simulated, "own", None, skip_bad=False, bad=[]).clips[0]
    config = configure(None, [str(clip.source)])
    seen = record(clip, config, open_models, store, lambda count: None)
    late = clip.truth.faces[-1]._replace(frame=40)
    longer = clip.truth._replace(faces=(*clip.truth.faces, late))
    with pytest.raises(SourceCorrupt, match="expected frame 40, which is annotated"):
        watch(Clip(clip.name, clip.source, longer), seen, Rules())


def test_tracking_is_scored_over_all_videos(simulated: Path, store: Path) -> None:
    pytest.importorskip("motrics")
    result = evaluate_video(simulated, CHOICES._replace(store=store, tracking=True))
    assert 0.4 < value(result, "Tracking / all videos / HOTA") < 1.0
    assert value(result, "Tracking / all videos / IDF1") > 0.6
    assert "Tracking / all videos / HOTA" in result.draws


def test_without_the_library_tracking_can_be_left_out(
    simulated: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "motrics", None)
    with pytest.raises(ConfigError, match=r"facestream\[evaluate\].*--no-tracking"):
        evaluate_video(simulated, CHOICES._replace(store=store, tracking=True))
