"""`facestream evaluate ijb --set ijba` on a small set in IJB-A's own files, against plain NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, PullFailed
from facestream.models.feature_store import (
    Compute,
    Features,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.models.pack import Pack
from facestream.models.pooling import POOLINGS
from facestream.models.pull import fetch_group_photo
from facestream.tools import eval_ijba_quality
from facestream.tools.eval_cluster import ClusterSettings
from facestream.tools.eval_ijb_measures import IjbChoices
from facestream.tools.eval_ijba import evaluate_ijba
from facestream.tools.eval_ijba_lists import Face, FaceCrops, read_faces, read_verification
from facestream.tools.eval_options import Source
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app
from facestream.tools.report_record import Bad, Result

HEADER = (
    "TEMPLATE_ID,SUBJECT_ID,FILE,MEDIA_ID,SIGHTING_ID,FRAME,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,"
    "RIGHT_EYE_X,RIGHT_EYE_Y,LEFT_EYE_X,LEFT_EYE_Y,NOSE_BASE_X,NOSE_BASE_Y,FACE_YAW,"
    "FOREHEAD_VISIBLE,EYES_VISIBLE,NOSE_MOUTH_VISIBLE,INDOOR,GENDER,SKINTONE,AGE,FACIAL_HAIR"
)
PEOPLE, FACES, DIMENSION = 14, 5, 12
SUBJECT = 100
"""The first subject's number."""
CHOICES = IjbChoices(
    ("1:1", "1:N"), POOLINGS["adaface"], "at_most", Bootstrap(0), ClusterSettings(), 100
)
Template = tuple[int, int, list[int]]
"""Number, person 0.., which of the person's faces 0..4; faces 3 and 4 are frames of one video."""


class Split(NamedTuple):
    """What was written for one split."""

    templates: list[Template]
    pairs: list[tuple[int, int]]
    gallery: list[Template]
    probes: list[Template]


class Made(NamedTuple):
    """A made set: features (people, faces, C) with and without flip, and all splits."""

    folder: Path
    store: Path
    plain: np.ndarray
    flipped: np.ndarray
    splits: list[Split]

    def source(self, *, skip_bad: bool = False) -> Source:
        return Source("open", "onnxruntime", None, self.store, 1, False, skip_bad)

    def path(self, name: str, split: int = 3) -> Path:
        group = "IJB-A_11_sets" if name.startswith("verify") else "IJB-A_1N_sets"
        return self.folder / group / f"split{split}" / f"{name}_{split}.csv"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Every split takes 10 of 14 people; a template's number means another one in each list."""
    draw = np.random.default_rng(3)
    centres = draw.normal(size=(PEOPLE, 1, DIMENSION))
    plain = (centres + 1.3 * draw.normal(size=(PEOPLE, FACES, DIMENSION))).astype("f4")
    flipped = (plain + 0.3 * draw.normal(size=plain.shape)).astype("f4")
    splits = [make_split(draw) for _ in range(10)]
    made = Made(tmp_path / "IJB-A", tmp_path / "store", plain, flipped, splits)
    for number, split in enumerate(splits, start=1):
        made.path("verify_metadata", number).parent.mkdir(parents=True)
        made.path("search_probe", number).parent.mkdir(parents=True)
        write(made.path("verify_metadata", number), [HEADER, *lines(split.templates)])
        write(made.path("verify_comparisons", number), [f"{a},{b}" for a, b in split.pairs])
        write(made.path("search_gallery", number), [HEADER, *lines(split.gallery)])
        write(made.path("search_probe", number), [HEADER, *lines(split.probes)])
    fill(made.store, plain, flipped)
    return made


def make_split(draw: np.random.Generator) -> Split:
    people = draw.permutation(PEOPLE)[:10].tolist()

    def template(number: int, person: int) -> Template:
        return number, person, sorted(draw.permutation(FACES)[: draw.integers(1, 4)].tolist())

    templates = [template(3 * person + part, person) for person in people for part in range(3)]
    ids = [number for number, _, _ in templates]
    pairs = [(a, b) for a in ids for b in ids if a < b]
    gallery = [template(person, person) for person in people[:6]]  # 4 probes have no mate
    probes = [template(20 + 2 * person + part, person) for person in people for part in range(2)]
    return Split(templates, pairs, gallery, probes)


