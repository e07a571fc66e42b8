"""Anchors and thresholds: the arithmetic by hand, the recipes on real faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from typer.testing import CliRunner

from facestream import ConfigError, ModelError, PullFailed, SourceMissing
from facestream.models.card_file import read_card
from facestream.models.ida import Anchors
from facestream.models.inference import Floats
from facestream.models.pack import Pack, open_pack
from facestream.models.pull import fetch_group_photo
from facestream.tools.train import app
from facestream.train.anchors import build_anchors
from facestream.train.calibrate import (
    Condition,
    Faces,
    Fitted,
    compare,
    fit_pack,
    fit_tail,
    quantile,
    resample_thresholds,
)
from facestream.train.folders import (
    person,
    photos_in_folders,
    photos_of_role,
    picture_paths,
    read_pictures,
    seen_from_afar,
)


def unit(*rows: list[float]) -> Floats:
    vectors = np.array(rows, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_threshold_lets_exactly_the_allowed_share_through() -> None:
    impostor = np.arange(1000) / 1000.0  # 0 to 0.999
    assert quantile(impostor, 1e-3) == pytest.approx(0.999)  # one score, 0.999, may pass
    assert quantile(impostor, 1e-2) == pytest.approx(0.990)


@given(
    # Scores that are whole thousandths meet the rounding of the threshold.
    st.lists(
        st.floats(-1, 1) | st.integers(-1000, 1000).map(lambda n: n / 1000),
        min_size=5,
        max_size=200,
    ),
    st.sampled_from([1e-3, 0.05, 0.3]),
)
@settings(max_examples=200, deadline=None)
def test_no_more_impostors_pass_than_were_allowed(scores: list[float], target: float) -> None:
    impostor = np.array(scores)
    assert (impostor >= quantile(impostor, target)).mean() <= target


def test_every_thousandth_as_the_bar_is_passed_by_less_than_a_step() -> None:
    for bar in np.arange(-1000, 1001) / 1000.0:
        threshold = quantile(np.array([bar - 0.5, bar, bar + 0.5]), 0.34)
        assert bar < threshold <= bar + 0.001 + 1e-12


def test_the_tail_of_a_normal_is_that_normal() -> None:
    scores = norm.ppf((np.arange(100_000) + 0.5) / 100_000, loc=0.3, scale=0.1)
    centre, spread = fit_tail(scores)
    assert centre == pytest.approx(0.3, abs=2e-3)
    assert spread == pytest.approx(0.1, abs=1e-3)


def test_compare_splits_scores_by_truth() -> None:
    """a and b have a photo to enrol and a probe each; b's second photo to enrol shows no face."""
    anchors = Anchors(unit([0, 0, 1], [0, 0, -1]), version="t", k=2)
    vectors = unit([1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0])[:, None]
    faces = Faces(
        people=np.array([0, 1, 1, 0, 1]),
        enrolled=np.array([True, True, True, False, False]),
        vectors=vectors,
        usable=np.array([True, True, False, True, True])[:, None],
    )
    found = compare("hand-made", faces, 0, anchors)
    near = np.sqrt(0.5)
    assert found.genuine_cosine == pytest.approx([1.0, near])
    # Every photo of a, against every one of b, and the other way round.
    assert sorted(found.impostor_cosine) == pytest.approx([0.0] * 4 + [near] * 4)
    assert found.sides.tolist() == [[0, 1]] * 2 + [[1, 0]] * 2 + [[0, 1]] * 2 + [[1, 0]] * 2
    # All are at right angles to the anchors: densities are 0, and scores are the cosines.
    assert found.genuine == pytest.approx(found.genuine_cosine, abs=1e-6)
    assert found.embedded == 2 and found.seen == 2
    assert found.first == 0.5  # b's probe is as near to a: a tie, which goes to the first


def test_probes_without_a_face_count_as_seen() -> None:
    anchors = Anchors(unit([0, 0, 1], [0, 0, -1]), version="t", k=2)
    same = np.stack([unit([1, 0, 0], [1, 0, 0])] * 4)  # two views
    usable = np.array([[True, True], [True, True], [True, False], [True, True]])
    faces = Faces(np.array([0, 1, 0, 1]), np.array([True, True, False, False]), same, usable)
    found = compare("from afar", faces, 1, anchors)
    assert (found.seen, found.embedded) == (2, 1)
    # One photo of a and two of b from afar, against two of each as taken.
    assert len(found.impostor) == 6


def one_condition(impostor: list[float], sides: list[list[int]]) -> Condition:
    scores, pairs = np.array(impostor), np.array(sides)
    return Condition("as taken", 1, scores, scores, scores, scores - 0.5, pairs, 1.0)


