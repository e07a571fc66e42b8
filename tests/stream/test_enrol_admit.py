"""Who may be enrolled as whom, given who is in the gallery already; templates of sightings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from facestream import EnrolmentRefused, GalleryError
from facestream.configs.schema import EnrolConfig
from facestream.models.search import false_positive_probability
from facestream.stream.enrol_admit import Admission, Offered, duplicate_score, enrol_template
from facestream.stream.enrol_records import PhotoResult
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_records import Change

Floats = npt.NDArray[np.float32]
DECISION = SimpleNamespace(
    cosine_threshold=0.7, impostor_cosine_centre=0.1, impostor_cosine_spread=0.05
)


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    with Gallery.temporary() as opened:
        yield opened


def card(decision: object = DECISION) -> Any:
    embedder = SimpleNamespace(file="net")
    return SimpleNamespace(
        name="p", checksum={"net": "e"}.get, embedder=embedder, decision=decision
    )


def rules(duplicates: Literal["refuse", "merge", "add"] = "refuse", **more: Any) -> EnrolConfig:
    return EnrolConfig(duplicates=duplicates, **more)


def at(cosine: float, *, third: float = 0.0) -> Floats:
    """A vector whose cosine with `at(1)` is this one."""
    rest = (1 - cosine**2 - third**2) ** 0.5
    return 3.0 * np.array([cosine, rest, third, 0.0], np.float32)


def offer(name: str, vector: Floats, number: int, **more: Any) -> Offered:
    digest = f"{number:064x}"
    return Offered(name, f"{name} {number}", f"{number}.jpg", digest, vector, 3.0, 1.0, **more)


def admit(
    gallery: Gallery, *offered: Offered, rules: EnrolConfig | None = None
) -> list[PhotoResult]:
    return Admission(gallery, card(), rules or EnrolConfig()).admit(offered)


def people(gallery: Gallery) -> dict[str, int]:
    return {one.name: one.samples for one in gallery.identities()}


@pytest.mark.parametrize("together", [True, False])
def test_a_new_person_who_looks_like_somebody_is_refused_in_words(
    gallery: Gallery, together: bool
) -> None:
    first, second = offer("ANNA", at(1), 1), offer("Bob", at(0.71), 2)
    if together:
        _, result = admit(gallery, first, second)
    else:
        admit(gallery, first)
        (result,) = admit(gallery, second)
    assert (result.status, result.cause) == ("refused", "looks like somebody else")
    assert result.reason.startswith("looks like ANNA at 0.71: merge, add or refuse?")
    assert people(gallery) == {"ANNA": 1}


def test_below_the_packs_threshold_somebody_is_new(gallery: Gallery) -> None:
    assert [one.status for one in admit(
        gallery, offer("ANNA", at(1), 1), offer("Bob", at(0.69), 2)
    )] == ["enrolled", "enrolled"]  # fmt: skip


def test_without_a_fitted_threshold_nobody_looks_like_anybody(gallery: Gallery) -> None:
    both = [offer("ANNA", at(1), 1), offer("Bob", at(1), 2)]
    results = Admission(gallery, card(None), rules()).admit(both)
    assert [one.status for one in results] == ["enrolled", "enrolled"]


def test_merge_enrols_all_faces_of_the_name_as_the_person_it_looks_like(gallery: Gallery) -> None:
    _, second, third, again = admit(
        gallery,
        offer("ANNA", at(1), 1),
        offer("Bob", at(0.9), 2, change=Change(notes="of Bob")),
        offer("Bob", at(0.6), 3),
        offer("Bob", at(0.9), 2),
        rules=rules("merge"),
    )
    assert (second.identity, second.status) == ("ANNA", "enrolled")
    assert second.remark == "Bob looks like ANNA at 0.80: merged"
    assert (third.identity, third.status) == ("ANNA", "enrolled")
    assert (again.identity, again.status) == ("ANNA", "known")
    assert people(gallery) == {"ANNA": 3}
    assert gallery.show("ANNA").identity.notes == ""


def test_somebody_new_is_compared_by_all_their_faces_together(gallery: Gallery) -> None:
    """On average, which decides for all: one face alone would pass here, and there be refused."""
    admit(gallery, offer("ANNA", at(1), 1))
    results = admit(gallery, offer("Bob", at(0.66), 2), offer("Bob", at(0.9), 3))
    assert results[0].reason.startswith("looks like ANNA at 0.78")
    assert results[1].status == "refused"
    results = admit(gallery, offer("Cid", at(0.72), 4), offer("Cid", at(0.5), 5))
    assert [one.status for one in results] == ["enrolled", "enrolled"]
    assert people(gallery) == {"ANNA": 1, "Cid": 2}


def test_add_enrols_somebody_new_and_says_whom_they_look_like(gallery: Gallery) -> None:
    _, second = admit(
        gallery, offer("ANNA", at(1), 1), offer("Bob", at(0.9), 2), rules=rules("add")
    )
    assert (second.status, second.remark) == ("enrolled", "looks like ANNA at 0.90")
    assert people(gallery) == {"ANNA": 1, "Bob": 1}
    # Twins may have more photos: theirs are nearer to themselves.
    (more,) = admit(gallery, offer("Bob", at(0.88), 3))
    assert more.status == "enrolled"
    assert more.remark.startswith("looks like ANNA at 0.88, and like Bob at 1.00")


def test_other_faces_of_a_refused_name_are_refused_in_the_same_run_only(gallery: Gallery) -> None:
    admission = Admission(gallery, card(), rules())
    results = admission.admit(
        [offer("ANNA", at(1), 1), offer("Bob", at(0.9), 2), offer("Bob", at(0.6), 3)]
    )
    assert results[2].reason.startswith("an earlier face of theirs looks like ANNA at 0.75")
    admission.begin()
    assert admission.admit([offer("Bob", at(0.6), 3)])[0].status == "enrolled"


def test_a_face_that_is_more_like_another_person_is_refused(gallery: Gallery) -> None:
    admit(gallery, offer("ANNA", at(1), 1), offer("Bob", at(0.5), 2))
    wrong = offer("Bob", at(0.95), 3)
    (result,) = admit(gallery, wrong, rules=rules("merge"))
    assert result.reason.startswith("looks like ANNA at 0.95, and like Bob at 0.7")
    (taken,) = admit(gallery, wrong, rules=rules("add"))
    assert taken.status == "enrolled" and "looks like ANNA at 0.95" in taken.remark
    assert people(gallery) == {"ANNA": 1, "Bob": 2}


def test_a_face_unlike_its_own_person_is_enrolled_with_a_remark(gallery: Gallery) -> None:
    admit(gallery, offer("ANNA", at(1), 1))
    (odd,) = admit(gallery, offer("ANNA", at(0.05), 2))
    assert odd.status == "enrolled"
    assert odd.remark.startswith("unlike the faces of ANNA enrolled before (0.05)")
    (fine,) = admit(gallery, offer("ANNA", at(0.6), 3))
    assert fine.remark == ""


def test_a_photo_of_somebody_else_is_a_duplicate_photo(gallery: Gallery) -> None:
    same = admit(gallery, offer("ANNA", at(1), 1), offer("Bob", at(1), 1), rules=rules("add"))[1]
    assert (same.status, same.cause) == ("refused", "duplicate photo")
    assert "already enrolled as ANNA" in same.reason
    known, noted = admit(
        gallery, offer("ANNA", at(1), 1), offer("ANNA", at(1), 1, change=Change(notes="x"))
    )
    assert (known.status, noted.status) == ("known", "known")
    assert gallery.show("ANNA").identity.notes == "x"


def test_the_same_photo_twice_in_a_batch_is_known_the_second_time(gallery: Gallery) -> None:
    twin = offer("ANNA", at(1), 1, change=Change(basis="consent 7"))
    assert [one.status for one in admit(gallery, twin, twin)] == ["enrolled", "known"]
    assert people(gallery) == {"ANNA": 1}
    assert gallery.show("ANNA").identity.basis == "consent 7"


def test_changes_while_faces_are_judged_are_seen_the_next_time(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else enrols Bob after the gallery was read, and before ANNA is stored."""
    admission = Admission(gallery, card(), rules())
    add_samples = gallery.add_samples

    def late(*args: Any, **more: Any) -> Any:
        monkeypatch.undo()
        admit(gallery, offer("Bob", at(0), 2))
        return add_samples(*args, **more)

    monkeypatch.setattr(gallery, "add_samples", late)
    admission.admit([offer("ANNA", at(1), 1)])
    (result,) = admission.admit([offer("Cid", at(0.1), 3)])
    assert result.reason.startswith("looks like Bob at 0.99")