def face_of(person: int, face: int) -> Face:
    file = f"img/{person}_{face}.jpg" if face < 3 else f"frame/{person}_{face:05}.png"
    return Face(file, (10.5 + person, 20.0, 30.0, 40.0))


def lines(templates: list[Template]) -> list[str]:
    found = []
    for number, person, faces in templates:
        for face in faces:
            file, box = face_of(person, face)
            medium = 10 * person + min(face, 3)
            place = ",".join(map(str, box))
            found.append(
                f"{number},{SUBJECT + person},{file},{medium},{10 * person + face},,{place}"
                + "," * 15
            )
    return found


def write(path: Path, text: list[str]) -> None:
    path.write_text("\n".join(text) + "\n")


def fill(
    folder: Path, plain: np.ndarray, flipped: np.ndarray, listed: set[str] | None = None
) -> None:
    """A store of all faces, or of those listed; zeros are faces that were not found."""
    where = {face_of(p, f).name: (p, f) for p in range(PEOPLE) for f in range(FACES)}
    names = sorted(listed or where)
    order = np.array([where[name] for name in names])

    def start() -> Compute:
        def compute(rows: range) -> Features:
            people, faces = order[rows.start : rows.stop].T
            found = plain[people, faces]
            states = np.where(found.any(axis=1), State.EMBEDDED, State.NO_FACE).astype(np.uint8)
            ones = np.ones(len(found), np.float32)
            styles = np.zeros((len(found), 0, 2), np.float32)
            return Features(states, found, flipped[people, faces], ones, ones, styles)

        return compute

    layout = StoreLayout(len(names), DIMENSION, flip=True)
    fill_store(create_store(folder, StoreKey("made 0", "none", "f00d"), names, layout), start)


def plain_template(made: Made, template: Template) -> np.ndarray:
    """adaface's pooling, spelt out: flip added, mean within the video, sum over media, L2."""
    _, person, faces = template
    both = made.plain[person].astype(float) + made.flipped[person]
    video = [face for face in faces if face >= 3]
    total = both[[face for face in faces if face < 3]].sum(axis=0)
    if video:
        total = total + both[video].mean(axis=0)
    return total / np.linalg.norm(total)


def plain_tar(made: Made, split: Split, far: float) -> float:
    """The largest TAR over thresholds with FAR <= far, tried one by one."""
    vectors = {template[0]: plain_template(made, template) for template in split.templates}
    owner = {number: person for number, person, _ in split.templates}
    scores = np.array([vectors[a] @ vectors[b] for a, b in split.pairs])
    same = np.array([owner[a] == owner[b] for a, b in split.pairs])
    genuine, impostor = scores[same], scores[~same]
    tars = [(genuine >= t).mean() for t in genuine if (impostor >= t).mean() <= far]
    return float(max(tars, default=0.0))


def plain_ranks(made: Made, split: Split, fpir: float) -> tuple[float, float, float]:
    """Rank 1, rank 5 and TPIR, by sorting candidates."""
    gallery = {person: plain_template(made, (n, person, f)) for n, person, f in split.gallery}
    mates, strangers = [], []
    for probe in split.probes:
        scores = {who: float(plain_template(made, probe) @ v) for who, v in gallery.items()}
        best = sorted(scores, key=scores.__getitem__, reverse=True)
        if probe[1] in gallery:
            mates.append((scores[probe[1]], best.index(probe[1]) + 1))
        else:
            strangers.append(scores[best[0]])
    # The lowest threshold that few enough of those without a mate exceed.
    threshold = min(t for t in strangers if np.mean([s > t for s in strangers]) <= fpir)
    tpir = np.mean([rank == 1 and score > threshold for score, rank in mates])
    ranks = np.array([rank for _, rank in mates])
    return float((ranks == 1).mean()), float((ranks <= 5).mean()), float(tpir)


