"""Densities of templates: computed once, kept per model, gone when the template changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from facestream.models.ida import Anchors
from facestream.stream import gallery_density
from facestream.stream.gallery import Gallery
from facestream.stream.known import KnownPeople

from .test_gallery import EMBEDDER, add

C = 4
ANCHORS = Anchors(np.eye(C, dtype=np.float32), version="v1", k=2, tau=1.0)


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    with Gallery.open(place, create=True) as opened:
        add(opened, "Anna", [1, 0, 0, 0], "a1")
        add(opened, "Bob", [0, 1, 1, 0], "b1")
        yield opened


def kept(gallery: Gallery, model: Anchors = ANCHORS) -> dict[str, float]:
    templates = gallery.templates("open", EMBEDDER, model=model)
    return dict(zip(templates.names, templates.densities.tolist(), strict=True))


def test_each_is_computed_once_and_is_no_change_of_the_gallery(gallery: Gallery) -> None:
    assert np.isnan(list(kept(gallery).values())).all()
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 2
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 0
    # r = log mean exp(tau s): Anna's two nearest anchors have cosines 1 and 0, Bob's both 1/sqrt 2.
    assert kept(gallery) == pytest.approx({"Anna": np.log((np.e + 1) / 2), "Bob": 0.5**0.5})
    assert gallery.version() == len(gallery.history()) == 2
    add(gallery, "Carl", [0, 0, 0, 1])
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 1


def test_another_photo_changes_the_template_and_so_the_density(gallery: Gallery) -> None:
    gallery.measure("open", EMBEDDER, ANCHORS)
    add(gallery, "Anna", [0, 1, 0, 0], "a2")
    found = kept(gallery)
    assert np.isnan(found["Anna"]) and found["Bob"] == pytest.approx(0.5**0.5)
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 1
    assert kept(gallery)["Anna"] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("other", [{"version": "v2"}, {"k": 3}, {"tau": 2.0}])
def test_densities_of_different_models_are_kept_apart(gallery: Gallery, other: dict) -> None:  # type: ignore[type-arg]
    model = replace(ANCHORS, **other)
    gallery.measure("open", EMBEDDER, ANCHORS)
    before = kept(gallery)
    assert np.isnan(list(kept(gallery, model).values())).all()
    assert gallery.measure("open", EMBEDDER, model) == 2
    vectors = gallery.templates("open", EMBEDDER).vectors
    np.testing.assert_allclose(list(kept(gallery, model).values()), model.density(vectors))
    assert kept(gallery) == before
    assert gallery.measure("other", EMBEDDER, ANCHORS) == 0


def test_a_template_that_changes_while_it_is_measured_gets_no_stale_density(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Anchors.template_density

    def interrupted(self: Anchors, vectors: np.ndarray) -> np.ndarray:
        monkeypatch.undo()
        add(gallery, "Anna", [0, 1, 0, 0], "a2")
        gallery.remove("Bob")
        add(gallery, "Carl", [0, 0, 0, 1])
        return whole(self, vectors)

    monkeypatch.setattr(Anchors, "template_density", interrupted)
    measured = gallery.measure("open", EMBEDDER, ANCHORS)  # Carl, where his row comes behind Bob's
    found = kept(gallery)
    assert np.isnan(found["Anna"]) and measured == (not np.isnan(found["Carl"]))
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 2 - measured
    vectors = gallery.templates("open", EMBEDDER).vectors
    np.testing.assert_allclose(list(kept(gallery).values()), ANCHORS.density(vectors))


def test_rows_that_are_numbered_again_are_not_taken_for_the_old_ones(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Anchors.template_density

    def interrupted(self: Anchors, vectors: np.ndarray) -> np.ndarray:
        monkeypatch.undo()
        gallery.remove("Bob")  # the last row of every table: SQLite gives its numbers to Carl
        add(gallery, "Carl", [0, 0, 0, 1])
        return whole(self, vectors)

    monkeypatch.setattr(Anchors, "template_density", interrupted)
    measured = gallery.measure("open", EMBEDDER, ANCHORS)
    found = list(kept(gallery).values())
    own = ANCHORS.density(gallery.templates("open", EMBEDDER).vectors)
    assert found[0] == pytest.approx(own[0])
    # Carl's own, where rows are never numbered again and he came behind; and none else.
    assert measured == 1 if np.isnan(found[1]) else found[1] == pytest.approx(own[1])


def test_a_matcher_uses_what_is_kept_and_computes_the_rest(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    whole = Anchors.template_density

    def counted(self: Anchors, vectors: np.ndarray) -> np.ndarray:
        computed.append(len(vectors))
        return whole(self, vectors)

    def scores() -> list[float]:
        with KnownPeople(
            gallery, pack="open", embedder=EMBEDDER, dimension=C, anchors=ANCHORS
        ) as known:
            _, index, names, _ = known()
        probe = np.full((1, C), 0.5, np.float32)
        (hits,) = index.search(probe, 3)
        return [score for _, score in sorted((names[h.identity], h.score) for h in hits)]

    before = scores()
    gallery.measure("open", EMBEDDER, ANCHORS)
    monkeypatch.setattr(Anchors, "template_density", counted)
    assert scores() == pytest.approx(before)
    assert computed == []
    add(gallery, "Carl", [0, 0, 0, 1])
    assert len(scores()) == 3
    assert computed == [1]


def test_nothing_of_the_erased_is_kept(gallery: Gallery) -> None:
    gallery.measure("open", EMBEDDER, ANCHORS)
    gallery.remove("Anna")
    assert set(kept(gallery)) == {"Bob"}
    add(gallery, "Anna", [0, 0, 0, 1], "a3")
    assert np.isnan(kept(gallery)["Anna"])


def test_a_large_gallery_is_measured_bit_by_bit(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_density, "AT_ONCE", 2)
    for number in range(5):
        add(gallery, f"P{number}", [1, number, 0, 0], f"p{number}")
    whole, sizes = Anchors.template_density, []

    def counted(self: Anchors, vectors: np.ndarray) -> np.ndarray:
        sizes.append(len(vectors))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return whole(self, vectors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Anchors, "template_density", counted)
        gallery.measure("open", EMBEDDER, ANCHORS)
    assert sizes == [2, 2, 2]
    assert np.isnan(list(kept(gallery).values())).sum() == 3  # what was kept is not lost
    assert gallery.measure("open", EMBEDDER, ANCHORS) == 3
    vectors = gallery.templates("open", EMBEDDER).vectors
    np.testing.assert_allclose(list(kept(gallery).values()), ANCHORS.density(vectors))


def test_densities_of_models_that_are_out_of_use_can_be_dropped(gallery: Gallery) -> None:
    newer = replace(ANCHORS, version="v2")
    for model in (ANCHORS, newer):
        gallery.measure("open", EMBEDDER, model)
    assert gallery.forget_densities("other", EMBEDDER, but=[newer]) == 0
    assert gallery.forget_densities("open", EMBEDDER, but=[newer]) == 2
    assert np.isnan(list(kept(gallery).values())).all()
    assert not np.isnan(list(kept(gallery, newer).values())).any()
    assert gallery.version() == 2
