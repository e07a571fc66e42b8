"""Anchors of a pack: from faces and from class weights, nobody twice and nobody who is enrolled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facestream import ModelError, SourceMissing
from facestream.models.card import Card
from facestream.models.card_file import read_card
from facestream.models.pack import load_anchors
from facestream.models.store import load_card
from facestream.train.anchors import Candidates, choose_apart, read_weights, write_anchors

C = 128  # of the pack open


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A pack of one's own: the card of open without what was fitted to other anchors."""
    text = load_card("open").path.read_text(encoding="utf-8")
    kept = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line[:1] not in (" ", "\n", "#", "-"):
            inside = line.split(":")[0] in ("fusion", "ida", "decision", "measured", "strangers")
        kept += [] if inside else [line]
    (tmp_path / "mine.yaml").write_text("".join(kept).replace("name: open", "name: mine", 1))
    return read_card(tmp_path / "mine.yaml")


def weights(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, C)).astype(np.float32)


def test_class_weights_become_anchors_of_a_new_version(card: Card, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", 3 * weights(40))
    found = read_weights(card, tmp_path / "w.npy", every=2)
    assert found.names[:2] == ("class 0", "class 2") and len(found.vectors) == 20
    report = write_anchors(card, found, attribution="mine")
    written = read_card(card.path)
    assert written.ida is not None
    assert written.ida.anchor_version == report.version and written.ida.attribution == "mine"
    anchors = load_anchors(written)
    assert anchors is not None and anchors.shape == (20, C) == (report.kept, report.dimension)
    rows = weights(40)[::2]
    np.testing.assert_allclose(
        anchors, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-3
    )
    other = write_anchors(card, found._replace(vectors=found.vectors[::-1].copy()))
    assert other.version != report.version


def test_an_npz_of_one_array_is_read_too(card: Card, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", fc=weights(12))
    assert len(read_weights(card, tmp_path / "w.npz").vectors) == 12


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (np.zeros((12, C - 1), np.float32), rf"expected class weights \(classes, {C}\).*127"),
        (np.ones((12, C), np.int64), "int64"),
        (np.zeros((12, C), np.float32), "zero or not finite"),
        (np.full((12, C), np.nan, np.float32), "zero or not finite"),
        (np.array([{}], dtype=object), "is not an .npy"),
        (b"no array", "is not an .npy"),
    ],
)
def test_what_is_no_class_weights_is_refused(
    card: Card, tmp_path: Path, content: np.ndarray | bytes, match: str
) -> None:
    path = tmp_path / "w.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(SourceMissing, match=match):
        read_weights(card, path)


def test_two_arrays_are_not_guessed_between(card: Card, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=weights(12), b=weights(12))
    with pytest.raises(SourceMissing, match="holds 2 arrays"):
        read_weights(card, tmp_path / "w.npz")


def test_nobody_is_an_anchor_twice_or_enrolled(card: Card, tmp_path: Path) -> None:
    rows = weights(30)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[7] = rows[3]
    found = Candidates(rows, tuple(f"{row}.png" for row in range(30)), 2)
    chosen, alike = choose_apart(found, 0.9, {"Anna": rows[5], "Bob": -rows[5]})
    assert [(one.name, one.like) for one in alike] == [("7.png", "3.png"), ("5.png", "Anna")]
    assert len(chosen.vectors) == 28 and not {"5.png", "7.png"} & set(chosen.names)
    report = write_anchors(card, chosen, alike=alike)
    assert (report.kept, report.refused, report.alike) == (28, 2, alike)
    few, gone = choose_apart(found._replace(vectors=rows[[0] * 30]), 0.9)
    with pytest.raises(ModelError, match=r"gave 1 usable faces.*29 looked like others"):
        write_anchors(card, few, alike=gone)
    assert load_anchors(read_card(card.path)) is not None  # those before stay