def measure(made: Made, *, skip_bad: bool = False) -> Result:
    return evaluate_ijba(made.folder, CHOICES, made.source(skip_bad=skip_bad))


def test_verification_is_what_plain_numpy_gives_in_every_split_and_over_them(made: Made) -> None:
    numbers = measure(made).report.numbers()
    for far, column in ((0.1, "TAR@FAR=1e-1"), (0.01, "TAR@FAR=1e-2"), (1e-3, "TAR@FAR=1e-3")):
        tars = [plain_tar(made, split, far) for split in made.splits]
        for number, tar in enumerate(tars, start=1):
            assert numbers[f"1:1 / split {number} / {column}"].value == pytest.approx(tar)
        assert numbers[f"1:1 / mean / {column}"].value == pytest.approx(np.mean(tars))
        assert numbers[f"1:1 / mean / {column}"].spread == pytest.approx(np.std(tars))
        assert len(set(tars)) > 1  # the splits differ, else this would prove little


def test_identification_is_what_sorting_gives(made: Made) -> None:
    numbers = measure(made).report.numbers()
    for fpir, column in ((0.1, "TPIR@FPIR=1e-1"), (0.01, "TPIR@FPIR=1e-2")):
        found = np.array([plain_ranks(made, split, fpir) for split in made.splits])
        for place, name in enumerate(("rank 1", "rank 5", column)):
            each = [numbers[f"1:N / split {n} / {name}"].value for n in range(1, 11)]
            np.testing.assert_allclose(np.array(each, float), found[:, place])
            assert numbers[f"1:N / mean / {name}"].value == pytest.approx(found[:, place].mean())
            assert numbers[f"1:N / mean / {name}"].spread == pytest.approx(found[:, place].std())


def test_the_report_says_what_was_measured(made: Made) -> None:
    report = measure(made).report
    text = " | ".join(report.variant)
    for words in ("mean within media", "mean over 10 of 10 splits", "TAR@FAR (at_most)", "50%"):
        assert words in text
    assert "too few impostor pairs to measure a FAR of 1e-3" in text  # 405 pairs
    verify, search = report.tables
    assert verify.rows[0].label == "mean" and len(verify.rows) == len(search.rows) == 11
    assert verify.rows[1].cells[3:] == ["30", "405", "0"]
    assert search.rows[1].cells[5:] == ["6", "20", "8", "0"]
    titles = [plot.title for plot in report.plots]
    assert titles == ["ROC", "DET", "CMC", "Open-set identification"]
    assert "standard deviation over splits" in verify.note


def test_intervals_draw_the_same_subjects_in_all_splits(made: Made) -> None:
    choices = CHOICES._replace(bootstrap=Bootstrap(40, 1))
    first, again = (evaluate_ijba(made.folder, choices, made.source()) for _ in range(2))
    for key in ("1:1 / mean / TAR@FAR=1e-1", "1:N / mean / rank 1", "1:N / mean / TPIR@FPIR=1e-1"):
        number = first.report.numbers()[key]
        assert number.low is not None and number.high is not None
        assert number.low <= (number.value or 0) <= number.high
        np.testing.assert_array_equal(first.draws[key], again.draws[key])
    assert first.report.pairing == again.report.pairing
    assert "drawn alike in all splits" in " ".join(first.report.variant)
    # Of ten equal splits, the mean's draws are those of one split: nothing is gained by repeating.
    for split in range(2, 11):
        for name in ("verify_metadata", "verify_comparisons", "search_gallery", "search_probe"):
            made.path(name, split).write_text(made.path(name, 1).read_text())
    store = made.folder / "again"
    listed = {face.name for one in ("verify_metadata", "search_gallery", "search_probe")
              for face in read_faces(made.path(one, 1)).faces}  # fmt: skip
    fill(store, made.plain, made.flipped, listed)
    same = evaluate_ijba(made.folder, choices, made.source()._replace(features=store))
    number = same.report.numbers()["1:N / mean / rank 1"]
    assert number.spread == pytest.approx(0) and (number.high or 0) - (number.low or 0) > 0.05


