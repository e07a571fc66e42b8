"""MatchStage: who is who among the faces of one frame."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from facestream import ConfigError
from facestream.configs.schema import MatchConfig
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.stream.assign import Standing
from facestream.stream.match import GalleryIndex, MatchStage
from facestream.stream.records import FrameRef, Template, TrackKey, TrackTemplate
from facestream.stream.thresholds import DecisionNumbers, DecisionRule, PackRules

FRAME = FrameRef("door", 8, 0.32, 1e9, 640, 360)
NAMES = ("Anna", "Bert", "Carol", "Dora", "Emil")
NUMBERS = DecisionNumbers(threshold=0.3, cosine_threshold=0.5)


def key(track: int) -> TrackKey:
    return TrackKey("door", "e1", track)


def template(track: int, embedding: np.ndarray, frames: int = 5) -> TrackTemplate:
    unit = (embedding / np.linalg.norm(embedding)).astype(np.float32)
    return TrackTemplate(key(track), FRAME, Template(unit, frames, 0.1, 0.5, 0.9, ()))


def seeing(*cosines: float) -> np.ndarray:
    """An embedding with these cosines to the axes, on which the gallery's identities lie."""
    rest = 1 - sum(c * c for c in cosines)
    assert rest >= 0
    return np.array([*cosines, *[0.0] * (5 - len(cosines)), np.sqrt(rest)])


def axes_index() -> GalleryIndex:
    """Version 7: five people on the axes of a 6-d space; without anchors, score = cosine."""
    return GalleryIndex(7, SearchIndex(np.eye(6, dtype=np.float32)[:5], np.arange(5)), NAMES)


def make_stage(index=axes_index, numbers=NUMBERS, **config) -> MatchStage:
    settings = MatchConfig(**({"score": "ida"} | config))
    return MatchStage(index, settings, PackRules(settings, numbers))


def decide(embeddings, taken=None, **config) -> list[str | None]:
    templates = [template(i, e) for i, e in enumerate(embeddings)]
    standings = {key: Standing(barred=frozenset(names)) for key, names in (taken or {}).items()}
    return [match.identity for match in make_stage(**config).decide(templates, standings)]


def test_a_clear_face_is_named_and_a_stranger_is_not():
    stage = make_stage(top_k=2)
    known, stranger = stage.decide(
        [template(1, seeing(0.1, 0.7), frames=9), template(2, seeing(0.1, 0.2))]
    )
    assert (known.identity, stranger.identity) == ("Bert", None)
    assert (known.key, known.frame, known.frames) == (key(1), FRAME, 9)
    assert (known.gallery_version, known.threshold) == (7, 0.3)
    assert [c.identity for c in known.candidates] == ["Bert", "Anna"]
    assert [c.score for c in known.candidates] == pytest.approx([0.7, 0.1], abs=1e-6)
    assert [c.identity for c in stranger.candidates] == ["Bert", "Anna"]
    assert known.false_positive_probability is None  # the pack knows no impostor numbers


def test_two_faces_cannot_both_be_anna():
    assert decide([seeing(0.6), seeing(0.8)]) == [None, "Anna"]


def test_the_assignment_is_the_best_in_total_not_face_by_face():
    # Face by face: 0 takes Anna (.6), 1 is left with nobody. Together: .25 + .25 > .3.
    assert decide([seeing(0.60, 0.55), seeing(0.55, 0.10)]) == ["Bert", "Anna"]
    # Here giving way costs more than it brings: .3 > .05 + .1.
    assert decide([seeing(0.60, 0.35), seeing(0.40, 0.10)]) == ["Anna", None]


def test_a_name_below_the_top_k_is_listed_behind_it():
    stage = make_stage(top_k=1)
    first, second = stage.decide([template(1, seeing(0.6, 0.55)), template(2, seeing(0.55))])
    assert (first.identity, second.identity) == ("Bert", "Anna")
    assert [c.identity for c in first.candidates] == ["Anna", "Bert"]
    assert [c.identity for c in second.candidates] == ["Anna"]


