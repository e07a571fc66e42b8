"""`facestream anchors`, as a person and as a script use it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facestream import FacestreamError, ModelError
from facestream.models.card_file import read_card, replace_section
from facestream.models.pack import load_anchors
from facestream.models.store import load_card
from facestream.stream.gallery import Gallery
from facestream.tools.anchors import app


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A copy of the card of open, with its anchors and no files of networks."""
    for path in load_card("open").folder.glob("open.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "open.yaml"


@pytest.fixture
def place(tmp_path: Path, card: Path) -> Path:
    """A gallery of Anna, who looks like the fourth anchor, and Bob, who looks like none."""
    anchors = load_anchors(read_card(card))
    assert anchors is not None
    spec = read_card(card)
    far = np.random.default_rng(1).normal(size=anchors.shape[1]).astype(np.float32)
    with Gallery.open(tmp_path / "people.db", create=True) as gallery:
        for name, vector in (("Anna", anchors[3]), ("Bob", far)):
            gallery.add_sample(
                name,
                vector,
                norm=1.0,
                quality=1.0,
                pack="open",
                embedder=spec.checksum(spec.embedder.file),
                source=f"{name}.png",
                digest=name,
            )
    return tmp_path / "people.db"


def call(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, FacestreamError):
        raise result.exception
    return result


def answer(*words: str | Path) -> Any:
    return json.loads(call(*words, "--json").stdout)


def test_list_shows_what_the_cards_say() -> None:
    rows = {row["pack"]: row for row in answer("list")["anchors"]}
    spec = load_card("open").ida
    assert spec is not None
    shown = rows["open"]
    assert (shown["version"], shown["k"], shown["tau"]) == (spec.anchor_version, spec.k, spec.tau)
    assert shown["count"] > 100 and shown["sha256"].startswith(spec.anchor_version)
    assert rows["antelopev2"]["count"] is None
    assert spec.anchor_version in call("list", "open").output


def test_verify_tells_who_is_among_the_anchors(card: Path, place: Path) -> None:
    found = call("verify", "--pack", card, "--gallery", place)
    assert found.exit_code == 1
    assert "Anna looks like anchor 3 at 1.000" in found.output and "Bob looks" not in found.output
    told = answer("verify", "--pack", card, "--gallery", place)
    assert told["holds"] is False and told["found"]["unmeasured"] == 2
    with Gallery.open(place, create=False) as gallery:
        gallery.remove("Anna")
    assert call("verify", "--pack", card, "--gallery", place).exit_code == 0


def test_wrong_densities_are_told_and_mended(card: Path, place: Path, open_models: object) -> None:
    with Gallery.open(place, create=False) as gallery:
        gallery.remove("Anna")
    assert answer("verify", "--pack", "open", "--gallery", place, "--mend")["holds"]
    database = sqlite3.connect(place)
    database.execute("UPDATE density SET value = value + 1")
    database.commit()
    database.close()
    wrong = call("verify", "--pack", "open", "--gallery", place)
    assert wrong.exit_code == 1 and "not these anchors': Bob; --mend" in wrong.output
    assert answer("verify", "--pack", "open", "--gallery", place, "--mend")["found"]["wrong"] == []


def test_build_leaves_out_copies_and_people_of_the_gallery(
    card: Path, place: Path, tmp_path: Path
) -> None:
    before = load_anchors(read_card(card))
    assert before is not None
    np.save(tmp_path / "weights.npy", np.concatenate([before[:50], before[:1]]))
    words = ("build", tmp_path / "weights.npy", "--pack", card, "--alike", "1")
    report = answer(*words, "--gallery", place)
    assert report["kept"] == 49
    assert [(one["name"], one["like"]) for one in report["alike"]] == [
        ("class 50", "class 0"),
        ("class 3", "Anna"),
    ]
    after = read_card(card)
    assert after.ida is not None and after.ida.anchor_version == report["version"]
    assert after.decision is None  # fitted with other anchors
    assert call("verify", "--pack", card, "--gallery", place).exit_code == 0
    shown = call(*words).output.replace("\n", " ")
    assert "50 anchors of dimension" in shown and "facestream train calibrate" in shown


def test_by_default_faces_that_the_pack_cannot_tell_apart_are_left_out(
    card: Path, tmp_path: Path
) -> None:
    before = load_anchors(read_card(card))
    assert before is not None
    np.save(tmp_path / "weights.npy", before)
    report = answer("build", tmp_path / "weights.npy", "--pack", card)
    assert 0 < len(report["alike"]) < len(before) / 2
    assert report["kept"] + len(report["alike"]) == len(before)
    after = load_anchors(read_card(card))
    assert after is not None
    cosines = after @ after.T - 2 * np.eye(len(after), dtype=np.float32)
    assert cosines.max() < report["bar"] + 1e-3


def test_a_pack_without_anchors_says_how_to_get_some(card: Path, place: Path) -> None:
    for section in ("ida", "decision", "measured"):
        replace_section(card, section, None)
    with pytest.raises(ModelError, match="has no anchors: `facestream anchors build"):
        call("verify", "--pack", card, "--gallery", place)


@pytest.mark.parametrize("command", ["build", "list", "verify"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: facestream anchors {command}" in call(command, "--help").output
