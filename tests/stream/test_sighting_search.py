"""Finding faces among sightings, recurring strangers, and giving them names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import EnrolmentRefused, SightingsError, UnknownIdentity, UnknownSighting
from facestream.configs.schema import EnrolConfig, MatchConfig
from facestream.models.fusion import Floats
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.models.store import load_card
from facestream.stream.gallery import Gallery
from facestream.stream.known import KnownPeople
from facestream.stream.match import MatchStage
from facestream.stream.sighting_cluster import (
    MOST_SIGHTINGS,
    assignment_of,
    at_once,
    check_count,
    find_strangers,
    group_pairs,
    score_pairs,
)
from facestream.stream.sighting_naming import SightingNaming, fuse_templates
from facestream.stream.sighting_records import SightingFilter
from facestream.stream.sighting_search import SightingSearch, Yardstick
from facestream.stream.sighting_store import Sightings
from facestream.stream.thresholds import DecisionNumbers, PackRules

from .test_sighting_store import draft, key

CARD = load_card("open")
C = CARD.embedder.dimension
EMBEDDER = CARD.checksum(CARD.embedder.file)
YARD = Yardstick(CARD, None, "cosine", 0.5)
RULES = PackRules(MatchConfig(score="cosine"), DecisionNumbers(threshold=0.5, cosine_threshold=0.5))


@contextmanager
def matching(gallery: Gallery) -> Iterator[MatchStage]:
    """Decisions by cosine, as a run with this gallery takes them."""
    known = KnownPeople(gallery, pack="open", embedder=EMBEDDER, dimension=C, anchors=None)
    with known:
        config = MatchConfig(score="cosine")
        yield MatchStage(known, config, RULES)


def face(person: int, noise: float = 0.0) -> Floats:
    """A unit template of one of several people, who are at right angles; noise: another axis."""
    vector = np.zeros(C, np.float32)
    vector[person], vector[50 + int(1000 * noise) % 40] = 1.0, noise
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def seen(track: int, person: int, noise: float = 0.0, **more: Any) -> Any:
    at = more.pop("at", 1000.0 * track)
    plain = {"embedder": EMBEDDER, "quality_median": 1.0, "quality_min": 0.5, "quality_max": 2.0}
    return draft(track, at, vector=face(person, noise), **plain, **more)


@pytest.fixture
def store() -> Iterator[Sightings]:
    with Sightings.temporary() as opened:
        yield opened


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    with Gallery.temporary() as opened:
        yield opened


@pytest.fixture
def search(store: Sightings) -> SightingSearch:
    return SightingSearch(store, YARD)


@pytest.fixture
def naming(store: Sightings, gallery: Gallery) -> SightingNaming:
    return SightingNaming(store, gallery, YARD, matching)


# Search


def test_a_face_is_found_where_it_was_seen(store: Sightings, search: SightingSearch) -> None:
    store.write(
        [
            seen(1, 0, 0.3),
            seen(2, 1),
            seen(3, 0, 0.1, camera="gate"),
            draft(4, 9000.0),
            seen(5, 0, pack="omz"),
        ]
    )
    found = search.like(face(0), top=2)
    assert [hit.sighting.track for hit in found.hits] == [3, 1]
    assert found.hits[0].score == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    assert (found.searched, found.other_models, found.without_template) == (3, 1, 1)
    assert found.threshold == 0.5
    at_gate = search.like(face(0), wanted=SightingFilter(camera="gate"))
    assert [hit.sighting.track for hit in at_gate.hits] == [3]
    elsewhere = search.like_sighting(key(1)[:8])
    assert [hit.sighting.track for hit in elsewhere.hits] == [3, 2]


def test_without_a_template_there_is_nothing_to_look_for(
    store: Sightings, search: SightingSearch
) -> None:
    store.write([draft(1), seen(2, 0, pack="omz")])
    with pytest.raises(SightingsError, match="is not kept"):
        search.like_sighting(key(1))
    with pytest.raises(SightingsError, match="made by pack omz"):
        search.like_sighting(key(2))
    assert search.like(face(0)).hits == ()
    with pytest.raises(UnknownSighting):
        search.like_sighting("0123")


# Recurring strangers


def test_strangers_recur_and_keep_their_ids(store: Sightings, search: SightingSearch) -> None:
    store.write(
        [
            seen(1, 0, 0.2),
            seen(2, 1, 0.2),
            seen(3, 0, 0.1, camera="gate"),
            seen(4, 2),
            seen(5, 1, 0.3),
            seen(6, 0),
            seen(7, 0, identity="Anna", uid="a" * 32),
        ]
    )
    first, second = search.cluster()
    assert [one.track for one in first.sightings] == [1, 3, 6]
    assert (first.cameras, first.days) == (("door", "gate"), 1)
    assert [one.track for one in second.sightings] == [2, 5]
    assert first.id == f"s-{key(1)[:6]}" and first.cohesion > 0.9
    assert {one.track for one in store.list(SightingFilter(stranger=first.id))} == {1, 3, 6}
    # The oldest goes, others come: whoever has most of the old sightings keeps the id.
    store.erase([key(1)])
    store.write([seen(8, 0, 0.15)])
    again = search.cluster()
    assert [(one.id, len(one.sightings)) for one in again] == [(first.id, 3), (second.id, 2)]
    assert search.cluster() == again
    # Those that are not grouped anew keep theirs.
    assert search.cluster(wanted=SightingFilter(camera="gate")) == ()
    assert {one.stranger for one in store.list(SightingFilter(unknown=True))} == {
        "",
        first.id,
        second.id,
    }
    assert [len(one.sightings) for one in search.cluster()] == [3, 2]


def test_what_makes_a_stranger_recur_is_chosen(store: Sightings, search: SightingSearch) -> None:
    day = 86400.0
    store.write(
        [
            seen(1, 0, at=10 * day + 43200),
            seen(2, 0, at=10 * day + 43900),
            seen(3, 0, at=14 * day + 43200),
            seen(4, 1, at=10 * day, camera="gate"),
            seen(5, 1, at=10 * day + 500),
        ]
    )

    def sizes(**wanted: Any) -> list[int]:
        return [len(one.sightings) for one in search.cluster(**wanted)]

    assert sizes() == [3, 2]
    assert sizes(least=3) == [3]
    assert sizes(apart="day") == [3]
    assert sizes(apart="camera") == [2]
    assert sizes(threshold=1.01) == []
    assert sizes(wanted=SightingFilter(since=11 * day)) == []


def test_two_people_in_one_picture_are_never_one_stranger(
    store: Sightings, search: SightingSearch
) -> None:
    store.write([seen(1, 0, at=1000.0), seen(2, 0, 0.1, at=1002.0), seen(3, 0, 0.05, at=5000.0)])
    (stranger,) = search.cluster()
    assert len(stranger.sightings) == 2
    assert {3} < {one.track for one in stranger.sightings}
    records = store.list()
    assert at_once(records) == [(0, 1)]


@settings(deadline=None, max_examples=30)
@given(
    people=st.lists(st.integers(0, 4), min_size=2, max_size=25),
    seed=st.integers(0, 1000),
    order=st.randoms(use_true_random=False),
)
def test_groups_do_not_depend_on_the_order(people: list[int], seed: int, order: Any) -> None:
    draw = np.random.default_rng(seed)
    vectors = np.stack([face(person) for person in people])
    vectors += draw.normal(0, 0.02, vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shuffled = list(range(len(people)))
    order.shuffle(shuffled)

    def partition(rows: list[int]) -> set[frozenset[int]]:
        groups = group_pairs(len(rows), score_pairs(vectors[rows], None), 0.5)
        return {
            frozenset(row for row, of in zip(rows, groups, strict=True) if of == group)
            for group in groups
        }

    expected = {
        frozenset(at for at, who in enumerate(people) if who == person) for person in people
    }
    assert partition(list(range(len(people)))) == partition(shuffled) == expected


def test_pair_scores_are_those_of_the_search() -> None:
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(700, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = Anchors(vectors[:200], version="test", k=5, tau=8.0)
    for anchors, by in ((model, "ida"), (None, "cosine")):
        condensed = score_pairs(vectors, anchors)
        assert len(condensed) == 700 * 699 // 2
        index = SearchIndex(vectors, np.arange(700), anchors=anchors)
        for row in (0, 511, 512, 650):
            (hits,) = index.search(vectors[row : row + 1], 700, by=by)  # type: ignore[arg-type]
            for hit in hits[1:40]:
                a, b = sorted((row, hit.identity))
                place = a * 700 - a * (a + 1) // 2 + b - a - 1
                assert condensed[place] == pytest.approx(hit.score, abs=2e-6)


def test_too_many_sightings_are_refused_in_words() -> None:
    with pytest.raises(SightingsError, match="choose some by --since"):
        check_count(MOST_SIGHTINGS + 1)


def test_ids_are_told_apart_where_sightings_begin_alike(store: Sightings) -> None:
    store.write([seen(1, 0), seen(2, 0), seen(3, 1), seen(4, 1)])
    records = store.list()
    renamed = [
        type(one)(**{**_fields(one), "id": f"abcdef{place:026x}"})
        for place, one in enumerate(records)
    ]
    scores = score_pairs(np.stack([face(0), face(0), face(1), face(1)]), None)
    groups = group_pairs(4, scores, 0.5)
    strangers = find_strangers(renamed, groups, scores, least=2, apart="track")
    assert len({one.id for one in strangers}) == 2 and len(assignment_of(strangers)) == 4


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


# Naming


def test_a_stranger_is_named_in_one_step_and_found_in_the_past(
    store: Sightings, gallery: Gallery, search: SightingSearch, naming: SightingNaming
) -> None:
    store.write([seen(1, 0, 0.1), seen(2, 0, 0.2), seen(3, 1)])
    (stranger,) = search.cluster()
    store.write([seen(4, 0, 0.3), seen(5, 0, 0.3, reason="open", ended_at=None)])
    named = naming.name(stranger.id, "  Anna  Smith ")
    assert (named.name, named.enrolled) == ("Anna Smith", 1)
    assert named.uid == gallery.show("Anna Smith").identity.id
    (sample,) = gallery.show("Anna Smith").samples
    assert sample.source == f"stranger {stranger.id} (2 sightings)"
    assert {hit.sighting.track for hit in named.found} == {4, 5}
    by_track = {one.track: one for one in store.list()}
    assert {track for track, one in by_track.items() if one.identity == "Anna Smith"} == {
        1,
        2,
        4,
        5,
    }
    assert by_track[1].named_score is None and by_track[4].named_score == pytest.approx(
        named.found[0].score, abs=1e-6
    )
    assert by_track[3].identity is None and store.list(SightingFilter(stranger=stranger.id)) == ()


def test_a_name_that_was_interrupted_is_finished_by_the_same_command(
    store: Sightings, gallery: Gallery, naming: SightingNaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([seen(1, 0), seen(2, 0, 0.1)])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "name", killed)
        with pytest.raises(KeyboardInterrupt):
            naming.name(key(1), "Anna")
    assert gallery.identities()[0].samples == 1 and store.list()[0].identity is None
    named = naming.name(key(1), "Anna")
    assert named.enrolled == 0 and gallery.identities()[0].samples == 1
    assert {one.track for one in named.marked} == {1, 2}
    assert naming.name(key(1), "Anna").marked == ()


def test_who_looks_like_somebody_else_is_refused_or_merged(
    store: Sightings, gallery: Gallery, naming: SightingNaming
) -> None:
    store.write([seen(1, 0), seen(2, 0, 0.1)])
    naming.name(key(1), "Anna")
    store.write([seen(3, 0, 0.2)])
    with pytest.raises(EnrolmentRefused, match="Anna"):
        naming.name(key(3), "Bob")
    assert [one.name for one in gallery.identities()] == ["Anna"]
    assert store.find(key(3)).identity is None
    merged = naming.name(key(3), "Bob", rules=EnrolConfig(duplicates="merge"))
    assert merged.name == "Anna" and store.find(key(3)).identity == "Anna"


def test_a_sighting_without_a_template_is_named_after_somebody_known(
    store: Sightings, gallery: Gallery, naming: SightingNaming
) -> None:
    store.write([draft(1), seen(2, 0)])
    with pytest.raises(SightingsError, match="no template of pack open to enrol"):
        naming.name(key(1), "Anna")
    assert gallery.identities() == []
    naming.name(key(2), "Anna")
    named = naming.name(key(1), "Anna")
    assert named.enrolled == 0 and [one.track for one in named.marked] == [1]
    with pytest.raises(UnknownSighting, match="no stranger s-1"):
        naming.name("s-1", "Anna")


def test_past_sightings_of_somebody_enrolled_by_photo_are_found(
    store: Sightings, gallery: Gallery, naming: SightingNaming
) -> None:
    for person, name in ((0, "Anna"), (1, "Bob")):
        gallery.add_sample(
            name,
            face(person),
            norm=1.0,
            quality=1.0,
            pack="open",
            embedder=EMBEDDER,
            source="photo.jpg",
            digest=f"{person:064}",
        )
    # 3 shows Bob more than Anna; 4 was beside the better 1, and is somebody else.
    store.write(
        [
            seen(1, 0, 0.1, at=1000.0),
            seen(2, 0, 0.4, at=5000.0),
            seen(3, 1, at=6000.0),
            seen(4, 0, 0.3, at=1001.0),
            seen(5, 2, at=7000.0),
        ]
    )
    found = naming.find("Anna")
    assert [hit.sighting.track for hit in found] == [1, 2]
    assert all(one.identity is None for one in store.list())
    assert naming.find("Anna", mark=True) == found
    assert {one.track for one in store.list(SightingFilter(person=("Anna",)))} == {1, 2}
    assert naming.find("Anna") == ()
    with pytest.raises(UnknownIdentity):
        naming.find("Zoe")


def test_who_was_marked_as_not_somebody_is_not_found_as_them(
    store: Sightings, gallery: Gallery, naming: SightingNaming
) -> None:
    store.write([seen(1, 0)])
    naming.name(key(1), "Anna")
    store.write([seen(2, 0, 0.3)])
    assert [hit.sighting.track for hit in naming.find("Anna")] == [2]
    gallery.mark_not("Anna", face(0, 0.3), pack="open", embedder=EMBEDDER, source="sighting 2")
    assert naming.find("Anna") == ()


def test_fusing_weighs_sightings_by_quality(store: Sightings) -> None:
    store.write([seen(1, 0), seen(2, 1)])
    templates = store.templates("open", EMBEDDER)
    fused = fuse_templates(templates)
    np.testing.assert_allclose(fused[:2], [np.sqrt(0.5)] * 2, atol=1e-6)
    opposite = templates._replace(vectors=np.stack([face(0), -face(0)]))
    np.testing.assert_allclose(fuse_templates(opposite), face(0))
