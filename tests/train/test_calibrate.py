"""Anchors and thresholds: the arithmetic by hand, the recipes on real faces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from facestream import ModelError, SourceMissing
from facestream.models.card import read_card
from facestream.models.ida import Anchors
from facestream.models.inference import Floats
from facestream.models.pack import Pack, open_pack
from facestream.train.anchors import build_anchors
from facestream.train.calibrate import compare, fit_pack, fit_tail, person, quantile
from facestream.train.folders import pictures, seen_from_afar


def unit(*rows: list[float]) -> Floats:
    vectors = np.array(rows, np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_threshold_lets_exactly_the_allowed_share_through() -> None:
    impostor = np.arange(1000) / 1000.0  # 0 to 0.999
    assert quantile(impostor, 1e-3) == pytest.approx(0.999)  # one score, 0.999, may pass
    assert quantile(impostor, 1e-2) == pytest.approx(0.990)


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=200), st.sampled_from([1e-3, 0.05, 0.3]))
@settings(max_examples=60, deadline=None)
def test_no_more_impostors_pass_than_were_allowed(scores: list[float], target: float) -> None:
    impostor = np.array(scores)
    assert (impostor >= quantile(impostor, target)).mean() <= target


def test_the_tail_of_a_normal_is_that_normal() -> None:
    scores = norm.ppf((np.arange(100_000) + 0.5) / 100_000, loc=0.3, scale=0.1)
    centre, spread = fit_tail(scores)
    assert centre == pytest.approx(0.3, abs=2e-3)
    assert spread == pytest.approx(0.1, abs=1e-3)


def test_compare_splits_scores_by_truth() -> None:
    anchors = Anchors(unit([0, 0, 1], [0, 0, -1]), version="t", k=2)
    enrolled = {"a": unit([1, 0, 0])[0], "b": unit([0, 1, 0])[0]}
    probes = [("a", unit([1, 0, 0])[0]), ("b", unit([1, 1, 0])[0]), ("b", unit([1, 0.1, 0])[0])]
    found = compare("hand-made", 4, probes, enrolled, anchors)
    assert found.genuine_cosine == pytest.approx([1.0, np.sqrt(0.5), 0.1 / np.sqrt(1.01)])
    assert found.impostor_cosine == pytest.approx([0.0, np.sqrt(0.5), 1.0 / np.sqrt(1.01)])
    # All are at right angles to the anchors: densities are 0, and scores are the cosines.
    assert found.genuine == pytest.approx(found.genuine_cosine, abs=1e-6)
    assert found.embedded == 3 and found.seen == 4
    assert found.first == pytest.approx(1 / 3)  # the second is a tie, which goes to a


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
        next(pictures(tmp_path / "nowhere"))
    with pytest.raises(SourceMissing, match="holds no pictures"):
        next(pictures(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"torn")
    with pytest.raises(SourceMissing, match=r"a\.jpg is not a readable picture"):
        next(pictures(tmp_path))


def copy_of(card: Path, folder: Path) -> Pack:
    """The pack of a card that may be written to."""
    for path in card.parent.glob(f"{card.stem}.*"):
        shutil.copy(path, folder)
    return open_pack(folder / card.name)


def test_anchors_and_thresholds_of_real_faces(
    assets: Path, omz_models: Pack, tmp_path: Path
) -> None:
    pack = copy_of(omz_models.card.folder / "omz.yaml", tmp_path)
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
    fitted = fit_pack(
        pack, tmp_path / "gallery_neutral", tmp_path / "probe_smiling", target_fmr=1e-2
    )
    clean = fitted.conditions[0]
    assert clean.embedded == 24 and clean.first == 1.0
    assert clean.genuine.min() > clean.impostor.max()
    for condition in fitted.conditions:
        assert (condition.impostor >= fitted.threshold).mean() <= 1e-2

    card = read_card(tmp_path / "omz.yaml")
    assert card.decision is not None and card.decision.threshold == fitted.threshold
    assert card.ida is not None and card.ida.attribution == "SFHQ (MIT)"
    assert card.measured is not None and card.measured.values["as taken: rank-1"] == 1.0


def test_a_pack_without_anchors_or_people_is_refused(
    assets: Path, omz_models: Pack, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((assets / "london" / "gallery_neutral").iterdir())[:3]:
        shutil.copy(path, few)
    with pytest.raises(ModelError, match="fewer than 20 people are in both"):
        fit_pack(copy_of(omz_models.card.folder / "omz.yaml", tmp_path), few, few, target_fmr=1e-3)
    with pytest.raises(ModelError, match="gave 3 usable faces, at least 10 needed"):
        build_anchors(copy_of(omz_models.card.folder / "omz.yaml", tmp_path), few)
