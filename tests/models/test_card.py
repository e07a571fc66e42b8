"""Cards: read strictly, errors that name the key, sections that a fit can write anew."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import MissingModelFile, ModelError
from facestream.models.card_file import parse_card, read_card, replace_section
from facestream.models.search import false_positive_probability
from facestream.models.store import CARDS

SHIPPED = sorted(CARDS.glob("*.yaml"))
OPEN = (CARDS / "open.yaml").read_text(encoding="utf-8")
HERE = Path("my.yaml")
SPREAD = next(line.strip() for line in OPEN.splitlines() if "impostor_spread" in line)
SHORT_SUM = "file: open.ssr.npz\n    sha256: 0"
SHORT_CAFACE = "file: open.caface.npz\n    sha256: 0"

DECISION = {
    "threshold": 0.93,
    "cosine_threshold": 0.92,
    "target_fmr": 1e-3,
    "impostor_centre": 0.83,
    "impostor_spread": 0.04,
    "impostor_cosine_centre": 0.83,
    "impostor_cosine_spread": 0.04,
    "fitted_on": "synthetic faces",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_cards_are_valid_and_named_after_their_file(path: Path) -> None:
    card = read_card(path)
    assert card.name == path.stem
    assert (card.path, card.folder) == (path, CARDS)
    points = card.embedder.template.arrays().points
    assert points.shape == (5, 2)
    assert points.dtype == np.float32
    # Left and right are as seen: the first eye and mouth corner are on the left of the crop.
    assert points[0, 0] < points[2, 0] < points[1, 0]
    assert points[3, 0] < points[4, 0]
    assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()


@pytest.mark.parametrize("name", ["buffalo_l", "antelopev2"])
def test_insightface_packs_are_marked_non_commercial(name: str) -> None:
    card = read_card(CARDS / f"{name}.yaml")
    assert not card.commercial_use
    assert "non-commercial" in card.licence


@pytest.mark.parametrize("name", ["open", "omz"])
@pytest.mark.parametrize("gallery", [1, 50])
def test_a_stranger_at_the_threshold_reads_about_as_likely_as_was_asked_for(
    name: str, gallery: int
) -> None:
    """The normal tail of the card, which people are shown, agrees with the card's thresholds."""
    fitted = read_card(CARDS / f"{name}.yaml").fitted_decision()
    for threshold, centre, spread in (
        (fitted.threshold, fitted.impostor_centre, fitted.impostor_spread),
        (fitted.cosine_threshold, fitted.impostor_cosine_centre, fitted.impostor_cosine_spread),
    ):
        often = float(false_positive_probability(threshold, gallery, centre, spread))
        # The threshold is the strictest condition's, the tail that of all, so it reads lower.
        assert 0.5 * fitted.target_fmr * gallery < often < 1.1 * fitted.target_fmr * gallery


@pytest.mark.parametrize("name", ["open", "omz"])
def test_a_card_says_what_its_pack_was_seen_to_do(name: str) -> None:
    """On faces as taken everybody is recognised, and no condition breaks the promised rate."""
    card = read_card(CARDS / f"{name}.yaml")
    assert card.measured is not None
    clean = card.measured.values["as taken"]
    assert clean["TAR"] >= 0.99 and clean["rank-1"] >= 0.99
    assert clean["genuine score"] > clean["impostor score"]
    for row in card.measured.values.values():
        assert row["FMR"] <= card.fitted_decision().target_fmr