def test_resampled_thresholds_are_scores_of_the_strictest_condition() -> None:
    draw = np.random.default_rng(3)
    sides = [[a, b] for a in range(8) for b in range(8) if a != b]
    low = one_condition(draw.uniform(0, 1, len(sides)).tolist(), sides)
    high = one_condition((low.impostor + 2).tolist(), sides)
    drawn = resample_thresholds([low, high], 0.1)
    assert drawn.shape == (500, 2)
    assert np.isin(drawn[:, 0], high.impostor).all()
    assert drawn[:, 1] == pytest.approx(drawn[:, 0] - 0.5)
    ends = np.quantile(drawn[:, 0], [0.025, 0.975])
    assert ends[0] < quantile(high.impostor, 0.1) < ends[1]
    # A pair that nobody else resembles: without either of the two the threshold is lower.
    odd = one_condition([0.9 if {a, b} == {0, 1} else 0.1 for a, b in sides], sides)
    assert set(resample_thresholds([odd], 0.02)[:, 0]) == {0.1, 0.9}


def test_files_of_a_person_share_what_stands_before_the_underscore() -> None:
    assert person(Path("017_08.jpg")) == person(Path("017_03.jpg")) == "017"


def test_a_face_seen_from_afar_is_smaller_softer_and_stays_in_the_corner() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    small = seen_from_afar(photo, 0.1)
    assert small.shape == (320, 320, 3)
    assert abs(small[60:, 60:].astype(int) - 127).max() <= 3  # grey canvas around 40 x 30 px
    assert small[5:35, 5:25].std() < photo.std() / 2


def test_folders_without_pictures_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no folder of faces"):
        picture_paths(tmp_path / "nowhere")
    with pytest.raises(SourceMissing, match="holds no pictures"):
        picture_paths(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"torn")
    with pytest.raises(SourceMissing, match=r"a\.jpg is not a readable picture"):
        next(read_pictures(picture_paths(tmp_path)))


def copy_of(card: Path, folder: Path) -> Pack:
    """The pack of a card that may be written to."""
    for path in card.parent.glob(f"{card.stem}.*"):
        shutil.copy(path, folder)
    return open_pack(folder / card.name)


def test_anchors_and_thresholds_of_real_faces(
    assets: Path, omz_models: Pack, tmp_path: Path
) -> None:
    pack = copy_of(omz_models.card.path, tmp_path)
    report = build_anchors(pack, assets / "anchors", every=60, attribution="SFHQ (MIT)")
    assert report.path == tmp_path / "omz.anchors.npy"
    assert report.kept + report.refused == 33 and report.kept >= 30

    people = sorted((assets / "london" / "gallery_neutral").iterdir())[:24]
    for kind in ("gallery_neutral", "probe_smiling"):
        (tmp_path / kind).mkdir()
        for path in sorted((assets / "london" / kind).iterdir()):
            if person(path) in {person(p) for p in people}:
                shutil.copy(path, tmp_path / kind)
    pack = open_pack(tmp_path / "omz.yaml")
    assert pack.anchors is not None and len(pack.anchors) == report.kept
    photos = photos_in_folders(tmp_path / "gallery_neutral", tmp_path / "probe_smiling")
    fitted = fit_pack(pack, photos, target_fmr=1e-2)
    clean = fitted.conditions[0]
    assert clean.embedded == 24 and clean.first == 1.0
    assert clean.genuine.min() > clean.impostor.max()
    check_promise(fitted)

    card = read_card(tmp_path / "omz.yaml")
    assert card.decision is not None and card.decision.threshold == fitted.threshold
    assert card.ida is not None and card.ida.attribution == "SFHQ (MIT)"
    assert card.measured is not None and card.measured.values["as taken"]["rank-1"] == 1.0


def test_the_split_gives_other_people_to_fit_and_to_measure(assets: Path) -> None:
    fit, judge = (photos_of_role(assets, role) for role in ("calibration", "subject"))
    for photos in (fit, judge):
        assert len(photos.gallery) == len(photos.probes) == 51
        assert [person(p) for p in photos.gallery] == [person(p) for p in photos.probes]
    assert not {person(p) for p in fit.gallery} & {person(p) for p in judge.gallery}
    assert "CC BY 4.0" in fit.words and "role calibration" in fit.words


