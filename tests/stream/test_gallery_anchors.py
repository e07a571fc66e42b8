"""Whether anchors fit a gallery: who looks like one, and whose density is another's."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facestream import RecordError
from facestream.models.ida import Anchors
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_anchors import Verified, verify_anchors

from .test_gallery import EMBEDDER, add

ANCHORS = Anchors(np.eye(4, dtype=np.float32), version="v1", k=2, tau=1.0)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "gallery.db", create=True) as opened:
        yield opened


def verify(gallery: Gallery, bar: float = 0.9, anchors: Anchors = ANCHORS) -> Verified:
    return verify_anchors(gallery, anchors, pack="open", embedder=EMBEDDER, bar=bar)


def test_somebody_among_the_anchors_is_told(gallery: Gallery) -> None:
    add(gallery, "Anna", [0, 0, 1, 0.1])
    add(gallery, "Bob", [1, 1, 0, 0])
    add(gallery, "Carl", [0, 0, 1, 0], pack="omz")
    gallery.measure("open", EMBEDDER, ANCHORS)
    found = verify(gallery)
    assert (found.people, found.unmeasured, found.wrong) == (2, 0, ())
    assert [(one.name, one.anchor) for one in found.alike] == [("Anna", 2)]
    assert found.alike[0].cosine == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    assert not found.holds and verify(gallery, bar=0.999).holds


def test_the_density_that_is_kept_leaves_out_the_persons_own_anchor(gallery: Gallery) -> None:
    add(gallery, "Anna", [0, 0, 1, 0.1])
    add(gallery, "Bob", [1, 1, 0, 0])
    gallery.measure("open", EMBEDDER, ANCHORS)
    apart = dataclasses.replace(ANCHORS, own=0.9)
    assert verify(gallery, anchors=apart).unmeasured == 2  # what is kept is of another rule
    assert gallery.measure("open", EMBEDDER, apart) == 2
    found = gallery.templates("open", EMBEDDER, model=apart)
    others = Anchors(np.eye(4, dtype=np.float32)[[0, 1, 3]], version="v1", k=2, tau=1.0)
    np.testing.assert_allclose(found.densities[:1], others.density(found.vectors[:1]), atol=1e-7)
    np.testing.assert_allclose(found.densities[1:], ANCHORS.density(found.vectors[1:]), atol=1e-7)
    verified = verify(gallery, anchors=apart)
    assert not verified.wrong and [one.name for one in verified.alike] == ["Anna"]


def test_densities_that_are_not_the_anchors_are_told(gallery: Gallery) -> None:
    for number, name in enumerate(("Anna", "Bob", "Carl")):
        add(gallery, name, [1, 1, number, 0])
        if name == "Bob":
            gallery.measure("open", EMBEDDER, ANCHORS)
    assert verify(gallery).unmeasured == 1 and verify(gallery).holds
    database = sqlite3.connect(gallery.place)
    database.execute("UPDATE density SET value = value + 0.01 WHERE identity_id = 2")
    database.commit()
    database.close()
    found = verify(gallery)
    assert found.wrong == ("Bob",) and not found.holds
    gallery.forget_densities("open", EMBEDDER, but=[])
    gallery.measure("open", EMBEDDER, ANCHORS)
    found = verify(gallery)
    assert found.holds and (found.unmeasured, found.wrong) == (0, ())


def test_an_empty_gallery_holds_and_other_dimensions_are_refused(gallery: Gallery) -> None:
    assert verify(gallery).holds and verify(gallery).people == 0
    add(gallery, "Anna", [1, 0, 0])
    with pytest.raises((RecordError, ValueError)):
        verify(gallery)
