"""`facestream evaluate ijb` on a small set in the files of IJB-C, against plain NumPy."""

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
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.models.ida import Anchors
from facestream.models.mean_fusion import Mean
from facestream.models.pack import Pack
from facestream.models.pooling import POOLINGS, Pooling
from facestream.models.pull import fetch_group_photo
from facestream.tools.eval_cluster import (
    ClusterSettings,
    choose_faces,
    cluster_agglomerative,
    cluster_dbscan,
    cluster_kmeans,
    cluster_table,
)
from facestream.tools.eval_ijb import evaluate_ijb
from facestream.tools.eval_ijb_lists import PairFile, find_files, read_landmarks, read_media
from facestream.tools.eval_ijb_live import (
    Live,
    check_live,
    densities,
    fuse_templates,
    live_parts,
    search,
)
from facestream.tools.eval_ijb_measures import IjbChoices, identify_probes, subjects_of_pairs
from facestream.tools.eval_ijb_pictures import RIGHT, STRANGERS, WRONG
from facestream.tools.eval_ijb_set import SelectedRows, pool, read_ijb
from facestream.tools.eval_options import Source
from facestream.tools.eval_pooling import choose_pooling
from facestream.tools.eval_text import read_integer_blocks
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.evaluate import app
from facestream.tools.report_record import Bad

SUBJECTS, DIMENSION = 12, 16
CHOICES = IjbChoices(
    ("1:1", "1:N", "clustering"),
    POOLINGS["arcface"],
    "at_most",
    Bootstrap(20, 0),
    ClusterSettings(),
    1000,
)