def test_a_pack_without_anchors_or_people_is_refused(
    assets: Path, omz_models: Pack, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((assets / "london" / "gallery_neutral").iterdir())[:3]:
        shutil.copy(path, few)
    pack = copy_of(omz_models.card.path, tmp_path)
    with pytest.raises(ModelError, match=r"takes 20 probes and 1000 pairs.*got 3 probes and 24 "):
        fit_pack(pack, photos_in_folders(few, few), target_fmr=1e-3)
    with pytest.raises(ModelError, match="gave 3 usable faces, at least 10 needed"):
        build_anchors(pack, few)


# The same recipes on what every machine has: six people of one photograph.


def check_promise(fitted: Fitted) -> None:
    """In no condition do more impostor pairs reach a threshold than were asked for."""
    for condition in fitted.conditions:
        assert (condition.impostor >= fitted.threshold).mean() <= fitted.target_fmr
        assert (condition.impostor_cosine >= fitted.cosine_threshold).mean() <= fitted.target_fmr


@pytest.fixture(scope="module")
def six(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders gallery (a photo each) and probes (four renditions each) of the six."""
    try:
        photo = cv2.imread(str(fetch_group_photo()))
    except PullFailed as error:
        pytest.skip(f"the registry's photograph is not here and cannot be brought: {error}")
    folder = tmp_path_factory.mktemp("six")
    (faces,) = open_models.detector.detect([photo])
    assert len(faces.boxes) == 6
    for name, (x0, y0, x1, y1) in zip("abcdef", faces.boxes.round().astype(int), strict=True):
        room = (y1 - y0) // 2
        face = photo[max(0, y0 - room) : y1 + room, max(0, x0 - room) : x1 + room]
        renditions = {
            "mirrored": cv2.flip(face, 1),
            "dark": cv2.convertScaleAbs(face, alpha=0.6),
            "soft": cv2.GaussianBlur(face, (0, 0), 1.0),
            "small": cv2.resize(face, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
        }
        for kind, wanted in (("gallery", {"plain": face}), ("probes", renditions)):
            (folder / kind).mkdir(exist_ok=True)
            for rendition, picture in wanted.items():
                cv2.imwrite(str(folder / kind / f"{name}_{rendition}.png"), picture)
    return folder


def test_thresholds_of_six_people(open_models: Pack, six: Path, tmp_path: Path) -> None:
    pack = copy_of(open_models.card.path, tmp_path)
    before = pack.card.path.read_text(encoding="utf-8")
    photos = photos_in_folders(six / "gallery", six / "probes")
    fitted = fit_pack(pack, photos, target_fmr=0.05, source="gallery probes")
    names = [condition.name for condition in fitted.conditions]
    assert names[:3] == ["as taken", "96 px", "64 px"]
    clean = fitted.conditions[0]
    assert (clean.seen, clean.embedded, clean.first) == (24, 24, 1.0)
    assert len(clean.impostor) == 30 * 25  # each of 30 photos against those of five others
    assert fitted.interval.low <= fitted.threshold <= fitted.interval.high + 1e-3
    assert clean.genuine.mean() > clean.impostor.mean() + 3 * clean.impostor.std()
    check_promise(fitted)
    card = read_card(pack.card.path)
    decision = card.fitted_decision()
    assert (decision.threshold, decision.target_fmr) == (fitted.threshold, 0.05)
    assert decision.fitted_on.startswith("folders gallery and probes: 6 people,")
    assert decision.threshold_interval == pytest.approx(fitted.interval, abs=1e-3)
    assert card.measured is not None and list(card.measured.values) == names
    assert card.measured.command == (
        "facestream train calibrate gallery probes --pack open --target-fmr 0.05"
    )
    assert card.measured.data.endswith("the thresholds were set on the same people")
    # What was not fitted stays as it was, comments included.
    after = pack.card.path.read_text(encoding="utf-8")
    assert after.split("\ndecision:")[0] == before.split("\ndecision:")[0]


def test_a_rate_that_the_faces_cannot_show_is_refused(
    open_models: Pack, six: Path, tmp_path: Path
) -> None:
    pack = copy_of(open_models.card.path, tmp_path)
    before = pack.card.path.read_text(encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"rate of 0\.001 takes.*1000 pairs.*24 probes and 750 pairs"
    ):
        fit_pack(pack, photos_in_folders(six / "gallery", six / "probes"), target_fmr=1e-3)
    assert pack.card.path.read_text(encoding="utf-8") == before


def test_new_anchors_take_the_old_thresholds_with_them(
    open_models: Pack, six: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(six / "probes", folder)
    # Too small for the pack's gate, and nobody at all: both are left out and counted.
    small = cv2.resize(cv2.imread(str(six / "gallery" / "a_plain.png")), None, fx=0.15, fy=0.15)
    cv2.imwrite(str(folder / "y_small.png"), seen_from_afar(small, 1.0))
    cv2.imwrite(str(folder / "z_empty.png"), np.full((300, 300, 3), 127, np.uint8))
    # A card may have any file name; what is written goes into that file.
    card = tmp_path / "card.yaml"
    for path in open_models.card.folder.glob("open.*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "open.yaml").rename(card)
    report = build_anchors(open_pack(card), folder, attribution="six people")
    assert (report.kept, report.refused, report.dimension) == (24, 2, 128)
    pack = open_pack(card)
    assert pack.anchors is not None and len(pack.anchors) == 24
    assert pack.card.ida is not None and (pack.card.ida.k, pack.card.ida.tau) == (10, 1.0)
    assert pack.card.decision is None and pack.card.measured is None
    with pytest.raises(ModelError, match="facestream train calibrate --pack open"):
        pack.card.fitted_decision()
    with pytest.raises(ModelError, match="gave 6 usable faces, at least 10 needed"):
        build_anchors(pack, six / "gallery")


@pytest.mark.parametrize(
    "words",
    [[], ["neutral"], ["neutral", "smiling", "--assets", "."], ["--assets", ".", "--data", "x"]],
)
def test_calibration_takes_folders_or_the_split(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["calibrate", *words])
    assert isinstance(result.exception, ConfigError)
    assert "takes two folders, GALLERY and PROBES" in str(result.exception)
