"""Simulated video: the truth says what the pictures show, and the same seed gives the same bytes.

The stills are drawn, so that no real face is needed; where a test tells people apart, it does so by
colour.
"""

from __future__ import annotations

import dataclasses
import json
from itertools import chain
from pathlib import Path

import av
import cv2
import msgspec
import numpy as np
import pytest
import yaml

from facestream import ConfigError, SourceCorrupt, SourceMissing
from facestream.configs.simulation import PRESETS, Simulation, read_simulation
from facestream.models.pack import Pack
from facestream.stream.synthetic import Painter, Scene
from facestream.tools import sim_bodies, sim_cast, sim_film, sim_heads, sim_set, truth

from .killed import kill_when, run_to_end

SETTINGS = Simulation(
    size=(320, 180),
    fps=10,
    seconds=2.0,
    scenes=2,
    cameras=2,
    subjects=2,
    passers_by=1,
    face_height=(16.0, 50.0),
)
CLEAN = dataclasses.replace(
    SETTINGS, size=(640, 360), noise=0, blur=0, haze=0, flicker=0, exposure_ms=0, defocus=0
)
COLOURS = ((40, 40, 230), (40, 230, 40), (230, 60, 40))


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn people, two stills each: A.jpg, A_2.jpg, ..."""
    folder = tmp_path_factory.mktemp("stills")
    for number, name in enumerate("ABCDEF"):
        painter = Painter(Scene(seed=number, faces=1, size=(320, 320)))
        for suffix, pts in (("", 0.0), ("_2", 1.0)):
            cv2.imwrite(str(folder / f"{name}{suffix}.jpg"), painter.paint(pts))
    return folder


def request(stills: Path, seed: int = 3, settings: Simulation = SETTINGS) -> sim_set.Request:
    cast = sim_cast.cast_from_folders(stills, None)
    return sim_set.Request("tiny", settings, seed, cast, "open")


@pytest.fixture(scope="module")
def rendered(stills: Path, open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set") / "tiny"
    sim_set.render_set(request(stills), open_models.detector, out)
    return out


def annotations(out: Path) -> dict[str, bytes]:
    files = (p for p in out.rglob("*") if p.is_file() and p.suffix != ".mp4")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def drawn_bust(colour: tuple[int, int, int]) -> sim_heads.Bust:
    """A head of one colour, with white landmarks."""
    picture = np.full((300, 300, 3), 128, np.uint8)
    cv2.ellipse(picture, (150, 130), (52, 75), 0, 0, 360, colour, -1)
    points = np.array([(130, 115), (170, 115), (150, 140), (135, 160), (165, 160)], np.float32)
    box = np.array([100, 65, 200, 195], np.float32)
    return sim_heads.cut_bust(picture, box, points)


def film_colours(settings: Simulation, seed: int = 1):
    generator = np.random.default_rng(seed)
    people = [
        sim_film.Person(str(i), drawn_bust(colour), sim_bodies.dress(generator))
        for i, colour in enumerate(COLOURS)
    ]
    return sim_film.film(people, settings, "lobby", generator)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour's hue, in whatever light."""
    tone = picture.astype(np.float32) + 1
    return tone[..., np.argmax(colour)] > 1.8 * np.delete(tone, np.argmax(colour), 2).max(axis=2)