def test_identities_of_rivals_are_out_of_reach():
    faces = [seeing(0.6, 0.5), seeing(0.1, 0.2, 0.7)]
    assert decide(faces) == ["Anna", "Carol"]
    assert decide(faces, {key(0): frozenset({"Anna"})}) == ["Bert", "Carol"]
    assert decide(faces, {key(0): frozenset({"Anna", "Bert"})}) == [None, "Carol"]
    assert decide(faces, {key(1): frozenset({"Anna"})}) == ["Anna", "Carol"]
    assert decide(faces, {key(0): ["Anna"]}, top_k=1) == ["Bert", "Carol"]


def test_a_score_equal_to_the_threshold_names():
    stage = make_stage()
    (match,) = stage.decide([template(1, seeing(0.5))])
    exact = match.candidates[0].score
    assert decide([seeing(0.5)], threshold=exact) == ["Anna"]
    assert decide([seeing(0.5)], threshold=np.nextafter(exact, 1)) == [None]


def test_nobody_enrolled_and_nobody_seen():
    empty = SearchIndex(np.zeros((0, 6), np.float32), np.zeros(0, np.int64))
    stage = make_stage(lambda: GalleryIndex(1, empty, ()))
    (match,) = stage.decide([template(1, seeing(0.5))])
    assert (match.identity, match.candidates, match.gallery_version) == (None, (), 1)
    assert stage.decide([]) == []


def test_a_changed_gallery_is_followed():
    first = axes_index()
    galleries = iter([first, first._replace(version=8, names=("Zoe", *NAMES[1:]))])
    stage = make_stage(lambda: next(galleries))
    before, after = (stage.decide([template(1, seeing(0.6))])[0] for _ in range(2))
    assert (before.gallery_version, before.identity) == (7, "Anna")
    assert (after.gallery_version, after.identity) == (8, "Zoe")


def test_score_and_threshold_belong_together():
    # Anna lies in a crowd of anchors, Bert does not.
    anchors = Anchors(np.eye(6, dtype=np.float32)[[0]], "a", k=1)
    index = SearchIndex(
        np.eye(6, dtype=np.float32)[:5], np.arange(5), anchors=anchors,
        densities=np.array([0.9, 0.0, 0.0, 0.0, 0.0]),
    )  # fmt: skip
    numbers = DecisionNumbers(
        threshold=0.2, cosine_threshold=0.5, impostor_centre=-0.3, impostor_spread=0.1,
        impostor_cosine_centre=0.0, impostor_cosine_spread=0.2, target_fpir=0.01,
    )  # fmt: skip
    face = template(1, seeing(0.6, 0.55))
    found = {}
    for score in ("ida", "cosine"):
        stage = make_stage(lambda: GalleryIndex(7, index, NAMES), numbers, score=score)
        (found[score],) = stage.decide([face])
        assert found[score].target_fpir == stage.rule().target_fpir == 0.01
    assert (found["ida"].identity, found["ida"].threshold) == ("Bert", 0.2)
    assert (found["cosine"].identity, found["cosine"].threshold) == ("Anna", 0.5)
    best = found["cosine"].candidates[0]
    assert best.score == best.cosine == pytest.approx(0.6, abs=1e-6)
    expected = 1 - norm.cdf(best.score / 0.2) ** 5
    assert found["cosine"].false_positive_probability == pytest.approx(expected, rel=1e-6)
    own = make_stage(lambda: GalleryIndex(7, index, NAMES), numbers, threshold=0.9).rule()
    assert (own.threshold, own.target_fpir) == (0.9, None)
    assert "match.threshold" in own.why and own.probability is not None


