"""Rules fitted to the gallery that is searched: promises, changes, and what the operator says."""

import gc
import threading
import weakref

import numpy as np
import pytest

from facestream.configs.schema import MatchConfig
from facestream.models.open_set import LEAST_SEEN
from facestream.models.open_set_tracks import StrangerTracks
from facestream.models.search import SearchIndex
from facestream.stream import thresholds_fit
from facestream.stream.thresholds import DecisionNumbers, PackRules
from facestream.stream.thresholds_fit import FittedRules, Target, best_scores, fit_to, target_of
from facestream.stream.thresholds_seen import Seen, nothing_seen

C, PEOPLE, EACH = 32, 120, 4
COSINE = MatchConfig(score="cosine")
OWN = PackRules(COSINE, DecisionNumbers(0.2, 0.7))


def units(seed: int, *shape: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((*shape, C))
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def strangers(seed: int = 0, people: int = PEOPLE, decisions: int = 3) -> StrangerTracks:
    """Tracks of people whose decisions come nearer to them one after the other."""
    centres = np.repeat(units(seed, people), EACH * decisions, axis=0)
    rows = centres + 0.8 * units(seed + 1, len(centres))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    tracks = np.repeat(np.arange(people * EACH), decisions)
    frames = np.tile([3, 4, 6], people * EACH)[: len(tracks)]
    return StrangerTracks(
        "mean", vectors, tracks, frames, np.ones(len(tracks), np.float32),
        np.repeat(np.arange(people), EACH), np.zeros(people * EACH, np.bool_),
    )  # fmt: skip


def gallery(people: int, seed: int = 7) -> SearchIndex:
    return SearchIndex(units(seed, people), np.arange(people))


def test_best_scores_are_those_of_exhaustive_search():
    index, tracks = gallery(50), strangers()
    expected = (tracks.vectors @ units(7, 50).T).max(axis=1)
    scores, cosines = best_scores(index, tracks, "cosine")
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(scores, cosines)
    fit = fit_to(index, tracks, "cosine")
    assert (fit.identities, fit.people) == (50, PEOPLE)
    np.testing.assert_allclose(fit.maxima[0], expected.max(), atol=1e-6)


@pytest.mark.parametrize("people", [10, 300])
def test_other_strangers_are_named_as_often_as_was_promised(people):
    index = gallery(people)
    rule = FittedRules(strangers(), MatchConfig(score="cosine", target_fpir=0.05), OWN)(index, None)
    others = strangers(1000, people=2000)
    found = (others.maxima(best_scores(index, others, "cosine")[0]) >= rule.threshold).mean()
    assert found == pytest.approx(0.05, abs=0.025)
    assert rule.target_fpir == 0.05
    assert rule.interval is not None and rule.interval[0] < rule.threshold < rule.interval[1]
    assert rule.probability is not None
    assert rule.probability(rule.threshold) == pytest.approx(0.05)
    assert rule.why.startswith("fitted for FPIR 5 % to ") and "pseudo-tracks of 1" in rule.why
    assert f"this gallery of {people}" in rule.why


def test_synthetic_strangers_do_not_count_by_ida():
    tracks = strangers()
    half = tracks._replace(synthetic=tracks.people % 2 == 0)
    assert fit_to(gallery(50), half, "ida").people == PEOPLE / 2
    assert fit_to(gallery(50), half, "cosine").people == PEOPLE


def test_people_kept_for_calibration_who_are_enrolled_do_not_raise_the_threshold():
    tracks = strangers()
    own = units(0, PEOPLE)[[0, 1]]  # the centres that their tracks lie around
    both = SearchIndex(np.concatenate([units(7, 50), own]), np.arange(52))
    fit, plain = fit_to(both, tracks, "cosine"), fit_to(gallery(50), tracks, "cosine")
    assert fit.people == PEOPLE - 2
    assert fit.threshold(0.01) == pytest.approx(plain.threshold(0.01), abs=0.03)


def test_a_change_is_a_new_fit_and_an_unchanged_gallery_is_not():
    rules = FittedRules(strangers(), COSINE, OWN)
    small, large = gallery(20), gallery(400)
    assert rules(small, None) is rules(small, None)
    assert rules(large, None).threshold > rules(small, None).threshold


def test_what_long_tracks_do_otherwise_is_said_with_the_threshold():
    index, tracks = gallery(50), strangers()
    assert "faces" not in FittedRules(tracks, COSINE, OWN)(index, None).why
    few = tracks._replace(frames=np.tile([1, 2, 20], PEOPLE * EACH))
    last = few.vectors + 0.6 * units(7, 50)[few.people[few.tracks] % 50]  # drawn to the enrolled
    drawn = np.where((few.frames == 20)[:, None], last, few.vectors)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    why = FittedRules(few._replace(vectors=drawn), COSINE, OWN)(index, None).why
    assert "; strangers seen in more than 8 faces have more false alerts than those" in why


def test_a_gallery_that_is_out_of_use_is_not_held():
    rules = FittedRules(strangers(), COSINE, OWN)
    index = gallery(20)
    before = rules(index, None)
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None
    assert rules(gallery(20), None).threshold == before.threshold  # the same people: fitted anew


def test_an_empty_gallery_takes_the_packs_own():
    rules = FittedRules(strangers(), COSINE, OWN)
    empty = SearchIndex(np.zeros((0, C), np.float32), np.zeros(0, np.int64))
    assert (rules(empty, None).threshold, rules.share(empty, 0.4)) == (0.7, None)


def test_too_few_strangers_take_the_packs_own_and_are_told_once(caplog):
    rules = FittedRules(strangers(people=5), COSINE, OWN)
    index = gallery(20)
    assert rules(index, None).threshold == rules(index, None).threshold == 0.7
    (record,) = caplog.records
    assert "no threshold can be fitted to this gallery" in record.getMessage()


def test_a_large_gallery_is_fitted_beside_and_scaled_until_then(monkeypatch):
    monkeypatch.setattr(thresholds_fit, "AT_ONCE", 0)
    go, real = threading.Event(), thresholds_fit.fit_to

    def slow(index, *args):
        if index.identities == 400:
            assert go.wait(10)
        return real(index, *args)

    monkeypatch.setattr(thresholds_fit, "fit_to", slow)
    rules = FittedRules(strangers(), COSINE, OWN)
    small, large = gallery(40), gallery(400)
    first = rules(small, None)  # nothing to scale: waited for
    meanwhile = rules(large, None)
    assert "scaled to this gallery of 400" in meanwhile.why
    assert rules(large, None) is meanwhile and meanwhile.threshold > first.threshold
    go.set()
    (thread,) = [t for t in threading.enumerate() if t.name == "thresholds"]
    thread.join(10)
    fitted = rules(large, None)
    assert "scaled" not in fitted.why
    assert fitted.threshold == pytest.approx(meanwhile.threshold, abs=0.05)


def test_a_threshold_of_the_operators_own_stays_and_is_judged():
    rules = FittedRules(strangers(), MatchConfig(score="cosine", threshold=0.6), OWN)
    rule = rules(gallery(50), None)
    assert (rule.threshold, rule.target_fpir) == (0.6, None)
    assert rule.why.startswith("set in the configuration (match.threshold): FPIR ")
    assert rule.probability is not None and 0 < rule.probability(0.6) < 1


def test_alerts_become_a_rate_by_unknown_tracks_stated_counted_or_assumed():
    counted = Seen(np.zeros(0), 2000.0)
    stated = MatchConfig(alerts_per_week=2, unknown_tracks_per_week=400)
    assert target_of(stated, counted).fpir == pytest.approx(0.005)
    assert "(stated)" in target_of(stated, counted).words
    found = target_of(MatchConfig(alerts_per_week=2), counted)
    assert found == Target(
        0.001, "2 false alerts per camera and week at 2,000 unknown tracks (counted), FPIR 0.1 %"
    )
    assumed = target_of(MatchConfig(alerts_per_week=2), nothing_seen())
    assert assumed.fpir == 0.002 and "assumed until a day is counted" in assumed.words
    assert target_of(MatchConfig(alerts_per_week=1e9), counted).fpir == 0.5
    assert target_of(MatchConfig(), counted) == Target(0.01, "FPIR 1 %")
    assert target_of(MatchConfig(target_fpir=0.0005), counted).words == "FPIR 0.05 %"


def test_what_was_seen_moves_the_threshold_from_the_next_look_on():
    now, seen = [0.0], [nothing_seen()]
    rules = FittedRules(strangers(), COSINE, OWN, seen=lambda: seen[0], clock=lambda: now[0])
    index = gallery(50)
    before = rules(index, None)
    fit = rules.fit(index)
    assert fit is not None
    here = fit.maxima[:: len(fit.maxima) // LEAST_SEEN][:LEAST_SEEN] + 0.05
    seen[0] = Seen(np.array([fit.fpir(score) for score in here]), None)
    assert rules(index, None) is before
    now[0] = thresholds_fit.LOOK_SECONDS
    after = rules(index, None)
    assert after.threshold == pytest.approx(before.threshold + 0.05, abs=0.01)
    assert f"moved to {LEAST_SEEN} unknown tracks seen here" in after.why
    assert rules.share(index, before.threshold) == pytest.approx(0.01)  # of the pack's alone
