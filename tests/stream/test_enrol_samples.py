"""Several samples in one step: `Gallery.add_samples`, which bulk enrolment stores with."""

from __future__ import annotations

import numpy as np
import pytest

from facestream import EnrolmentRefused, GalleryError
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change, NewSample


def sample(name: str, number: int, *, length: int = 4, change: Change | None = None) -> NewSample:
    vector = np.zeros(length, np.float32)
    vector[number % length] = 2.0
    return NewSample(
        identity=name,
        embedding=vector,
        norm=2.0,
        quality=1.0,
        source=f"{number}.jpg",
        digest=f"{number:064x}",
        change=change,
    )


def add(gallery: Gallery, *new: NewSample) -> tuple[bool | EnrolmentRefused, ...]:
    return gallery.add_samples(new, pack="p", embedder="e").answers


def test_several_samples_are_one_change_and_one_line_for_each_person() -> None:
    with Gallery.temporary() as gallery:
        assert add(gallery, sample("A", 0), sample("A", 1), sample("B", 2)) == (True, True, True)
        assert gallery.version() == 1
        assert [(e.name, e.action, e.version) for e in gallery.history()] == [
            ("A", "enrol", 1),
            ("B", "enrol", 1),
        ]
        assert add(gallery, sample("A", 1)) == (False,)
        assert add(gallery) == ()
        assert gallery.version() == 1
        assert gallery.holders([f"{n:064x}" for n in (1, 2, 3)], pack="p", embedder="e") == {
            f"{1:064x}": "A",
            f"{2:064x}": "B",
        }
        assert gallery.holders([f"{1:064x}"], pack="p", embedder="other") == {}


def test_the_versions_before_and_after_are_told() -> None:
    with Gallery.temporary() as gallery:
        first = gallery.add_samples(
            [sample("A", 0, change=Change(notes="x"))], pack="p", embedder="e"
        )
        assert first == ((True,), 0, 2)
        again = gallery.add_samples([sample("A", 0)], pack="p", embedder="e")
        assert again == ((False,), 2, 2)


def test_somebody_elses_photo_is_refused_by_itself_and_makes_nobody() -> None:
    with Gallery.temporary() as gallery:
        first, second, third = add(gallery, sample("A", 0), sample("B", 0), sample("C", 1))
        assert (first, third) == (True, True)
        assert isinstance(second, EnrolmentRefused)
        assert "already enrolled as A" in str(second)
        assert [one.name for one in gallery.identities()] == ["A", "C"]


def test_what_else_is_set_belongs_to_the_same_step() -> None:
    with Gallery.temporary() as gallery:
        add(gallery, sample("A", 0, change=Change(basis="consent 7", labels={"team": "red"})))
        (anna,) = gallery.identities()
        assert (anna.basis, anna.labels) == ("consent 7", {"team": "red"})
        bad = Change(labels={"a=b": "c"})
        with pytest.raises(GalleryError, match="a label's key"):
            add(gallery, sample("B", 1), sample("C", 2, change=bad))
        assert [one.name for one in gallery.identities()] == ["A"]
        refused = add(gallery, sample("B", 0, change=Change(notes="x")))
        assert isinstance(refused[0], EnrolmentRefused)


def test_embeddings_of_other_lengths_and_unusable_ones_add_nothing() -> None:
    with Gallery.temporary() as gallery:
        with pytest.raises(GalleryError, match=r"one length, got \[3, 4\]"):
            add(gallery, sample("A", 0), sample("B", 1, length=3))
        add(gallery, sample("A", 0))
        with pytest.raises(GalleryError, match="have 4 numbers, got 3"):
            add(gallery, sample("B", 1, length=3))
        with pytest.raises(GalleryError, match="must be normalised"):
            sample(" B ", 1)
        with pytest.raises(GalleryError, match="finite and not zero"):
            NewSample(identity="B", embedding=np.zeros(4, np.float32), norm=1.0, quality=1.0,
                      source="", digest="")  # fmt: skip
        assert [one.name for one in gallery.identities()] == ["A"]