def test_every_video_has_its_truth(rendered: Path) -> None:
    about = json.loads((rendered / "simulation.json").read_text())
    assert about["simulated"] is True and len(about["videos"]) == 4
    for video in about["videos"]:
        own = truth.read_truth(rendered / video["truth"])
        mot = truth.read_mot(rendered / video["mot"])
        with av.open(str(rendered / video["video"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            frames = sum(1 for _ in container.decode(stream))
            assert (stream.width, stream.height) == own.size == mot.size == SETTINGS.size
        assert frames == own.frames == mot.frames == 20
        assert len(own.faces) == len(mot.faces) > 0
        assert {face.subject for face in own.faces} <= set(video["people"])
        # One track is one person, and one person one track.
        pairs = {(face.track, face.subject) for face in own.faces}
        assert len(pairs) == len({t for t, _ in pairs}) == len({s for _, s in pairs})


def test_everybody_passes_every_camera_of_a_scene(rendered: Path) -> None:
    about = json.loads((rendered / "simulation.json").read_text())
    for first, second in zip(about["videos"][::2], about["videos"][1::2], strict=True):
        assert first["scene"] == second["scene"] and first["people"] == second["people"]


def test_the_same_seed_gives_the_same_bytes(
    rendered: Path, stills: Path, open_models: Pack, tmp_path: Path
) -> None:
    sim_set.render_set(request(stills), open_models.detector, tmp_path / "again")
    assert annotations(tmp_path / "again") == annotations(rendered)


def test_another_seed_gives_other_ways(stills: Path, open_models: Pack, tmp_path: Path) -> None:
    short = dataclasses.replace(SETTINGS, scenes=1, cameras=1, seconds=1.0)
    texts = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        sim_set.render_set(request(stills, seed, short), open_models.detector, out)
        texts.append((out / "truth" / "scene000-camera0.csv").read_text())
    assert texts[0] != texts[1]


def test_an_interrupted_run_goes_on_where_it_stopped(
    stills: Path, open_models: Pack, tmp_path: Path, rendered: Path
) -> None:
    out = tmp_path / "set"
    wanted = request(stills)
    steps = 0

    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps = done
        if done == 30:  # in the second of four videos
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sim_set.render_set(wanted, open_models.detector, out, stop)
    assert steps == 30
    done = sim_set.render_set(wanted, open_models.detector, out)
    assert (done.videos, done.all_videos, done.frames) == (3, 4, 60)
    assert annotations(out) == annotations(rendered)


def test_a_run_killed_in_the_middle_of_a_video_goes_on_to_the_same_bytes(
    stills: Path, tmp_path: Path, rendered: Path
) -> None:
    preset, out = tmp_path / "tiny.yaml", tmp_path / "set"
    preset.write_text(yaml.safe_dump(msgspec.to_builtins(SETTINGS)))
    options = ["--preset", str(preset), "--faces", str(stills), "--seed", "3"]
    command = ["simulate", *options, "--out", str(out), "--json"]

    def in_the_second() -> bool:
        done, begun = list(out.glob("videos/scene*.mp4")), list(out.glob("truth/.*"))
        return len(done) == 1 and len(begun) == 1

    kill_when(in_the_second, *command)
    assert [path.name for path in out.glob("truth/scene*.csv")] == ["scene000-camera0.csv"]
    first = out / "videos" / "scene000-camera0.mp4"
    before = first.stat().st_mtime_ns
    assert json.loads(run_to_end(*command))["videos"] == 3
    assert first.stat().st_mtime_ns == before
    # Nothing is left of the killed run, and every annotation is that of an unbroken one.
    wanted, got = annotations(rendered), annotations(out)
    asked = [json.loads(one.pop("simulation.json")) for one in (wanted, got)]
    assert got == wanted
    assert asked[0] | {"preset": ""} == asked[1] | {"preset": ""}
    assert sorted(p.name for p in out.rglob("*.mp4")) == sorted(
        p.name for p in rendered.rglob("*.mp4")
    )


def test_a_run_killed_before_it_began_begins(
    stills: Path, open_models: Pack, tmp_path: Path
) -> None:
    """What was asked for is written whole or not at all."""
    short = dataclasses.replace(SETTINGS, seconds=0.2, scenes=1, cameras=1)
    out = tmp_path / "set"
    out.mkdir()
    (out / "simulation.json.part").write_text("{")
    done = sim_set.render_set(request(stills, 3, short), open_models.detector, out)
    assert done.videos == 1 and not list(out.glob("*.part"))


def test_a_folder_of_another_simulation_is_refused(
    rendered: Path, stills: Path, open_models: Pack, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds another simulation"):
        sim_set.render_set(request(stills, seed=99), open_models.detector, rendered)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty and holds no simulation"):
        sim_set.render_set(request(stills), open_models.detector, tmp_path)


def test_ijbs_has_the_subjects_and_not_those_who_pass_by(rendered: Path) -> None:
    lines = (rendered / "subjects.csv").read_text().splitlines()[1:]
    roles = {line.split(",")[1]: line.split(",")[0] for line in lines if ",subject," in line}
    faces = list(truth.read_ijbs_faces(rendered))
    assert {face.subject for _, face in faces} == set(roles.values())
    assert {path for path, _ in faces if path.startswith("img/")} == {
        f"img/{path.name}" for path in (rendered / "img").iterdir()
    }
    galleries = [
        (rendered / "galleries" / f"cs6_surveillance_to_single_g{half}.csv")
        .read_text()
        .splitlines()
        for half in (1, 2)
    ]
    halves = [{line.split(",")[1] for line in gallery[1:]} for gallery in galleries]
    assert not halves[0] & halves[1] and halves[0] | halves[1] == set(roles.values())


def test_boxes_show_whom_they_name() -> None:
    checked = 0
    for picture, faces in film_colours(CLEAN):
        for face in faces:
            if face.visible < 0.95:
                continue
            x, y = (face.box[:2] + face.box[2:]) / 2
            patch = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
            assert near(patch, COLOURS[int(face.subject)]).mean() > 0.8
            checked += 1
    assert checked > 10


def test_visible_is_the_share_of_the_face_that_is_seen() -> None:
    """The pixels of somebody's colour in the face's ellipse, against what truth says."""
    crowded = dataclasses.replace(CLEAN, together=1.0, objects=4, seconds=3.0, fps=5)
    apart, hidden = [], 0
    for picture, faces in chain.from_iterable(film_colours(crowded, seed) for seed in range(6)):
        for face in faces:
            x0, y0, x1, y1 = (round(float(v)) for v in face.box)
            if y1 - y0 < 20:
                continue
            mask = np.zeros(picture.shape[:2], np.uint8)
            middle, half = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
            # The drawn head fills its box; the rim is left out, where it is soft.
            cv2.ellipse(mask, middle, tuple(int(0.8 * v) for v in half), 0, 0, 360, 1, -1)
            inside = max(1, int(np.pi * 0.64 * half[0] * half[1]))
            seen = (near(picture, COLOURS[int(face.subject)]) & (mask > 0)).sum() / inside
            apart.append(abs(min(1.0, seen) - face.visible))
            hidden += face.visible < 0.7
    assert hidden >= 3, "nobody was hidden: the test says nothing"
    assert np.median(apart) < 0.1 and np.percentile(apart, 90) < 0.3


@pytest.mark.parametrize("yaw", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("pitch", [-0.25, 0.2])
def test_landmarks_turn_with_the_head(yaw: float, pitch: float) -> None:
    points = np.array([(125, 110), (175, 110), (150, 140), (130, 170), (170, 170)], np.float32)
    picture = np.full((300, 300, 3), (90, 120, 160), np.uint8)
    for x, y in points.astype(int).tolist():
        cv2.circle(picture, (x, y), 4, (255, 255, 255), -1)
    bust = sim_heads.cut_bust(picture, np.array([100, 70, 200, 200], np.float32), points)
    pose = sim_heads.Pose(yaw=yaw, pitch=pitch, roll=0.2)
    centre = np.array([160, 160], np.float32)
    layer = np.zeros((320, 320, 4), np.uint8)
    sim_heads.draw_bust(bust, pose, layer, centre, 120.0)
    box, placed = sim_heads.locate_face(bust, pose, centre, 120.0)
    for x, y in placed:
        patch = layer[
            round(float(y)) - 9 : round(float(y)) + 10, round(float(x)) - 9 : round(float(x)) + 10
        ]
        bright = patch[..., :3].min(axis=2) > 190
        rows, columns = np.nonzero(bright)
        assert len(rows), "no landmark where it should be"
        assert abs(columns.mean() - 9) < 1.2 and abs(rows.mean() - 9) < 1.2
    assert (box[:2] < placed.min(axis=0)).all() and (placed.max(axis=0) < box[2:]).all()


@pytest.mark.parametrize("name", PRESETS)
def test_faces_of_a_preset_are_as_high_as_it_says(name: str) -> None:
    preset = read_simulation(name)
    quick = dataclasses.replace(preset, fps=2, seconds=10.0, noise=0, objects=0)
    heights = [
        float(face.box[3] - face.box[1]) for _, faces in film_colours(quick) for face in faces
    ]
    low, high = preset.face_height
    assert 0.85 * low < min(heights) < 1.6 * low  # people are 6 % taller or shorter, and nod
    assert 0.6 * high < max(heights) < 1.15 * high


def test_a_scene_with_more_people_than_there_are_is_refused(stills: Path) -> None:
    many = dataclasses.replace(SETTINGS, subjects=9)
    with pytest.raises(ConfigError, match="9 subjects, the faces give 4"):
        sim_set.plan_videos(request(stills, settings=many))


def test_people_come_from_files_or_folders(tmp_path: Path) -> None:
    for name in ("ann/1.jpg", "ann/2.jpg", "bob.png", "bob_2.png", "cleo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    cast = sim_cast.cast_from_folders(tmp_path, None)
    names = {one.name: (len(one.enrol), len(one.render)) for one in cast.subjects + cast.passers_by}
    assert names == {"ann": (1, 1), "bob": (1, 1), "cleo": (1, 1)}
    assert cast.subjects[0].enrol[0].name == "1.jpg"
    assert cast.subjects[0].render[0].name == "2.jpg"


def test_a_folder_without_faces_says_so(tmp_path: Path, open_models: Pack) -> None:
    with pytest.raises(SourceMissing, match="no folder of faces"):
        sim_cast.cast_from_folders(tmp_path / "none", None)
    with pytest.raises(SourceMissing, match="holds no pictures"):
        sim_cast.cast_from_folders(tmp_path, None)
    cv2.imwrite(str(tmp_path / "wall.jpg"), np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(SourceCorrupt, match="no face was found in"):
        sim_cast.load_bust(open_models.detector, tmp_path / "wall.jpg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("turns: 3", "unknown key turns, did you mean turn"),
        ("turn: 60", "turn must be 0 to 25, got 60"),
        ("face_height: [40, 50]", "at least 1.5 times the first, got 40 and 50"),
        ("size: [641, 360]", "size must be even"),
        ("{subjects: 0, passers_by: 0}", "nobody would be seen"),
    ],
)
def test_a_wrong_preset_names_its_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_simulation(str(path))
    with pytest.raises(ConfigError, match="there are easy, medium, hard, night, crowd"):
        read_simulation("harder")