def test_a_run_alone_reads_the_gallery_once(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = Admission(gallery, card(), rules())
    admission.admit([offer("ANNA", at(1), 1, change=Change(notes="x"))])
    monkeypatch.setattr(gallery, "roster", None)  # reading it again would fail
    (result,) = admission.admit([offer("Bob", at(0.9), 2)])
    assert result.reason.startswith("looks like ANNA at 0.90")


def test_changes_of_other_programs_are_seen(gallery: Gallery) -> None:
    admission = Admission(gallery, card(), rules())
    admission.admit([offer("ANNA", at(1), 1)])
    gallery.remove("ANNA")
    assert admission.admit([offer("Bob", at(1), 2)])[0].status == "enrolled"
    gallery.edit("Bob", Change(name="Robert"))
    (result,) = admission.admit([offer("Bob", at(0.9), 3)])
    assert result.reason.startswith("looks like Robert at 0.90")


def test_whose_time_is_over_gets_no_more_faces(gallery: Gallery) -> None:
    admit(gallery, offer("ANNA", at(1), 1), offer("Bob", at(0), 2))
    gallery.edit("ANNA", Change(valid_until=time.time() - 1))
    gallery.edit("Bob", Change(valid_from=time.time() + 3600))
    (late,) = admit(gallery, offer("ANNA", at(0.9), 3))
    assert (late.status, late.cause) == ("refused", "out of date")
    assert "ANNA expired on" in late.reason and "facestream gallery edit" in late.reason
    (early,) = admit(gallery, offer("Bob", at(0), 4))
    assert early.status == "enrolled"
    (alike,) = admit(gallery, offer("Cid", at(0.1), 5))  # who will be valid is known already
    assert alike.reason.startswith("looks like Bob at 0.99")


def test_the_score_of_look_alikes_can_be_set(gallery: Gallery) -> None:
    results = admit(
        gallery,
        offer("ANNA", at(1), 1),
        offer("Bob", at(0.75), 2),
        rules=rules(duplicate_score=0.8),
    )
    assert results[1].status == "enrolled"


def test_embeddings_of_another_length_are_an_error_and_nothing_is_lost(gallery: Gallery) -> None:
    admit(gallery, offer("ANNA", at(1), 1))
    with pytest.raises(GalleryError, match="have 4 numbers, got 3"):
        admit(gallery, offer("Bob", np.ones(3, np.float32), 2))
    assert people(gallery) == {"ANNA": 1}


def test_the_line_rises_with_the_gallery() -> None:
    numbers: Any = SimpleNamespace(
        cosine_threshold=0.39, impostor_cosine_centre=0.0, impostor_cosine_spread=0.12
    )
    assert duplicate_score(None, 5) is None
    assert duplicate_score(numbers, 0) == duplicate_score(numbers, 1) == 0.39
    lines = [duplicate_score(numbers, people) or 0.0 for people in (100, 10_000, 1_000_000)]
    # Phi(3.718)^100 and Phi(4.753)^10,000 are 0.99.
    np.testing.assert_allclose(lines, [3.718 * 0.12, 4.753 * 0.12, 5.611 * 0.12], atol=1e-3)
    for people, line in zip((100, 10_000, 1_000_000), lines, strict=True):
        chance = false_positive_probability(line, people, 0.0, 0.12)
        assert float(chance) == pytest.approx(0.01, rel=1e-6)


# Templates


def test_a_template_of_a_sighting_is_enrolled(gallery: Gallery) -> None:
    unit = at(1) / np.float32(3)
    result = enrol_template(
        gallery, card(), " Anna ", unit, quality=0.6, source="door, 37 faces",
        change=Change(basis="named on site"),
    )  # fmt: skip
    assert (result.identity, result.status) == ("Anna", "enrolled")
    details = gallery.show("Anna")
    assert (details.samples[0].source, details.identity.basis) == (
        "door, 37 faces",
        "named on site",
    )
    assert details.samples[0].embeddings[0].quality == 0.6
    np.testing.assert_allclose(gallery.templates("p", "e").vectors, [unit], atol=1e-6)
    again = enrol_template(gallery, card(), "Anna", unit, quality=0.6, source="door")
    assert again.status == "known"
    with pytest.raises(EnrolmentRefused, match="already enrolled as Anna"):
        enrol_template(gallery, card(), "Bob", unit, quality=0.6, source="door")


def test_a_template_that_looks_like_somebody_is_refused_or_merged(gallery: Gallery) -> None:
    unit, other = at(1) / np.float32(3), at(0.8) / np.float32(3)
    enrol_template(gallery, card(), "Anna", unit, quality=0.6, source="a")
    with pytest.raises(EnrolmentRefused, match=r"looks like Anna at 0\.80"):
        enrol_template(gallery, card(), "Bob", other, quality=0.6, source="b")
    merged = enrol_template(
        gallery, card(), "Bob", other, quality=0.6, source="b", rules=rules("merge")
    )
    assert merged.identity == "Anna"
    with pytest.raises(EnrolmentRefused, match=r"quality 0.1, at least 0.5 needed"):
        enrol_template(
            gallery, card(), "Bob", unit, quality=0.1, source="b", rules=rules(least_quality=0.5)
        )
    assert people(gallery) == {"Anna": 2}
