"""Cards: read strictly, errors that name the key, sections that a fit can write anew."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import MissingModelFile, ModelError
from facestream.models.card import parse_card, read_card, replace_section
from facestream.models.store import CARDS

SHIPPED = sorted(CARDS.glob("*.yaml"))
OPEN = (CARDS / "open.yaml").read_text(encoding="utf-8")
HERE = Path("my.yaml")

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
    assert card.folder == CARDS
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
        ("licence: CC0-1.0 (", "folder: x\nlicence: CC0-1.0 (", "set by the program"),
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


def test_a_bad_section_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(OPEN, encoding="utf-8")
    with pytest.raises(ModelError, match="treshold"):
        replace_section(path, "decision", {**DECISION, "treshold": 1.0})
    assert path.read_text(encoding="utf-8") == OPEN
    assert list(tmp_path.iterdir()) == [path]
