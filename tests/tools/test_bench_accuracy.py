"""`facestream bench accuracy`: one page of numbers, every table called simulated or real."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facestream import ConfigError, SourceCorrupt, UnknownPack
from facestream.models.aggregators import make_aggregator
from facestream.models.feature_store import (
    Features,
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_store,
)
from facestream.models.ida import Anchors
from facestream.models.pack import open_pack
from facestream.tools import bench_accuracy_page as page
from facestream.tools.bench import app
from facestream.tools.bench_accuracy import Size, command_words, find_packs, heading
from facestream.tools.bench_accuracy_stills import (
    ENROLLED,
    PICTURES,
    SIZES,
    Sets,
    StillNumbers,
    draw_sets,
    find_wild,
    fuse_sets,
    score_templates,
    search_half,
)
from facestream.tools.bench_accuracy_videos import (
    Facts,
    Found,
    Variant,
    VideoNumbers,
    pack_variants,
    render,
)
from facestream.tools.eval_tracks import TrackingScores
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.report_record import Number

SIZE = Size(2, 1, 12, None)
MEAN, QUALITY = Variant("open", "mean", "cosine"), Variant("open", "quality", "cosine")


# The page


def test_the_head_gives_the_whole_command_and_what_was_left_out() -> None:
    command = command_words(["easy"], None, SIZE, Bootstrap(200, 3))
    assert command.endswith(
        "--preset easy --scenes 2 --cameras 1 --fps 12 --seed 3 --resamples 200"
    )
    text = heading(command, ["open"], {"buffalo_l": "no file"})
    assert command in text and "their files are not here: buffalo_l" in text
    assert "**simulated**" in text and "**research only**" in text and "revision" in text


def test_bold_is_the_best_of_a_column_as_it_is_written() -> None:
    cells = [("2.0 (1–3)", [-2.0]), ("1.5 (1–3)", [-1.5]), ("–", [float("-inf")])]
    assert page.embolden(cells) == ["2.0 (1–3)", "**1.5** (1–3)", "–"]
    assert page.embolden([("7", [7.0]), ("7", [7.0])]) == ["7", "7"]  # nothing to tell apart
    pairs = [("60.0 / 50.0", (0.6, 0.5)), ("59.0 / 55.0", (0.59, 0.55))]
    assert page.embolden(pairs) == ["**60.0** / 50.0", "59.0 / **55.0**"]


def test_a_table_has_given_and_ours_side_by_side() -> None:
    values = {(MEAN, True): 0.9, (MEAN, False): 0.7, (QUALITY, True): 0.95, (QUALITY, False): 0.6}
    lines = page.variant_table(
        [MEAN, QUALITY],
        [("Rank 1", "key")],
        lambda variant, given: {"key": Number(values[variant, given])},
    )
    assert lines == [
        "| Pack, fusion, score | Rank 1<br>given | Rank 1<br>ours |",
        "|---|---|---|",
        "| open, mean, cosine | 90 | **70** |",
        "| open, quality, cosine | **95** | 60 |",
    ]


def _videos() -> VideoNumbers:
    keys = [key for _, key in (*page.SEARCHES, *page.ALERTS)]
    numbers = {key: Number(0.5, low=0.4, high=0.6) for key in keys}
    found = Found(Number(0.8), Number(0.1, "score"), TrackingScores(0.6, 0.7, 0.5, 0.65, 3.0))
    return VideoNumbers(
        {"easy": Facts(2, 0.7, 10, 9, 4, 4)},
        {("easy", MEAN, given): numbers for given in (True, False)},
        {("easy", "open"): found},
        enrolled=9,
        refused=0,
    )


def test_every_table_says_simulated_and_few_strangers_are_called_few() -> None:
    text = page.video_section(_videos(), Bootstrap(100, 1))
    assert "**Simulated**: 2 videos, 0.7 minutes; 10 searches of 9 people in the gallery" in text
    assert "TPIR, no<br>false positive<br>given" in text and "FPIR<br>1 %" not in text
    assert "50 (40–60)" in text


def test_in_short_names_the_best_and_what_end_to_end_costs() -> None:
    def numbers(first: float) -> dict[str, Number]:
        return {key: Number(first) for _, key in page.SEARCHES}

    videos = _videos()._replace(
        numbers={
            ("easy", MEAN, True): numbers(0.9),
            ("easy", MEAN, False): numbers(0.6),
            ("easy", QUALITY, True): numbers(0.8),
            ("easy", QUALITY, False): numbers(0.7),
        }
    )
    text = page.summary_section(videos, None)
    assert "easy, end to end: best is `open`, quality, cosine: Rank 1 70" in text
    assert "easy, given boxes: best is `open`, mean, cosine: Rank 1 90" in text
    assert "from given boxes to end to end: easy 80 to 70." in text
    assert "fewer than 100 searches of strangers: easy." in text and "Real" not in text


def test_without_the_other_trackers_the_page_says_how_to_get_them() -> None:
    text = page.tracking_section(_videos(), None)
    assert "| open | facestream | 60.0 / 65.0 |" in text
    assert "pip install --no-deps trackers supervision" in text
    both = {
        "facestream": TrackingScores(0.6, 0, 0, 0.65, 0),
        "OC-SORT": TrackingScores(0.5, 0, 0, 0.7, 0),
    }
    text = page.tracking_section(_videos(), {("easy", "open"): both})
    assert "| open | facestream | **60.0** / 65.0 |" in text
    assert "| open | OC-SORT | 50.0 / **70.0** |" in text and "pip" not in text


def test_without_real_stills_the_page_says_so() -> None:
    text = page.stills_section(None, Bootstrap())
    assert "Not measured" in text and "celeba/" in text
    numbers = {key: Number(0.5) for _, key in page.STILLS}
    stills = StillNumbers(
        40, 400, dict.fromkeys(SIZES, 60),
        {(size, MEAN, given): numbers for size in SIZES for given in (True, False)},
        {"open": 0.98},
    )  # fmt: skip
    text = page.stills_section(stills, Bootstrap())
    assert text.count("**Real, research only**") == 1 + len(SIZES)
    assert "98.0 % with open" in text and "![" not in text and "<img" not in text


# Packs and presets


def test_every_part_that_a_pack_has_is_combined() -> None:
    rows = list(pack_variants(open_pack("open")))
    assert Variant("open", "mean", "ida") in rows and QUALITY in rows
    assert len(rows) == len(set(rows)) >= 4


def test_packs_are_all_that_can_be_opened_or_those_asked_for() -> None:
    usable, absent = find_packs(None)
    assert usable[0] == "open" and not set(usable) & set(absent)
    assert find_packs(["open"]) == (["open"], {})
    with pytest.raises(UnknownPack):
        find_packs(["opne"])


def test_a_preset_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--preset must be one of easy"):
        render("esay", SIZE, 1, tmp_path, tmp_path / "out")


def test_it_needs_faces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("motrics")
    monkeypatch.delenv("FACESTREAM_ASSETS", raising=False)
    result = CliRunner().invoke(app, ["accuracy", "--folder", str(tmp_path)])
    assert isinstance(result.exception, ConfigError) and "--assets" in str(result.exception)


# Stills


def _list(folder: Path, counts: dict[str, int]) -> None:
    """celeba/wild.csv with so many grey pictures of each person."""
    (folder / "celeba" / "wild").mkdir(parents=True)
    names = [f"{axis}{i}" for i in range(1, 6) for axis in "xy"]
    with (folder / "celeba" / "wild.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "identity", *names])
        for who, count in counts.items():
            for k in range(count):
                writer.writerow([f"{who}{k}.jpg", who, *range(10)])
                picture = np.full((40, 40, 3), 90, np.uint8)
                cv2.imwrite(str(folder / "celeba" / "wild" / f"{who}{k}.jpg"), picture)


def test_whoever_has_too_few_pictures_does_not_take_part(tmp_path: Path) -> None:
    assert find_wild(tmp_path) is None
    _list(tmp_path, {"7": PICTURES, "8": PICTURES - 1, "9": PICTURES + 5})
    wild = find_wild(tmp_path)
    assert wild is not None and wild.landmarks.shape == (2 * PICTURES, 5, 2)
    assert wild.owners.tolist() == [0] * PICTURES + [1] * PICTURES
    assert wild.landmarks[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert all((wild.folder / file).is_file() for file in wild.files)


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    _list(tmp_path, {"7": 1})
    with (tmp_path / "celeba" / "wild.csv").open("a") as file:
        file.write("x.jpg,7,1,2\n")
    with pytest.raises(SourceCorrupt, match=r"wild\.csv, line 3"):
        find_wild(tmp_path)


def test_sets_share_no_picture_with_the_enrolled_nor_among_themselves() -> None:
    owners = np.repeat([0, 1, 2], PICTURES)
    gallery, probes = draw_sets(owners, seed=5)
    assert gallery.owners.tolist() == [0, 1, 2]
    for size in SIZES:
        sets = probes[size]
        for person in range(3):
            mine = [rows for rows, who in zip(sets.rows, sets.owners, strict=True) if who == person]
            used = np.concatenate([*mine, gallery.rows[person]])
            assert len(used) == len(set(used.tolist())) == size * len(mine) + ENROLLED
            assert (owners[used] == person).all()
    again = draw_sets(owners, seed=5)[1]
    assert all((a == b).all() for a, b in zip(probes[4].rows, again[4].rows, strict=True))


def _store(folder: Path, embeddings: np.ndarray, states: list[State]) -> FeatureStore:
    count, dimension = embeddings.shape
    layout = StoreLayout(count, dimension, 0, False, "float32")
    store = create_store(folder, StoreKey("p", "q", "d"), [f"{k}" for k in range(count)], layout)

    def compute(rows: range) -> Features:
        some = slice(rows.start, rows.stop)
        ones = np.ones(len(rows), np.float32)
        nothing = np.zeros((0, dimension), np.float32)
        styles = np.zeros((len(rows), 0, 2), np.float32)
        found = np.array(states, np.uint8)[some]
        return Features(found, embeddings[some], nothing, ones, ones, styles)

    fill_store(store, lambda: compute, workers=1)
    return FeatureStore(folder)


def test_faces_that_are_not_found_are_left_out_of_their_set(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    vectors[2:] = 0
    states = [State.EMBEDDED, State.EMBEDDED, State.NO_FACE, State.NO_FACE]
    store = _store(tmp_path / "s", vectors, states)
    sets = Sets([np.array([0, 2]), np.array([0, 1]), np.array([2, 3])], np.arange(3))
    templates = fuse_sets(store, make_aggregator("mean", dimension=3), sets)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(templates, [[1, 0, 0], [half, half, 0], [0, 0, 0]], atol=1e-6)


def test_a_template_without_a_face_scores_nothing_by_either_score() -> None:
    templates = np.array([[1, 0], [0, 0]], np.float32)
    gallery = np.array([[0, 0], [0.6, 0.8]], np.float32)
    scores = score_templates(templates, gallery, None)
    np.testing.assert_allclose(scores, [[-np.inf, 0.6], [-np.inf, -np.inf]], atol=1e-6)
    anchors = Anchors(np.eye(2, dtype=np.float32), "v", k=1)
    by_ida = score_templates(templates, gallery, anchors)
    assert np.isfinite(by_ida[0, 1]) and np.isneginf(by_ida[[0, 1, 1], [0, 0, 1]]).all()


def test_half_of_the_people_are_strangers_and_a_missing_face_is_a_miss() -> None:
    scores = np.full((5, 4), 0.1)
    scores[0, 0] = scores[1, 1] = 0.9  # persons 0 and 1 are seen well
    scores[4] = -np.inf  # person 2 was not found
    owners = np.array([0, 1, 2, 3, 2])
    ranks = search_half(scores, owners, 0)  # persons 0 and 2 are enrolled
    assert ranks.mated.tolist() == [True, False, True, False, True]
    assert ranks.ranks[0] == 1 and ranks.ranks[2] == 2 and ranks.ranks[4] > 4
    assert search_half(scores, owners, 1).mated.tolist() == [False, True, False, True, False]


# All of it


@pytest.mark.timeout(900)
def test_a_page_is_written_and_a_second_run_only_reads(assets: Path, tmp_path: Path) -> None:
    pytest.importorskip("motrics")
    few = tmp_path / "assets"
    few.mkdir()
    for name in ("london", "anchors"):
        (few / name).symlink_to(assets / name)
    out = tmp_path / "docs" / "accuracy.md"
    options = ["--preset", "easy", "--scenes", "1", "--seconds", "1", "--pack", "open"]
    options += ["--resamples", "0", "--folder", str(tmp_path / "all"), "--out", str(out)]
    run = ["accuracy", "--assets", str(few), *options]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "### Simulated: easy" in text and "| open, quality, ida |" in text
    assert "the assets hold no celeba/ folder" in text
    seen = {path: path.stat().st_mtime_ns for path in (tmp_path / "all" / "seen").iterdir()}
    assert len(seen) == 2  # given boxes and our own, whatever matches them
    CliRunner().invoke(app, run)
    assert out.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in seen} == seen