def test_a_template_whose_faces_are_not_found_is_a_miss(made: Made, tmp_path: Path) -> None:
    split = made.splits[0]
    person = split.gallery[0][1]
    made.plain[person] = 0  # no face of this person is found, in the gallery nor in two probes
    store = tmp_path / "lost"
    fill(store, made.plain, made.flipped)
    report = evaluate_ijba(made.folder, CHOICES, made.source()._replace(features=store)).report
    search = report.tables[1]
    assert search.rows[1].cells[5:] == ["6", "20", "8", "3"] and report.bad_total == 0
    assert report.tables[0].rows[1].cells[3:] == ["30", "405", "3"]
    rank = report.numbers()["1:N / split 1 / rank 1"].value
    assert rank is not None and rank <= 10 / 12  # two of the twelve probes with a mate


def test_splits_may_lie_directly_in_the_folder(made: Made) -> None:
    expected = measure(made).report
    for group in ("IJB-A_11_sets", "IJB-A_1N_sets"):
        for path in sorted((made.folder / group).glob("*/*.csv")):
            target = made.folder / path.parent.name / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    assert measure(made).report.tables == expected.tables


def write_levels(made: Made) -> list[str]:
    """Faces 0 of everybody are of high quality, 1 and 2 of middle, the frames of low."""
    header = "FILE,SUBJECT_ID,QUALITY,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,NOTE"
    words = ["high", "middle", "Middle", "low", "low"]
    rows = [
        f"{file},{SUBJECT + person},{words[face]},{','.join(map(str, box))},"
        for person in range(PEOPLE)
        for face in range(FACES)
        for file, box in [face_of(person, face)]
    ]
    write(made.folder / "quality_levels.csv", [header, *rows])
    return [header, *rows]


def test_faces_of_lower_quality_against_those_of_high(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_ijba_quality, "_BATCH", 100)  # several blocks
    write_levels(made)
    choices = CHOICES._replace(protocols=("quality",), bootstrap=Bootstrap(40, 1))
    report = evaluate_ijba(made.folder, choices, made.source()).report
    both = made.plain.astype(float) + made.flipped
    unit = both / np.linalg.norm(both, axis=2, keepdims=True)
    same = np.eye(PEOPLE, dtype=bool)
    for name, faces in (("middle", (1, 2)), ("low", (3, 4))):
        scores = np.stack([unit[:, face] @ unit[:, 0].T for face in faces])  # (2, people, people)
        genuine, impostor = scores[:, same].ravel(), scores[:, ~same].ravel()
        for far, column in ((0.01, "TAR@FAR=1e-2"), (1e-3, "TAR@FAR=1e-3")):
            tar = max((genuine >= t).mean() for t in [*genuine, np.inf]
                      if (impostor >= t).mean() <= far)  # fmt: skip
            number = report.numbers()[f"Quality / {name} to high / {column}"]
            assert number.value == pytest.approx(tar)
            assert number.low is not None and number.low <= tar <= (number.high or 0)
    assert [row.cells[2:] for row in report.tables[0].rows] == [["28", "364"]] * 2
    assert "too few impostor pairs to measure a FAR of 1e-3" in " ".join(report.variant)