def test_an_unknown_key_names_itself_and_its_nearest_match() -> None:
    text = OPEN.replace("minimal_eye_distance", "minimum_eye_distance")
    with pytest.raises(ModelError, match=r"embedder\.minimum_eye_distance.*minimal_eye_distance"):
        parse_card(text, HERE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("score: 0.35", "score: high", r"Expected `float`, got `str`.*detector\.score"),
        ("kind: centerface", "kind: retina", r"Invalid enum value 'retina'.*detector\.kind"),
        ("name: open", "name: My Pack", "bad pack name"),
        ("file: dlib\n", "file: dlob\n", r"embedder\.file is 'dlob', expected one of"),
        ("sources: [dlib_weights]", "sources: [nothing]", r"derived\.dlib needs 1 sources"),
        ("style_channels: 192", "style_channels: 0", "go together"),
        ("file: centerface.onnx", "file: ../centerface.onnx", "plain file name"),
        ("sha256: 55533b28", "sha256: 5553", "64 hexadecimal digits"),
        ("[51.46, 102.69], ", "", "needs 5 points, got 4"),
        ("licence: CC0-1.0 (", "path: x\nlicence: CC0-1.0 (", "set by the program"),
        ("anchors: open.anchors.npy", "anchors: ../a.npy", r"ida\.anchors must be a plain file"),
        ("file: open.caface.npz", "file: /a.npz", r"fusion\.caface\.file must be a plain"),
        ("file: open.caface.npz\n    sha256: ", SHORT_CAFACE, r"fusion\.caface\.sha256"),
        ("  centerface:", "  ../centerface:", r"bad key '\.\./centerface'"),
        ("std: [256.0,", "std: [0.0,", r"> 0.*embedder\.std"),
        ("dimension: 128", "dimension: 0", r">= 1.*embedder\.dimension"),
        ("score: 0.35", "score: 35", r"<= 1.*detector\.score"),
        (SPREAD, "impostor_spread: 0.0", r"decision\.impostor_spread"),
        (SPREAD, "impostor_spread: .nan", r"decision\.impostor_spread"),
        ("k: 10", "k: 0", r"ida\.k"),
        ("tau: 1.0", "tau: -1.0", r"ida\.tau"),
        ("anchor_version: 916d2fb7331a", "anchor_version: '1'", r"ida\.anchor_version"),
        ("kind: training_free", "kind: head", r"quality\.kind head and quality\.head go together"),
        ("file: open.ssr.npz", "file: ../a.npz", r"ida\.learned\.file must be a plain file"),
        ("file: open.ssr.npz\n    sha256: ", SHORT_SUM, r"ida\.learned\.sha256"),
        ("tolerance: 0.02", "tolerance: 0.0", r"self_test\.tolerance"),
        ("name: open", "name: 2020-13-45", "month must be in 1..12"),
        ("name: open", "name: " + 5000 * "[", "not YAML"),
    ],
)
def test_wrong_values_are_named(old: str, new: str, message: str) -> None:
    assert old in OPEN
    with pytest.raises(ModelError, match=message) as caught:
        parse_card(OPEN.replace(old, new, 1), HERE)
    assert str(caught.value).startswith("my.yaml")


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    without = re.sub(r"commercial_use: true\n", "", OPEN)
    with pytest.raises(ModelError, match="commercial_use"):
        parse_card(without, HERE)
    with pytest.raises(MissingModelFile, match=r"none\.yaml"):
        read_card(tmp_path / "none.yaml")


@given(st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_card_or_a_model_error(text: str) -> None:
    with pytest.raises(ModelError):
        parse_card(text, HERE)


def test_a_network_built_from_several_files_has_a_checksum_of_all() -> None:
    card = read_card(CARDS / "omz.yaml")
    parts = [card.files[key].sha256 for key in ("embedder_ir", "embedder_weights")]
    assert [card.checksum(key) for key in ("embedder_ir", "embedder_weights")] == parts
    assert card.checksum(card.embedder.file) == hashlib.sha256("".join(parts).encode()).hexdigest()


def test_a_pack_without_decision_loads_but_does_not_match() -> None:
    text = OPEN.split("\ndecision:")[0]
    card = parse_card(text, HERE)
    assert card.decision is None
    with pytest.raises(ModelError, match="no fitted decision"):
        card.fitted_decision()


def test_a_fit_writes_its_section_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(OPEN, encoding="utf-8")
    replace_section(path, "decision", DECISION)
    first = path.read_text(encoding="utf-8")
    assert read_card(path).fitted_decision().threshold == 0.93
    assert "# The default pack" in first
    replace_section(path, "decision", {**DECISION, "threshold": 0.95})
    second = path.read_text(encoding="utf-8")
    assert read_card(path).fitted_decision().threshold == 0.95
    assert second.replace("threshold: 0.95\n", "threshold: 0.93\n", 1) == first
    replace_section(path, "decision", None)
    assert read_card(path).decision is None
    replace_section(path, "decision", None)  # nothing there: nothing happens
    assert read_card(path).ida == parse_card(OPEN, HERE).ida


def test_a_section_at_the_end_of_a_file_without_a_last_newline_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(
        OPEN.split("\nself_test:")[0] + "\nself_test:\n  values: [1.0]", encoding="utf-8"
    )
    replace_section(path, "self_test", {"values": [2.0]})
    test = read_card(path).self_test
    assert test is not None and test.values == (2.0,)


def test_a_bad_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(OPEN, encoding="utf-8")
    with pytest.raises(ModelError, match="treshold"):
        replace_section(path, "decision", {**DECISION, "treshold": 1.0})
    assert path.read_text(encoding="utf-8") == OPEN
    assert list(tmp_path.iterdir()) == [path]
