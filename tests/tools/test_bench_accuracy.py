"""`facestream bench accuracy`: one page of numbers, every table called simulated or real."""

from __future__ import annotations

import csv
import dataclasses
import re
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
from facestream.tools import bench_accuracy_runs as runs
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
    Measures,
    Variant,
    VideoNumbers,
    default_of,
    limits_of,
    pack_variants,
    render,
)
from facestream.tools.eval_tracks import TrackingScores
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.report_record import Number
from facestream.tools.run import configure

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


KEYS = (*(key for _, key in page.SEARCHES), runs.MATCHED, runs.TIME)
FACTS = Facts(2, 30.0, 10, 9, 4, 4)


def _measures(value: float, *, named: int = 0, draws: list[float] | None = None) -> Measures:
    numbers = {key: Number(value, low=value - 0.1, high=value + 0.1) for key in KEYS}
    numbers[runs.TIME] = Number(2.0, "seconds", 1.0, 3.0)
    drawn = {key: np.array(draws) for key in KEYS} if draws is not None else {}
    return Measures(numbers, drawn, named, 4, named, 0.31)


def _videos(first: Measures, other: Measures) -> VideoNumbers:
    """One preset; the pack open, whose default is MEAN, and QUALITY beside it."""
    found = Found(Number(0.8), Number(0.1, "score"), TrackingScores(0.6, 0.7, 0.5, 0.65, 3.0))
    pairs = ((MEAN, first), (QUALITY, other))
    return VideoNumbers(
        {"easy": FACTS},
        {"open": MEAN},
        {("easy", variant, given): one for variant, one in pairs for given in (True, False)},
        {("open", "FPIR 10 %"): _measures(0.7, named=3)},
        {("easy", "open"): found},
        enrolled=9,
        refused=0,
    )


def test_events_say_how_little_few_strangers_tell() -> None:
    # None of 4 leaves 60 % possible, and no alert in half an hour 3.7 / 0.5 h.
    cells = runs.alert_cells(_measures(0.5), FACTS)
    assert cells == ["50 (40–60)", "2.0 (1.0–3.0)", "0 of 4 (0.0–60.2 %)", "0 (0–7)"]
    assert runs.alert_cells(_measures(0.5, named=3), FACTS)[3] == "6 (1–18)"


def test_the_default_comes_first_and_other_promises_below_it() -> None:
    text = runs.run_section(_videos(_measures(0.5), _measures(0.6)), Bootstrap(100, 1))
    assert "| easy | open | 10 + 4 | 50 (40–60) | 2.0 (1.0–3.0) | 0 of 4 (0.0–60.2 %) |" in text
    first, second = text.index("**FPIR 1 % (default)** | 0.310 | 50"), text.index("| FPIR 10 % |")
    assert first < second and "3 of 4" in text[second:]


def test_a_gap_is_paired_and_bold_where_it_leaves_zero_out() -> None:
    # Draw for draw 5 to 15 points apart, though both vary by 40.
    first = _measures(0.5, draws=[0.3, 0.5, 0.7])
    other = _measures(0.6, draws=[0.35, 0.6, 0.85])
    assert runs.gap_words(first, other, runs.MATCHED) == "**+10 (+5 to +15)**"
    assert runs.gap_words(other, first, runs.MATCHED) == "**-10 (-15 to -5)**"
    wavering = _measures(0.5, draws=[0.2, 0.5, 0.9])
    assert runs.gap_words(first, wavering, runs.MATCHED) == "+0 (-9 to +19)"
    assert runs.gap_words(_measures(0.5), _measures(0.6), runs.MATCHED) == "+10"


def test_in_short_says_what_differs_clearly_from_the_default() -> None:
    first = _measures(0.5, named=1, draws=[0.3, 0.5, 0.7])
    better = _measures(0.6, draws=[0.35, 0.6, 0.85])
    text = runs.summary_section(_videos(first, better), None)
    assert "`open` as it runs by default (mean, cosine, threshold 0.310) names **50 " in text
    assert "**1 of 4 (0.6–80.6 %)** passes of strangers" in text and "Real" not in text
    clear = "in TPIR@FPIR 10 % quality with cosine better; in matched quality with cosine better."
    assert clear in text
    same = runs.summary_section(_videos(first, first), None)
    assert "in TPIR@FPIR 10 % none; in matched none." in same
    assert "Strangers are few, 4 passes" in text and "60.2 % possible" in text


