""" "Not this person" marks: kept with the person, and followed by the matcher at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from facestream import GalleryError, UnknownIdentity
from facestream.configs.schema import MatchConfig
from facestream.models.pack import Pack
from facestream.models.photo import describe_face, find_faces, tallest_face
from facestream.models.search import SearchIndex
from facestream.stream.gallery import Gallery
from facestream.stream.gallery_archive import Archive, read_archive, write_archive
from facestream.stream.gallery_engine import locate
from facestream.stream.gallery_records import Change
from facestream.stream.known import KnownPeople
from facestream.stream.match import GalleryIndex, MatchStage
from facestream.stream.negatives import Negatives
from facestream.stream.records import FrameRef, Template, TrackKey, TrackTemplate
from facestream.stream.thresholds import DecisionNumbers, PackRules

from .test_gallery import EMBEDDER, add

FRAME = FrameRef("door", 1, 0.04, 1e9, 640, 360)
LOOK_ALIKE = np.array([0.8, 0.1, 0.6], np.float32)
UNIT = np.float32(np.linalg.norm(LOOK_ALIKE))
RULES = PackRules(MatchConfig(score="cosine"), DecisionNumbers(0.5, 0.5))


@pytest.fixture
def gallery(place: str) -> Iterator[Gallery]:
    """Anna and Bert, on the first two axes: version 2."""
    with Gallery.open(place, create=True) as opened:
        add(opened, "Anna", [1, 0, 0])
        add(opened, "Bert", [0, 1, 0])
        yield opened


def probe(vector: np.ndarray, track: int = 1) -> TrackTemplate:
    unit = (vector / np.linalg.norm(vector)).astype(np.float32)
    return TrackTemplate(TrackKey("door", "e1", track), FRAME, Template(unit, 5, 0.1, 0.5, 0.9, ()))


def mark(gallery: Gallery, vector: np.ndarray = LOOK_ALIKE, **more: str):  # type: ignore[no-untyped-def]
    values = {"pack": "open", "embedder": EMBEDDER, "source": "door.jpg", **more}
    return gallery.mark_not("Anna", vector, **values)


# --- the store ---


def test_a_mark_is_a_change_that_the_audit_trail_tells_without_a_name(gallery: Gallery) -> None:
    before = gallery.version()
    made = mark(gallery, notes="her sister")
    assert (gallery.version(), made.name, made.source) == (before + 1, "Anna", "door.jpg")
    assert gallery.marks() == gallery.marks("Anna") == (made,) and gallery.marks("Bert") == ()
    assert (made.notes, len(made.id), made.pack) == ("her sister", 32, "open") and made.actor
    entry = gallery.history()[-1]
    assert (entry.action, entry.name, entry.details) == ("not", "Anna", "marked, pack open")
    assert mark(gallery, 2.0 * LOOK_ALIKE) == made  # the same face is marked once
    assert gallery.version() == before + 1


def test_a_mark_can_be_taken_back_by_the_beginning_of_its_id(gallery: Gallery) -> None:
    made = mark(gallery)
    assert gallery.unmark_not(made.id[:6]) == made
    assert gallery.marks() == () and gallery.history()[-1].details == "taken back, pack open"
    with pytest.raises(GalleryError, match="there is no mark"):
        gallery.unmark_not(made.id)
    with pytest.raises(GalleryError, match="there is no mark ''"):
        gallery.unmark_not("")


def test_what_can_be_no_mark_is_refused(gallery: Gallery) -> None:
    before = gallery.version()
    with pytest.raises(UnknownIdentity, match="nearest name is Anna"):
        gallery.mark_not("Ana", LOOK_ALIKE, pack="open", embedder=EMBEDDER, source="x")
    with pytest.raises(GalleryError, match="have 3 numbers, got 2"):
        mark(gallery, np.ones(2, np.float32))
    with pytest.raises(GalleryError, match="finite and not zero"):
        mark(gallery, np.zeros(3, np.float32))
    assert gallery.version() == before and gallery.marks() == ()


def test_marks_go_with_the_person(gallery: Gallery, place: str) -> None:
    mark(gallery)
    gallery.remove("Anna")
    engine = create_engine(locate(place, create=False))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM negative")).scalar_one() == 0
    engine.dispose()
    assert gallery.roster("open").negatives == {}


def test_marks_that_show_somebody_who_is_erased_go_too(gallery: Gallery) -> None:
    add(gallery, "Her sister", LOOK_ALIKE.tolist())
    add(gallery, "Carl", [0, 0, 1])
    hers = mark(gallery, LOOK_ALIKE + np.float32(0.01))
    of_a_stranger = mark(gallery, np.array([0.8, 0.5, 0.1], np.float32))
    gallery.remove("Carl")
    assert gallery.marks() == (hers, of_a_stranger)
    gallery.edit("Her sister", Change(keep_until=1.0))
    assert gallery.purge() == ("Her sister",)
    assert gallery.marks() == (of_a_stranger,)


def test_a_mark_follows_the_person_and_not_the_name(gallery: Gallery) -> None:
    mark(gallery)
    gallery.edit("Anna", Change(name="Anna Smith"))
    assert [one.name for one in gallery.marks()] == ["Anna Smith"]
    assert list(gallery.roster("open").negatives) == ["Anna Smith"]


def test_marks_of_another_embedder_are_not_compared(gallery: Gallery) -> None:
    mark(gallery, pack="omz", embedder="b" * 64)
    assert gallery.roster("open", EMBEDDER).negatives == {}
    assert gallery.roster("omz", "b" * 64).negatives["Anna"].shape == (1, 3)


# --- in archives ---


def test_marks_travel_with_the_person(gallery: Gallery, tmp_path: Path) -> None:
    made = mark(gallery, notes="her sister")
    mark(gallery, pack="omz", embedder="b" * 64)  # an embedder that nobody is enrolled with
    gallery.export(tmp_path / "people.zip")
    with Gallery.temporary() as other:
        assert other.import_archive(tmp_path / "people.zip").marks == 1  # one face is marked once
        assert other.marks() == other.show("Anna").marks == (made,)
        assert other.show("Bert").marks == ()
        here, there = (g.roster("open").negatives["Anna"] for g in (gallery, other))
        np.testing.assert_array_equal(here, there)


def test_two_packs_that_marked_a_face_travel_side_by_side(gallery: Gallery, tmp_path: Path) -> None:
    mark(gallery)
    mark(gallery, LOOK_ALIKE[::-1], pack="omz", embedder="b" * 64)
    gallery.export(tmp_path / "people.zip")
    with Gallery.temporary() as other:
        assert other.import_archive(tmp_path / "people.zip").marks == 2
        assert other.marks() == gallery.marks()
        assert other.packs.in_use() == gallery.packs.in_use()


def test_a_mark_whose_id_another_one_has_gets_a_new_one(gallery: Gallery, tmp_path: Path) -> None:
    made = mark(gallery)
    gallery.export(tmp_path / "people.zip")
    content = read_archive(tmp_path / "people.zip").content
    with Gallery.temporary() as other:
        other.import_archive(tmp_path / "people.zip")
        # The same archive, of somebody else.
        anna = msgspec.structs.replace(content.people[0], id="1" * 32, name="Zoë", samples=())
        row = msgspec.structs.replace(anna.marks[0], block=0, row=0)
        anna = msgspec.structs.replace(anna, marks=(row,))
        people = msgspec.structs.replace(content, people=(anna,))
        write_archive(tmp_path / "zoe.zip", Archive(people, (LOOK_ALIKE[None] / UNIT,)))
        assert other.import_archive(tmp_path / "zoe.zip").marks == 1
        mine, hers = other.marks()
        assert mine == made and hers.name == "Zoë" and hers.id != made.id


def test_marks_of_who_was_erased_do_not_come_back(gallery: Gallery, tmp_path: Path) -> None:
    add(gallery, "Her sister", LOOK_ALIKE.tolist())
    hers = mark(gallery, LOOK_ALIKE + np.float32(0.01))
    of_a_stranger = mark(gallery, np.array([0.8, 0.5, 0.1], np.float32))
    gallery.export(tmp_path / "people.zip")
    gallery.remove("Anna")
    assert gallery.import_archive(tmp_path / "people.zip", skip=True).marks == 0
    assert gallery.marks() == ()
    # Anna is wanted back; her sister, whom one of the marks shows, was erased and is not.
    with Gallery.open(tmp_path / "other.db", create=True) as other:
        other.import_archive(tmp_path / "people.zip")
        assert set(other.marks()) == {hers, of_a_stranger}
        other.remove("Anna")
        other.remove("Her sister")
        assert other.import_archive(tmp_path / "people.zip", skip=True).people == 0
        assert other.import_archive(tmp_path / "people.zip", skip=True, erased=True).people == 2
        assert set(other.marks()) == {hers, of_a_stranger}


def test_a_mark_of_an_erased_face_stays_away_when_others_come(
    gallery: Gallery, tmp_path: Path
) -> None:
    add(gallery, "Her sister", LOOK_ALIKE.tolist())
    mark(gallery, LOOK_ALIKE + np.float32(0.01))
    of_a_stranger = mark(gallery, np.array([0.8, 0.5, 0.1], np.float32))
    gallery.export(tmp_path / "people.zip")
    with Gallery.temporary() as other:  # which knew her sister alone, and erased her
        content = read_archive(tmp_path / "people.zip")
        sister = [one for one in content.content.people if one.name == "Her sister"]
        rows = (content.vectors[0][[sister[0].samples[0].embeddings[0].row]],)
        alone = msgspec.structs.replace(sister[0].samples[0].embeddings[0], row=0)
        photo = msgspec.structs.replace(sister[0].samples[0], embeddings=(alone,))
        sister[0] = msgspec.structs.replace(sister[0], samples=(photo,))
        people = msgspec.structs.replace(content.content, people=tuple(sister))
        write_archive(tmp_path / "sister.zip", Archive(people, rows))
        other.import_archive(tmp_path / "sister.zip")
        other.remove("Her sister")
        assert other.import_archive(tmp_path / "people.zip", skip=True).people == 2
        assert other.marks() == (of_a_stranger,)


# --- the rule ---


def test_who_was_marked_is_not_named_and_the_person_still_is(gallery: Gallery) -> None:
    with KnownPeople(
        gallery, pack="open", embedder=EMBEDDER, dimension=3, anchors=None, look_seconds=0.02
    ) as known:
        stage = MatchStage(known, MatchConfig(score="cosine"), RULES)
        ask = [probe(LOOK_ALIKE, 1), probe(np.array([0.9, 0.1, 0.2]), 2)]
        assert [stage.decide([one])[0].identity for one in ask] == ["Anna", "Anna"]
        mark(gallery)
        while known()[0] != gallery.version():
            pass
        (other,), (anna,) = (stage.decide([one]) for one in ask)
        assert (other.identity, anna.identity) == (None, "Anna")
        assert [c.identity for c in other.candidates] == ["Bert"]  # no candidate at all
        assert other.gallery_version == gallery.version()


def test_the_next_best_may_be_named() -> None:
    names = ("Anna", "Bert")
    index = SearchIndex(np.eye(3, dtype=np.float32)[:2], np.arange(2))
    face = np.array([0.75, 0.6, 0.28], np.float32)
    marked = Negatives({"Anna": (face / np.linalg.norm(face))[None]})
    stage = MatchStage(
        lambda: GalleryIndex(1, index, names, marked),
        MatchConfig(score="cosine", top_k=1),
        RULES,
    )
    (match,) = stage.decide([probe(face)])
    assert match.identity == "Bert" and [c.identity for c in match.candidates] == ["Bert"]


UNITS = st.integers(0, 10_000).map(
    lambda seed: (lambda v: v / np.linalg.norm(v))(
        np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    )
)


@settings(max_examples=60, deadline=None)
@given(template=UNITS, face=UNITS, other=UNITS)
def test_nearer_to_whom_decides_and_a_mark_more_never_lets_somebody_in(
    template: np.ndarray, face: np.ndarray, other: np.ndarray
) -> None:
    one = Negatives({"Anna": face[None]})
    two = Negatives({"Anna": np.stack([face, other])})
    assert one.exclude("Anna", face, float(face @ template) - 1e-6)  # whoever was marked
    if float(face @ template) < 1.0 - 1e-5:
        assert not one.exclude("Anna", template, 1.0)  # the person, as enrolled
    for vector in (template, face, other):
        cosine = float(vector @ template)
        assert not one.exclude("Bert", vector, cosine)
        assert two.exclude("Anna", vector, cosine) or not one.exclude("Anna", vector, cosine)


def test_a_real_look_alike_is_not_taken_for_the_person_again(
    assets: Path, open_models: Pack
) -> None:
    """Of some London people the two who are most alike: one is enrolled, the other marked."""

    def embed(kind: str, number: str, expression: str) -> np.ndarray:
        image = cv2.imread(str(assets / "london" / kind / f"{number}_{expression}.jpg"))
        face = tallest_face(find_faces(open_models.detector, image))
        assert face is not None
        described = describe_face(open_models, image, face)
        return np.asarray(described.embedding / described.norm, np.float32)

    files = sorted((assets / "london" / "gallery_neutral").glob("*.jpg"))[:12]
    numbers, expression = [file.stem[:3] for file in files], files[0].stem[4:]
    smile = next((assets / "london" / "probe_smiling").glob("*.jpg")).stem[4:]
    neutral = np.stack([embed("gallery_neutral", n, expression) for n in numbers])
    smiling = np.stack([embed("probe_smiling", n, smile) for n in numbers])
    cosines = neutral @ smiling.T - 2.0 * np.eye(len(numbers))
    person, other = np.unravel_index(cosines.argmax(), cosines.shape)

    index = SearchIndex(neutral[[person]], np.arange(1))
    threshold = float(cosines[person, other]) - 0.001  # as low as it takes to be mistaken
    config = MatchConfig(score="cosine", threshold=threshold)
    found = {}
    for marked in (Negatives({}), Negatives({"the person": neutral[[other]]})):
        stage = MatchStage(
            lambda marked=marked: GalleryIndex(1, index, ("the person",), marked),  # type: ignore[misc]
            config,
            PackRules(config, DecisionNumbers(threshold, threshold)),
        )
        found[marked] = [stage.decide([probe(smiling[n])])[0].identity for n in (person, other)]
    assert list(found.values()) == [["the person", "the person"], ["the person", None]]