def test_faults_of_the_list_of_qualities_are_said_or_left_out(made: Made) -> None:
    choices = CHOICES._replace(protocols=("quality",))
    with pytest.raises(ConfigError, match=r"quality_levels\.csv: the quality protocol needs"):
        evaluate_ijba(made.folder, choices, made.source())
    rows = write_levels(made)
    path = made.folder / "quality_levels.csv"
    plain = eval_ijba_quality.read_levels(made.folder)
    write(path, ["\ufeff" + rows[0], *rows[1:]])  # as spreadsheets save it
    assert eval_ijba_quality.read_levels(made.folder).listed.faces == plain.listed.faces
    for line in (rows[1], rows[1].replace("0_0.jpg", "0_9.jpg").replace("high", "good"), "x,1"):
        write(path, [*rows, line])
        with pytest.raises(ConfigError, match=r"csv:72: expected a subject, .* each face once"):
            evaluate_ijba(made.folder, choices, made.source())
        bad = evaluate_ijba(made.folder, choices, made.source(skip_bad=True)).report.bad
        assert [one.where for one in bad] == ["quality_levels.csv:72"]
    write(path, [rows[0].replace("QUALITY", "Q"), *rows[1:]])
    with pytest.raises(ConfigError, match="it lacks QUALITY"):
        evaluate_ijba(made.folder, choices, made.source())
    write(path, rows[:2])
    with pytest.raises(ConfigError, match="of high and of lower quality"):
        evaluate_ijba(made.folder, choices, made.source())


@pytest.mark.parametrize(
    ("name", "line", "why"),
    [
        ("verify_metadata", "7", "expected numbers, a file and a box of a face"),
        ("verify_metadata", f"x,101,img/1.jpg,1,1,,1,2,3,4{',' * 15}", "expected numbers"),
        ("verify_metadata", f"1,101,img/1.jpg,1,1,,1,2,0,4{',' * 15}", "a box of a face"),
        ("search_probe", f"900,101,,1,1,,1,2,3,4{',' * 15}", "expected numbers, a file"),
        ("search_gallery", f"900,101,img/1.jpg,1,1,,nan,2,3,4{',' * 15}", "a box of a face"),
        ("verify_comparisons", "1", 'expected "template,template"'),
        ("verify_comparisons", "1 2", 'expected "template,template"'),
        ("verify_comparisons", "1,-2", 'expected "template,template"'),
        ("verify_comparisons", "999,999", "template 999 has no faces in verify_metadata_3.csv"),
    ],
)
def test_a_malformed_line_is_named_or_left_out(
    made: Made, name: str, line: str, why: str
) -> None:  # fmt: skip
    expected = measure(made).report.tables
    path = made.path(name)
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=rf"{name}_3\.csv:{number}: .*{why}"):
        measure(made)
    report = measure(made, skip_bad=True).report
    assert [one.where for one in report.bad] == [f"{name}_3.csv:{number}"]
    assert report.tables == expected


def test_a_template_of_two_subjects_is_named(made: Made) -> None:
    path = made.path("search_probe")
    text = path.read_text().splitlines()
    template, subject, *rest = text[-1].split(",")
    write(path, [*text, ",".join([template, "777", *rest])])
    why = rf"search_probe_3\.csv:{len(text) + 1}: template {template} has subjects {subject} and"
    with pytest.raises(ConfigError, match=why):
        measure(made)
    assert measure(made, skip_bad=True).report.bad_total == 1


def test_lists_that_are_missing_empty_or_of_another_kind_are_said(made: Made) -> None:
    path = made.path("search_gallery")
    full = path.read_text()
    path.write_text(HEADER + "\n")
    with pytest.raises(ConfigError, match=r"search_gallery_3\.csv: expected faces of templates"):
        measure(made)
    path.write_text(full.replace("MEDIA_ID", "MEDIUM"))
    with pytest.raises(ConfigError, match=r"gallery_3\.csv:1: .* it lacks MEDIA_ID"):
        measure(made)
    path.write_text(full)
    made.path("verify_comparisons").write_text("\n")
    with pytest.raises(ConfigError, match=r"verify_comparisons_3\.csv: expected pairs"):
        measure(made)
    made.path("verify_comparisons").unlink()
    with pytest.raises(ConfigError, match=r"split3/verify_comparisons_3\.csv, one of IJB-A's"):
        measure(made)
    bad: list[Bad] = []
    assert [one.split for one in read_verification(made.folder, bad)] == [1, 2, *range(4, 11)]
    assert bad[0].where == "IJB-A_11_sets/split3" and "split left out" in bad[0].why
    with pytest.raises(ConfigError, match="folders split1 to split10, got none"):
        read_verification(made.folder / "nothing", [])