def test_fusions_stand_beside_the_default_and_few_strangers_are_called_few() -> None:
    text = runs.fusion_section(_videos(_measures(0.5), _measures(0.6)))
    assert "| **mean, cosine (default)** | 50 (40–60) | 50 (40–60) | 50 (40–60) |  |" in text
    assert "| quality, cosine | 60 (50–70) | 60 (50–70) | 60 (50–70) | +10 |" in text
    assert "*TPIR, no false positive* is TPIR at a threshold that no stranger" in text
    given = runs.given_section(_videos(_measures(0.5), _measures(0.6)))
    assert given.endswith("| easy | open |" + " 50 (40–60) |" * 6 + "\n")  # the default alone


def test_without_the_other_trackers_the_page_says_how_to_get_them() -> None:
    videos = _videos(_measures(0.5), _measures(0.6))
    text = page.tracking_section(videos, None)
    assert "| open | facestream | 60.0 / 65.0 |" in text
    assert "pip install --no-deps trackers supervision" in text
    both = {
        "facestream": TrackingScores(0.6, 0, 0, 0.65, 0),
        "OC-SORT": TrackingScores(0.5, 0, 0, 0.7, 0),
    }
    text = page.tracking_section(videos, {("easy", "open"): both})
    assert "| open | facestream | **60.0** / 65.0 |" in text
    assert "| open | OC-SORT | 50.0 / **70.0** |" in text and "pip" not in text


def test_without_real_stills_the_page_says_so() -> None:
    text = page.stills_section(None, {}, Bootstrap())
    assert "Not measured" in text and "celeba/" in text
    numbers = {key: Number(0.5) for _, key in page.STILLS}
    rows = [(size, one, given) for one in (MEAN, QUALITY) for size in SIZES for given in (1, 0)]
    stills = StillNumbers(
        40, 400, dict.fromkeys(SIZES, 60),
        {(size, one, bool(given)): numbers for size, one, given in rows},
        {"open": 0.98},
    )  # fmt: skip
    text = page.stills_section(stills, {"open": MEAN}, Bootstrap())
    assert "**Real, research only**" in text and "![" not in text and "<img" not in text
    assert "98.0 % with open" in text and "30 of 1, 30 of 4, 30 of 8 pictures" in text
    assert "| **mean, cosine (default)** |" + " 50 |" * 2 * len(SIZES) in text
    assert "sets of 1, 4, 8: 50, 50, 50 %" in runs.still_words(stills, MEAN)


# Packs and presets


def test_every_part_that_a_pack_has_is_combined() -> None:
    pack = open_pack("open")
    rows = pack_variants(pack)
    assert rows[0] == default_of(pack) == ("open", pack.card.fusion.aggregator, "cosine")
    assert Variant("open", "mean", "ida") in rows and QUALITY in rows
    assert len(rows) == len(set(rows)) == 2 * (2 + len(pack.fusion_heads))


def test_other_lines_are_promises_and_the_number_on_the_card() -> None:
    pack = open_pack("open")
    *promises, own = limits_of(pack)
    assert [one.words for one in promises] == ["FPIR 0.1 %", "FPIR 10 %"]
    assert pack.card.decision is not None
    assert own.settings == (f"match.threshold={pack.card.decision.cosine_threshold}",)
    for limit in (*promises, own):
        configure(None, ["a.mp4"], settings=limit.settings)  # settings that a run takes
    assert limits_of(dataclasses.replace(pack, strangers=None)) == []


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
    assert "| easy | open | 5 + 2 |" in text and "\n| quality, ida |" in text
    assert f"| **{default_of(open_pack('open')).aggregator}, cosine (default)** |" in text
    thresholds = re.findall(r"\| open \| \S*FPIR [^|]+\| ([\d.]+) \|", text)
    assert len(thresholds) == 3 and thresholds[1] > thresholds[0] > thresholds[2]
    assert "the assets hold no celeba/ folder" in text
    seen = {path: path.stat().st_mtime_ns for path in (tmp_path / "all" / "seen").iterdir()}
    assert len(seen) == 2  # given boxes and our own, whatever matches them
    CliRunner().invoke(app, run)
    assert out.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in seen} == seen