class Made(NamedTuple):
    """A made set: its folder and store, and everything by row of the list of pictures."""

    folder: Path
    store: Path
    templates: np.ndarray
    media: np.ndarray
    subjects: np.ndarray
    embeddings: np.ndarray
    flipped: np.ndarray
    scores: np.ndarray
    pairs: np.ndarray

    def source(self, *, skip_bad: bool = False) -> Source:
        return Source("open", "onnxruntime", None, self.store, 1, False, skip_bad)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Three templates per subject: one for a gallery, two probes; subjects 6.. have two media."""
    draw = np.random.default_rng(5)
    centres = draw.normal(size=(SUBJECTS, DIMENSION))
    rows = []  # template, medium, subject
    for subject in range(SUBJECTS):
        for part in range(3):
            template = 10 * subject + part + 1
            media = [template] if subject < 6 else [template, template, 1000 + template]
            rows += [(template, medium, subject) for medium in media]
    templates, media, subjects = np.array(rows).T
    count = len(rows)
    embeddings = (centres[subjects] + 1.4 * draw.normal(size=(count, DIMENSION))).astype("f4")
    flipped = (embeddings + 0.3 * draw.normal(size=embeddings.shape)).astype("f4")
    scores = draw.uniform(0.3, 1.0, count).astype("f4")
    points = draw.uniform(10, 90, (count, 10))
    meta = tmp_path / "IJBC" / "meta"
    meta.mkdir(parents=True)
    names = [f"{row + 1}.jpg" for row in range(count)]
    lists = zip(names, templates, media, strict=True)
    write(meta / "ijbc_face_tid_mid.txt", [f"{n} {t} {m}" for n, t, m in lists])
    five = [" ".join(f"{x:.2f}" for x in point) for point in points]
    lines = [f"{n} {p} {s:.6f}" for n, p, s in zip(names, five, scores, strict=True)]
    write(meta / "ijbc_name_5pts_score.txt", lines)
    ids = np.unique(templates)
    owner = (ids - 1) // 10
    pairs = np.array(
        [(a, b, int(owner[i] == owner[j])) for i, a in enumerate(ids) for j, b in enumerate(ids)
         if i < j]
    )  # fmt: skip
    write(meta / "ijbc_template_pair_label.txt", [" ".join(map(str, pair)) for pair in pairs])
    header = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    halves = (owner < 4, (owner >= 4) & (owner < 8))
    for name, half in zip(("G1", "G2"), halves, strict=True):
        chosen = ids[half & (ids % 10 == 1)]
        rows_of = [f"{t},{(t - 1) // 10},img/{t}.jpg" for t in chosen]
        # A template's pictures are lines of their own, so templates repeat.
        write(meta / f"ijbc_1N_gallery_{name}.csv", [header, *rows_of, *rows_of[:1]])
    probes = ids[ids % 10 != 1]
    write(
        meta / "ijbc_1N_probe_mixed.csv", [header, *(f"{t},{(t - 1) // 10},x.jpg" for t in probes)]
    )
    scores = np.array([f"{s:.6f}" for s in scores], "f4")
    store = fill(tmp_path / "store", names, embeddings, flipped, scores)
    return Made(
        tmp_path / "IJBC", store, templates, media, subjects, embeddings, flipped, scores, pairs
    )


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def fill(
    folder: Path, names: list[str], embeddings: np.ndarray, flipped: np.ndarray, scores: np.ndarray
) -> Path:
    """A store of given features; rows that are all zero are faces that were not found."""
    order = np.argsort(names)

    def start() -> Compute:
        def compute(rows: range) -> Features:
            at = order[rows.start : rows.stop]
            states = np.where(embeddings[at].any(axis=1), State.EMBEDDED, State.UNREADABLE)
            plain = np.zeros(len(at), np.float32)
            styles = np.zeros((len(at), 0, 2), np.float32)
            return Features(
                states.astype(np.uint8), embeddings[at], flipped[at], scores[at], plain, styles
            )

        return compute

    layout = StoreLayout(len(names), DIMENSION, flip=True)
    key = StoreKey("made 0", "none", "f00d")
    fill_store(create_store(folder, key, [names[row] for row in order], layout), start)
    return folder


def plain_templates(made: Made) -> dict[int, np.ndarray]:
    """arcface (N1D1F1), spelt out: flip added, times score, mean in media, sum over media, L2."""
    images = (made.embeddings.astype(float) + made.flipped) * made.scores[:, None].astype(float)
    found = {}
    for template in np.unique(made.templates):
        mine = made.templates == template
        total = sum(
            images[mine & (made.media == medium)].mean(axis=0)
            for medium in np.unique(made.media[mine])
        )
        found[int(template)] = total / np.linalg.norm(total)
    return found


def tar_at_most(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float:
    """The largest TAR over thresholds with FAR <= far, tried one by one."""
    best = 0.0
    for threshold in genuine:
        if (impostor >= threshold).mean() <= far:
            best = max(best, float((genuine >= threshold).mean()))
    return best


def test_pairs_give_what_plain_numpy_gives(made: Made) -> None:
    result = evaluate_ijb(made.folder, None, CHOICES, made.source())
    templates = plain_templates(made)
    scores = np.array([templates[a] @ templates[b] for a, b, _ in made.pairs])
    same = made.pairs[:, 2].astype(bool)
    numbers = result.report.numbers()
    for far, name in ((0.1, "1e-1"), (0.01, "1e-2"), (1e-3, "1e-3"), (1e-6, "1e-6")):
        expected = tar_at_most(scores[same], scores[~same], far)
        assert numbers[f"1:1 / TAR@FAR={name} / TAR"].value == pytest.approx(expected), far
    assert "TAR@FAR=1e-2" in result.report.tables[0].rows[1].label
    assert any("flip added, raw norms, times detector score, mean within media, sum over media"
               in line for line in result.report.variant)  # fmt: skip
    interval = numbers["1:1 / TAR@FAR=1e-1 / TAR"]
    assert interval.low is not None and interval.low <= (interval.value or 0) <= (
        interval.high or 0
    )


def test_identification_by_hand(made: Made) -> None:
    result = evaluate_ijb(made.folder, None, CHOICES, made.source())
    templates = plain_templates(made)
    probes = [t for t in templates if t % 10 != 1]
    tpirs, ranks = [], []
    for low, high in ((0, 4), (4, 8)):
        gallery = {s: templates[10 * s + 1] for s in range(low, high)}
        mates, strangers = [], []
        for probe in probes:
            scores = {s: float(templates[probe] @ g) for s, g in gallery.items()}
            subject = (probe - 1) // 10
            if subject in gallery:
                others = max(v for s, v in scores.items() if s != subject)
                mates.append((scores[subject], scores[subject] > others))
            else:
                strangers.append(max(scores.values()))
        # IJB's own threshold: descending maxima of non-mates at max(int(N * FPIR) - 1, 0).
        threshold = sorted(strangers, reverse=True)[max(int(len(strangers) * 0.1) - 1, 0)]
        tpirs.append(np.mean([first and score > threshold for score, first in mates]))
        ranks.append(np.mean([first for _, first in mates]))
    numbers = result.report.numbers()
    assert numbers["1:N / mean / TPIR@FPIR=1e-1"].value == pytest.approx(np.mean(tpirs))
    assert numbers["1:N / G2 / TPIR@FPIR=1e-1"].value == pytest.approx(tpirs[1])
    assert numbers["1:N / mean / rank 1"].value == pytest.approx(np.mean(ranks))
    assert numbers["1:N / all galleries / TPIR@FPIR=1e-1"].value is None  # it has no strangers' row
    assert result.report.data.facts["subjects in G1"] == "4"
    assert any("max(int(N x FPIR) - 1, 0)" in line for line in result.report.variant)


def test_poolings_differ_and_say_so(made: Made) -> None:
    chosen = read_ijb(find_files(made.folder), POOLINGS["arcface"], made.source(), [])
    texts = {pooling.describe() for pooling in POOLINGS.values()}
    vectors = {pool(chosen, pooling).vectors.tobytes() for pooling in POOLINGS.values()}
    assert len(texts) == len(vectors) == len(set(POOLINGS.values())) == 7
    changed = choose_pooling("arcface", {"add_flip": False, "unit_media": None})
    assert changed.describe().startswith("no flip, raw norms, times detector score")


def test_the_documented_steps_of_every_pooling_are_what_is_done() -> None:
    """One script's N1 keeps norms, another's removes them: so a table says which step does what."""
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = {
        name: [cell.strip() for cell in cells]
        for line in page.splitlines()
        if len(cells := line.strip("|").split("|")) == 5
        for name in cells[0].strip().split(", ")
        if name in POOLINGS
    }
    assert rows.keys() == POOLINGS.keys()
    for name, (_, flip, length, score, media) in rows.items():
        pooling = POOLINGS[name]
        assert (flip == "added") == pooling.add_flip
        assert (length == "1") == pooling.unit_images
        assert (score == "times") == pooling.detector_weight
        assert media.startswith("mean within") == pooling.by_media
        assert ("at length 1" in media) == pooling.unit_media
    # N1D1F1 of the IJB-C script is N0D1F1 of the other one: norms are kept in both.
    assert POOLINGS["arcface"] == Pooling(add_flip=True, detector_weight=True, by_media=True)


def test_nearest_is_named_and_may_exceed_the_target(made: Made) -> None:
    choices = CHOICES._replace(protocols=("1:1",), rule="nearest", bootstrap=Bootstrap(0))
    report = evaluate_ijb(made.folder, None, choices, made.source()).report
    strict = evaluate_ijb(
        made.folder, None, choices._replace(rule="at_most"), made.source()
    ).report  # fmt: skip
    tars = [(a.cells[0], b.cells[0]) for a, b in
            zip(report.tables[0].rows, strict.tables[0].rows, strict=True)]  # fmt: skip
    assert all(a.value >= b.value for a, b in tars[:-1])  # type: ignore[union-attr,operator]
    assert "TAR@FAR (nearest)" in report.variant


def test_a_template_without_pictures_is_an_error_or_scores_zero(made: Made) -> None:
    pairs = made.folder / "meta" / "ijbc_template_pair_label.txt"
    pairs.write_text(pairs.read_text() + "1 777 0\n2 777 1\n")
    with pytest.raises(ConfigError, match=r"1 of 37 templates .* the first is template 777"):
        evaluate_ijb(made.folder, None, CHOICES, made.source())
    result = evaluate_ijb(made.folder, None, CHOICES, made.source(skip_bad=True))
    assert [one.where for one in result.report.bad] == [
        "ijbc_template_pair_label.txt: template 777"
    ]
    # Its genuine pair counts as a miss at every positive threshold, not as if it were not there.
    assert "37 genuine and 595 impostor" in result.report.tables[0].note


def test_galleries_that_share_a_subject_are_refused(made: Made) -> None:
    second = made.folder / "meta" / "ijbc_1N_gallery_G2.csv"
    second.write_text(second.read_text() + "1,0,x.jpg\n")
    with pytest.raises(ConfigError, match=r"must not share a subject, got 1 in common.* 0:"):
        evaluate_ijb(made.folder, None, CHOICES, made.source())
    evaluate_ijb(made.folder, None, CHOICES, made.source(skip_bad=True))


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("face_tid_mid.txt", "9.jpg 4", '1.jpg template medium'),
        ("name_5pts_score.txt", "9.jpg 1 2 3", "1.jpg x1 y1"),
        ("template_pair_label.txt", "1 2", "template template 1|0"),
        ("template_pair_label.txt", "1 2 3", "template template 1|0"),
        ("template_pair_label.txt", "1 -2 0", "template template 1|0"),
        ("1N_probe_mixed.csv", "x,1,2", "template,subject"),
        ("1N_gallery_G1.csv", "1,5,x.jpg", "template 1 has subjects 0 and 5"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(made: Made, file: str, line: str, why: str) -> None:
    path = made.folder / "meta" / f"ijbc_{file}"
    number = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=f"ijbc_{file}:{number}: ") as caught:
        evaluate_ijb(made.folder, None, CHOICES, made.source())
    assert why in str(caught.value)


def test_an_empty_gallery_and_missing_lists_are_said(made: Made) -> None:
    gallery = made.folder / "meta" / "ijbc_1N_gallery_G1.csv"
    gallery.write_text("TEMPLATE_ID,SUBJECT_ID\n")
    with pytest.raises(ConfigError, match=r"G1\.csv: expected templates with subjects, got none"):
        evaluate_ijb(made.folder, None, CHOICES, made.source())
    (made.folder / "meta" / "ijbc_template_pair_label.txt").unlink()
    not_yet = made.source()._replace(features=made.folder / "nowhere")  # said before it is opened
    with pytest.raises(ConfigError, match="1:1 needs lists that are not here"):
        evaluate_ijb(made.folder, None, CHOICES, not_yet)
    with pytest.raises(ConfigError, match=r"expected one list .* got none"):
        find_files(made.folder / "meta" / "nothing")


def test_features_that_are_not_finite_are_refused_or_listed(made: Made, tmp_path: Path) -> None:
    names = [f"{row + 1}.jpg" for row in range(len(made.templates))]
    made.embeddings[3] = np.nan
    store = fill(tmp_path / "nan", names, made.embeddings, made.flipped, made.scores)
    with pytest.raises(ConfigError, match=r"the first is 4\.jpg: features not finite"):
        evaluate_ijb(made.folder, None, CHOICES, made.source()._replace(features=store))
    source = made.source(skip_bad=True)._replace(features=store)
    bad = evaluate_ijb(made.folder, None, CHOICES, source).report.bad
    assert (bad[0].where, bad[0].why) == ("4.jpg", "features not finite")
    assert len(bad) == 3  # and its template, once for the pairs and once for the gallery


def test_identities_are_what_genuine_pairs_link(made: Made) -> None:
    ids = np.unique(made.templates)
    rows = np.full(ids.max() + 1, -1)
    rows[ids] = np.arange(len(ids))
    pairs = PairFile(made.folder / "meta" / "ijbc_template_pair_label.txt", rows)
    found = subjects_of_pairs(pairs, len(ids))
    truth = (ids - 1) // 10
    assert len(np.unique(np.stack([found, truth]), axis=1).T) == SUBJECTS


def test_integers_are_read_in_blocks_whatever_their_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers.txt"
    rows = np.random.default_rng(0).integers(0, 10**6, (500, 3))
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    for end in ("", "\n"):
        path.write_text(text + end)
        for size in (20, 64, 1 << 20):
            monkeypatch.setattr("facestream.tools.eval_text.CHUNK", size)
            blocks = list(read_integer_blocks(path, 3, "1 2 3"))
            np.testing.assert_array_equal(np.concatenate(blocks), rows)
    path.write_text("1 2 3\r\n4  5\t6\n")  # Windows, and spaces that are not single
    assert np.concatenate(list(read_integer_blocks(path, 3, "a"))).tolist() == [
        [1, 2, 3],
        [4, 5, 6],
    ]
    path.write_text(text + "\n1 2\n")
    monkeypatch.setattr("facestream.tools.eval_text.CHUNK", 64)
    with pytest.raises(ConfigError, match=r'numbers\.txt:501: expected "1 2 3", got \'1 2\''):
        list(read_integer_blocks(path, 3, "1 2 3"))


def test_lists_can_be_read_with_their_faults_counted(made: Made) -> None:
    meta = made.folder / "meta"
    media = meta / "ijbc_face_tid_mid.txt"
    media.write_text(media.read_text() + "broken\n")
    bad: list[Bad] = []
    read = read_media(media, bad)
    points, scores = read_landmarks(
        meta / "ijbc_name_5pts_score.txt", [*read.names, "new.jpg"], bad
    )
    assert [one.why for one in bad][1] == "no landmarks listed" and len(bad) == 2
    assert np.isnan(points[-1]).all() and scores[-1] == 0
    np.testing.assert_allclose(scores[:-1], made.scores)


def test_rows_are_read_only_when_asked_for() -> None:
    array = np.arange(20.0).reshape(10, 2)
    rows = SelectedRows.of(array, np.array([7, 3]))
    assert rows.shape == (2, 2) and len(rows) == 2
    np.testing.assert_array_equal(rows[np.array([1])], array[[3]])


def test_from_pictures_with_landmarks_end_to_end(open_models: Pack, tmp_path: Path) -> None:
    try:
        photo = np.asarray(cv2.imread(str(fetch_group_photo())), np.uint8)
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    (faces,) = open_models.detector.detect([photo])
    meta, crops = tmp_path / "meta", tmp_path / "loose_crop"
    meta.mkdir()
    crops.mkdir()
    media, points, pairs = [], [], []
    for person in range(6):
        for view, gain in enumerate((1.0, 0.7)):
            name = f"{2 * person + view + 1}.jpg"
            dimmed = cv2.convertScaleAbs(photo, alpha=gain)
            cv2.imwrite(str(crops / name), dimmed)
            media.append(f"{name} {2 * person + view + 1} {person}")
            flat = " ".join(f"{x:.3f}" for x in faces.landmarks[person].ravel())
            points.append(f"{name} {flat} {faces.scores[person]:.4f}")
    for a in range(1, 13):
        pairs += [f"{a} {b} {int((a - 1) // 2 == (b - 1) // 2)}" for b in range(a + 1, 13)]
    write(meta / "ijbb_face_tid_mid.txt", media)
    write(meta / "ijbb_name_5pts_score.txt", points)
    write(meta / "ijbb_template_pair_label.txt", pairs)
    out = tmp_path / "out"
    arguments = ["ijb", str(tmp_path), "--protocol", "1:1", "--store", str(tmp_path / "s")]
    options = ["--workers", "1", "--no-detector-score", "-o", str(out), "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert "no detector score" in report["variant"][0]
    assert "five landmarks" in report["model"]["Preprocessing"]
    tar = report["tables"][0]["rows"][1]["cells"][0]["value"]
    assert tar == 1.0  # six people, and only the light differs
    # Without galleries there are no searches to show; with them the page shows both faces.
    assert "data:image" not in (out / "report.html").read_text()
    gallery = ["TEMPLATE_ID,SUBJECT_ID", *(f"{2 * person + 1},{person}" for person in range(3))]
    write(meta / "ijbb_1N_gallery_S1.csv", gallery)
    probes = ["TEMPLATE_ID,SUBJECT_ID", *(f"{2 * person + 2},{person}" for person in range(6))]
    write(meta / "ijbb_1N_probe_mixed.csv", probes)
    searched = [*arguments, *options, "--protocol", "1:N"]
    assert CliRunner().invoke(app, searched).exit_code == 0
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 6  # three strangers and three found
    assert "right, lowest scores" in page and "not in the gallery, highest scores" in page
    assert CliRunner().invoke(app, [*searched, "--no-images"]).exit_code == 0
    assert "data:image" not in (out / "report.html").read_text()
    wrong = CliRunner().invoke(app, [*arguments, "--pooling", "x"])
    assert isinstance(wrong.exception, ConfigError) and "--pooling must be" in str(wrong.exception)


def test_the_most_telling_probes_are_those_for_the_page(made: Made) -> None:
    chosen = read_ijb(find_files(made.folder), POOLINGS["arcface"], made.source(), [])
    part = identify_probes(chosen, CHOICES._replace(pictures=True), False, [])
    templates = plain_templates(made)
    groups = dict(part.telling)
    assert list(groups) == [WRONG, STRANGERS, RIGHT]
    probes = [t for t in templates if t % 10 != 1]
    best: dict[str, list[tuple[float, int, int]]] = {WRONG: [], STRANGERS: [], RIGHT: []}
    for low, high in ((0, 4), (4, 8)):
        for probe in probes:
            scores = {
                10 * s + 1: templates[probe] @ templates[10 * s + 1] for s in range(low, high)
            }
            first = max(scores, key=scores.__getitem__)
            subject = (probe - 1) // 10
            right = (first - 1) // 10 == subject
            title = RIGHT if right else WRONG if low <= subject < high else STRANGERS
            best[title].append((float(scores[first]), probe, first))
    for title, some in groups.items():
        expected = sorted(best[title], reverse=title != RIGHT)[:6]
        assert [(one.probe, one.template) for one in some] == [(p, t) for _, p, t in expected]
        assert [one.score for one in some] == pytest.approx([s for s, _, _ in expected], abs=1e-5)
    assert identify_probes(chosen, CHOICES, False, []).telling == ()


def test_clusters_of_well_separated_subjects_are_found_by_all_methods() -> None:
    draw = np.random.default_rng(2)
    subjects = np.repeat(np.arange(8), 12)
    faces = np.eye(32)[subjects] + 0.05 * draw.normal(size=(96, 32))
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    table = cluster_table(faces, subjects, ClusterSettings(eps=0.3))
    assert [row.label for row in table.rows] == ["K-means", "agglomerative", "DBSCAN"]
    for row in table.rows[1:]:
        assert [cell.value for cell in row.cells] == [1.0, 1.0, 1.0, pytest.approx(1.0), 8]  # type: ignore[union-attr]
    assert (table.rows[0].cells[0].value or 0) > 0.8  # type: ignore[union-attr]
    np.testing.assert_array_equal(cluster_kmeans(faces, 8, 1), cluster_kmeans(faces, 8, 1))


def angles(*degrees: float) -> np.ndarray:
    turned = np.radians(np.array(degrees))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_dbscan_by_hand() -> None:
    # Within 10 degrees. 0, 8, 16 are cores (3 with themselves: 8 has both sides); 24 is a border of
    # 16; 100 and 108 have one neighbour each: noise; 200 is alone.
    faces = angles(0, 8, 16, 24, 100, 108, 200)
    eps = float(1 - np.cos(np.radians(10)))
    assert cluster_dbscan(faces, eps, 3).tolist() == [0, 0, 0, 0, -1, -1, -1]
    assert cluster_dbscan(faces, eps, 2).tolist() == [0, 0, 0, 0, 1, 1, -1]
    assert cluster_dbscan(faces, eps, 1).tolist() == [0, 0, 0, 0, 1, 1, 2]


def test_dbscan_and_agglomerative_agree_with_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(4)
    faces = draw.normal(size=(20, 8))[draw.integers(0, 20, 300)] + 0.5 * draw.normal(size=(300, 8))
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    for eps in (0.05, 0.1, 0.2):
        theirs = cluster.DBSCAN(eps=eps, min_samples=4, metric="cosine").fit(faces)
        ours = cluster_dbscan(faces, eps, 4)
        np.testing.assert_array_equal(ours < 0, theirs.labels_ < 0)
        core = theirs.core_sample_indices_
        assert metrics.adjusted_rand_score(ours[core], theirs.labels_[core]) == 1.0
    theirs = cluster.AgglomerativeClustering(20, metric="cosine", linkage="average").fit(faces)
    assert metrics.adjusted_rand_score(cluster_agglomerative(faces, 20), theirs.labels_) == 1.0


def test_whole_subjects_are_chosen_when_there_are_too_many_faces() -> None:
    subjects = np.repeat(np.arange(10), 5)
    rows = choose_faces(subjects, 22, seed=1)
    assert len(rows) == 20
    assert all(count == 5 for count in np.unique(subjects[rows], return_counts=True)[1])
    assert len(choose_faces(subjects, 50)) == 50
    with pytest.raises(ConfigError, match="--most-faces"):
        choose_faces(subjects, 3)


def live_of(made: Made, **parts: object) -> Live:
    return Live(FeatureStore(made.store).key.pack, **parts)  # type: ignore[arg-type]


def fused_by_hand(made: Made) -> dict[int, np.ndarray]:
    """The plain mean of unit embeddings."""
    wide = made.embeddings.astype(float)
    units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    sums = {int(t): units[made.templates == t].sum(axis=0) for t in np.unique(made.templates)}
    return {template: one / np.linalg.norm(one) for template, one in sums.items()}


def test_templates_are_fused_as_live_and_no_picture_is_mirrored(made: Made) -> None:
    choices = CHOICES._replace(
        protocols=("1:1", "1:N"),
        pooling=choose_pooling("arcface", {}, fused=True),
        live=live_of(made, aggregator=Mean(DIMENSION)),
    )
    result = evaluate_ijb(made.folder, None, choices, made.source())
    templates = fused_by_hand(made)
    scores = np.array([templates[a] @ templates[b] for a, b, _ in made.pairs])
    same = made.pairs[:, 2].astype(bool)
    expected = tar_at_most(scores[same], scores[~same], 0.01)
    numbers = result.report.numbers()
    assert numbers["1:1 / TAR@FAR=1e-2 / TAR"].value == pytest.approx(expected)
    assert result.report.variant[0] == "templates: fused by mean, as live; score: cosine"
    chosen = read_ijb(find_files(made.folder, None), choices.pooling, made.source(), [])
    wanted = np.array([21, 5, 999])
    one = fuse_templates(chosen, Mean(DIMENSION), wanted)
    assert one.missing.tolist() == [False, True, True]
    np.testing.assert_allclose(one.vectors[0], templates[21], atol=1e-6)


def test_pairs_and_searches_are_aligned_by_ida(made: Made) -> None:
    draw = np.random.default_rng(2)
    rows = draw.normal(size=(40, DIMENSION))
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    anchors = Anchors(units, "made", k=5, tau=2.0)
    live = live_of(made, density=anchors)
    choices = CHOICES._replace(protocols=("1:1", "1:N"), live=live)
    result = evaluate_ijb(made.folder, None, choices, made.source())
    templates = plain_templates(made)
    crowded = {
        t: np.log(np.mean(np.exp(2.0 * np.sort(units @ one)[-5:]))) for t, one in templates.items()
    }

    def score(a: int, b: int) -> float:
        shared = np.exp(2.0 * templates[a] @ templates[b])
        dao = shared * (np.exp(-crowded[a]) + np.exp(-crowded[b])) / 5
        return float((np.log(dao) + np.log(5 / 2)) / 2.0)

    scores = np.array([score(a, b) for a, b, _ in made.pairs])
    same = made.pairs[:, 2].astype(bool)
    numbers = result.report.numbers()
    for far, name in ((0.1, "1e-1"), (0.01, "1e-2")):
        expected = tar_at_most(scores[same], scores[~same], far)
        assert numbers[f"1:1 / TAR@FAR={name} / TAR"].value == pytest.approx(expected), far
    assert "score: IDA (k 5, tau 2, made)" in result.report.variant[0]
    gallery = {s: 10 * s + 1 for s in range(4)}
    probes = np.stack([templates[t] for t in templates if t % 10 != 1]).astype(np.float32)
    subjects = np.array([(t - 1) // 10 for t in templates if t % 10 != 1])
    enrolled = np.stack([templates[t] for t in gallery.values()]).astype(np.float32)
    found = search(probes, subjects, enrolled, np.array(list(gallery)), anchors)
    tops = [max(gallery, key=lambda s, t=t: score(t, gallery[s])) for t in templates if t % 10 != 1]
    mated = subjects < 4
    np.testing.assert_array_equal(found.ranks[mated] == 1, (np.array(tops) == subjects)[mated])


def test_a_missing_template_is_as_crowded_as_others_on_average() -> None:
    units = np.eye(DIMENSION, dtype=np.float32)
    vectors = np.concatenate([units[:2], np.zeros((1, DIMENSION), np.float32)])
    anchors = Anchors(units, "made", k=2)
    found = densities(vectors, anchors)
    assert found[2] == pytest.approx(found[:2].mean())
    assert (densities(vectors[2:], anchors) == 0).all()


def test_fusing_needs_features_of_the_pack_and_no_pooling(made: Made) -> None:
    with pytest.raises(ConfigError, match="name the pack of the features"):
        check_live(Live("other 0", Mean(DIMENSION)), FeatureStore(made.store))
    learned = live_parts("omz", "learned", "cosine")
    assert learned is not None and learned.reads_styles
    with pytest.raises(ConfigError, match="no style statistics"):
        check_live(learned._replace(pack="made 0"), FeatureStore(made.store))
    assert live_parts("omz", None, "cosine") is None
    with pytest.raises(ConfigError, match="takes the place of pooling"):
        choose_pooling("adaface", {}, fused=True)
    with pytest.raises(ConfigError, match="--fuse must be"):
        live_parts("omz", "nan", "cosine")
    words = ["ijb", str(made.folder), "--set", "ijba", "--fuse", "mean"]
    with pytest.raises(ConfigError, match="for ijbb and ijbc"):
        CliRunner().invoke(app, words, catch_exceptions=False)