def test_each_face_is_held_against_the_rule_for_its_gallery_and_evidence():
    asked = []

    def rules(gallery, evidence):
        asked.append((gallery, None if evidence is None else evidence.frames))
        few = evidence is not None and evidence.frames < 5
        return DecisionRule(0.65 if few else 0.4, "few frames" if few else "fitted", 0.01)

    index = axes_index()
    stage = MatchStage(lambda: index, MatchConfig(), rules)
    faces = [template(1, seeing(0.6), frames=3), template(2, seeing(0.0, 0.6), frames=9)]
    few, many = stage.decide(faces)
    assert (few.identity, few.threshold, few.why) == (None, 0.65, "few frames")
    assert (many.identity, many.threshold, many.target_fpir) == ("Bert", 0.4, 0.01)
    assert stage.rule().threshold == 0.4
    assert asked == [(index[1], 3), (index[1], 9), (index[1], None)]
    # What counts in an assignment is how far each face is above its own threshold: .04 < .1.
    rivals = [template(1, seeing(0.69), frames=3), template(2, seeing(0.5), frames=9)]
    assert [match.identity for match in stage.decide(rivals)] == [None, "Anna"]


def test_the_probability_is_that_of_the_name_given():
    numbers = DecisionNumbers(0.3, 0.5, impostor_centre=0.0, impostor_spread=0.2)
    first, second = make_stage(numbers=numbers).decide(
        [template(1, seeing(0.6, 0.55)), template(2, seeing(0.55))]
    )
    assert first.identity == "Bert"
    expected = 1 - norm.cdf(0.55 / 0.2) ** 5
    assert first.false_positive_probability == pytest.approx(expected, rel=1e-5)
    assert second.false_positive_probability == pytest.approx(expected, rel=1e-5)


def test_no_candidates_is_not_a_setting():
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        make_stage(top_k=0)


# Properties on random frames: up to five faces against five people.

frames = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).standard_normal((1 + seed % 5, 6))
)


def cosines_of(faces: np.ndarray) -> np.ndarray:
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)[:, :5]


@settings(max_examples=60, deadline=None)
@given(faces=frames, threshold=st.floats(-0.2, 0.8))
def test_the_total_is_that_of_the_best_of_all_assignments(faces, threshold):
    named = decide(faces, threshold=threshold, top_k=1)
    given_out = [name for name in named if name is not None]
    assert len(given_out) == len(set(given_out))
    gains = cosines_of(faces).astype(np.float64) - threshold
    total = sum(gains[i, NAMES.index(name)] for i, name in enumerate(named) if name is not None)
    assert all(
        gains[i, NAMES.index(name)] >= -1e-7 for i, name in enumerate(named) if name is not None
    )
    choices = [*range(5), *[None] * len(faces)]
    best = max(
        sum(gains[i, c] for i, c in enumerate(pick) if c is not None)
        for pick in set(itertools.permutations(choices, len(faces)))
    ) if len(faces) <= 3 else total  # fmt: skip
    assert total == pytest.approx(best, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(faces=frames, threshold=st.floats(-0.2, 0.8))
def test_without_conflicts_everybody_gets_their_best_candidate(faces, threshold):
    cosines = cosines_of(faces)
    best = cosines.argmax(axis=1)
    if len(set(best)) < len(best):
        return
    expected = [NAMES[b] if cosines[i, b] >= threshold else None for i, b in enumerate(best)]
    assert decide(faces, threshold=threshold) == expected


@settings(max_examples=60, deadline=None)
@given(faces=frames, threshold=st.floats(-0.2, 0.8), lower=st.floats(0.0, 0.5))
def test_lowering_the_threshold_never_takes_a_name_away(faces, threshold, lower):
    before = decide(faces, threshold=threshold)
    after = decide(faces, threshold=threshold - lower)
    assert all(b is None or a is not None for b, a in zip(before, after, strict=True))


@settings(max_examples=30, deadline=None)
@given(faces=frames, data=st.data())
def test_the_order_of_faces_does_not_matter(faces, data):
    order = data.draw(st.permutations(range(len(faces))))
    straight = decide(faces)
    assert decide(faces[list(order)]) == [straight[i] for i in order]