def test_pairs_of_one_kind_and_probes_without_mates_are_said(made: Made) -> None:
    path = made.path("verify_comparisons")
    full = path.read_text()
    template = made.splits[2].templates[0][0]
    path.write_text(f"{template},{template + 1}\n")
    with pytest.raises(ConfigError, match="split 3: expected genuine and impostor pairs, got 1"):
        measure(made)
    path.write_text(full)
    gallery = {person for _, person, _ in made.splits[2].gallery}
    strangers = [probe for probe in made.splits[2].probes if probe[1] not in gallery]
    write(made.path("search_probe"), [HEADER, *lines(strangers)])
    with pytest.raises(ConfigError, match=r"search_probe_3\.csv: no probe's subject is in"):
        measure(made)


def test_a_crop_is_the_given_box_with_room_around_it(tmp_path: Path) -> None:
    image = np.arange(100 * 120 * 3, dtype=np.uint32).reshape(100, 120, 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), image)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    box = (40.0, 30.0, 20.0, 10.0)
    crops = FaceCrops(tmp_path, [Face("1.png", box), Face("broken.jpg", box)])
    crop = cv2.imdecode(np.frombuffer(crops.read(0), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(crop, image[25:45, 30:70])
    assert crops.read(1) == b"no picture"  # whoever decodes it marks it as unreadable


def test_from_pictures_end_to_end(open_models: Pack, tmp_path: Path) -> None:
    """Six people of one photograph: the box tells which of them a template shows."""
    try:
        photo = np.asarray(cv2.imread(str(fetch_group_photo())), np.uint8)
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    (faces,) = open_models.detector.detect([photo])
    (tmp_path / "images" / "img").mkdir(parents=True)
    for view, gain in enumerate((1.0, 0.7)):
        dimmed = cv2.convertScaleAbs(photo, alpha=gain)
        cv2.imwrite(str(tmp_path / "images" / "img" / f"{view}.png"), dimmed)
    text: list[list[str]] = [[], []]  # by view
    for person in range(6):
        x0, y0, x1, y1 = (float(value) for value in faces.boxes[person])
        box = f"{x0:.1f},{y0:.1f},{x1 - x0:.1f},{y1 - y0:.1f}"
        for view in range(2):
            start = f"{10 * person + view},{person},img/{view}.png,{view},{person}"
            text[view].append(f"{start},,{box}{',' * 15}")
    ids = [10 * person + view for person in range(6) for view in range(2)]
    for number in range(1, 11):
        folder = tmp_path / f"split{number}"
        folder.mkdir()
        write(folder / f"verify_metadata_{number}.csv", [HEADER, *text[0], *text[1]])
        pairs = [f"{a},{b}" for a in ids for b in ids if a < b]
        write(folder / f"verify_comparisons_{number}.csv", pairs)
        write(folder / f"search_gallery_{number}.csv", [HEADER, *text[0][:4]])
        write(folder / f"search_probe_{number}.csv", [HEADER, *text[1]])
    out = tmp_path / "out"
    arguments = ["ijb", str(tmp_path), "--set", "ijba", "--store", str(tmp_path / "s")]
    options = ["--workers", "1", "--resamples", "10", "-o", str(out), "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["data"]["facts"] == {"faces": "12", "subjects": "6"}
    for table in report["tables"]:
        # Only the light differs; as there is one picture, a wrong box would show somebody else.
        assert table["rows"][0]["cells"][0]["value"] == 1.0
        assert table["rows"][0]["cells"][-1] == "" and table["rows"][1]["cells"][-1] == "0"
    wrong = CliRunner().invoke(app, [*arguments, "--protocol", "clustering"])
    assert isinstance(wrong.exception, ConfigError)
    assert "--protocol must be 1:1, 1:N or quality, got clustering" in str(wrong.exception)
