"""Streaming counts are those of all scores held at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models import pairs as module
from facestream.models.pairs import (
    PairCounter,
    count_pairs,
    score_pairs,
    split_pairs_into_batches,
)
from facestream.models.scores import identity_weights
from facestream.models.verification import count_errors, operating_point, resample_roc

few_levels = st.integers(0, 6).map(lambda level: level / 8)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def small_set(seed: int = 0, pairs: int = 500):
    """Templates of 8 subjects and random pairs of them."""
    draw = np.random.default_rng(seed)
    subjects = draw.integers(0, 8, 40)
    templates = unit(draw.standard_normal((8, 16))[subjects] + draw.standard_normal((40, 16)))
    first, second = draw.integers(0, 40, pairs), draw.integers(0, 40, pairs)
    return templates, subjects, first, second, subjects[first] == subjects[second]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(few_levels, min_size=1, max_size=20),
    st.lists(st.lists(few_levels, max_size=10), min_size=1, max_size=4).filter(any),
)
def test_counting_in_batches_gives_the_roc_of_everything(genuine, batches):
    counter = PairCounter(genuine)
    for batch in batches:
        counter.add(batch)
    impostor = [score for batch in batches for score in batch]
    whole = count_errors(genuine + impostor, [1] * len(genuine) + [0] * len(impostor))
    for streamed, held in zip(counter.roc(), whole, strict=True):
        np.testing.assert_array_equal(streamed, held)


@pytest.mark.parametrize("block", [1 << 23, 64])
@pytest.mark.parametrize("sort", [True, False])
def test_scores_are_inner_products_however_pairs_lie(monkeypatch, block, sort):
    monkeypatch.setattr(module, "_BLOCK", block)
    templates, _, first, second, _ = small_set()
    if sort:
        first = np.sort(first)
    expected = (templates[first].astype(float) * templates[second].astype(float)).sum(axis=1)
    np.testing.assert_allclose(score_pairs(templates, first, second), expected, atol=1e-6)


@pytest.mark.parametrize("dense", [0, 10**9])
def test_both_ways_of_scoring_agree(monkeypatch, dense):
    monkeypatch.setattr(module, "_DENSE", dense)
    templates, _, first, second, _ = small_set()
    expected = (templates[first].astype(float) * templates[second].astype(float)).sum(axis=1)
    np.testing.assert_allclose(score_pairs(templates, first, second), expected, atol=1e-6)


@pytest.mark.parametrize("size", [37, 1 << 20])
def test_a_pair_list_end_to_end(size):
    templates, _, first, second, same = small_set()
    roc = count_pairs(templates, split_pairs_into_batches(first, second, same, size)).roc()
    scores = (templates[first].astype(float) * templates[second].astype(float)).sum(axis=1)
    whole = count_errors(np.round(scores, 5), same)
    assert (roc.genuine, roc.impostor) == (whole.genuine, whole.impostor)
    for far in (0.0, 0.01, 0.1, 0.5):
        for rule in ("at_most", "nearest"):
            mine, held = operating_point(roc, far, rule), operating_point(whole, far, rule)
            assert mine.tar == pytest.approx(held.tar, abs=0.011)  # one genuine pair in about 90
            assert mine.far == pytest.approx(held.far, abs=0.011)


def test_resamples_stream_past_too():
    templates, subjects, first, second, same = small_set()
    weights = identity_weights(8, 30, seed=2)
    batches = split_pairs_into_batches(first, second, same, 100)
    counter = count_pairs(templates, batches, subjects=subjects, weights=weights)
    # The same scores in memory, by the same batches: float32 rounding must not differ.
    scores = np.empty(len(same), np.float32)
    for at in range(0, len(same), 100):
        for kind in (True, False):
            rows = at + np.flatnonzero(same[at : at + 100] == kind)
            scores[rows] = score_pairs(templates, first[rows], second[rows])
    held = resample_roc(scores, same, subjects[first], subjects[second], resamples=30, seed=2)
    for mine, whole in zip(counter.resampled(), held, strict=True):
        for one, other in zip(mine, whole, strict=True):
            np.testing.assert_allclose(one, other)
    assert not list(count_pairs(templates, batches).resampled())


def test_missing_templates_score_zero():
    templates = np.array([[1, 0], [0, 0]], np.float32)
    assert score_pairs(templates, [0, 1], [1, 1]).tolist() == [0.0, 0.0]


def test_what_cannot_be_counted():
    templates, _, first, second, same = small_set()
    batches = split_pairs_into_batches(first, second, same)
    with pytest.raises(ConfigError, match="read twice"):
        count_pairs(templates, (batch for batch in batches))
    with pytest.raises(ConfigError, match="genuine pairs, got none"):
        count_pairs(templates, split_pairs_into_batches(first, second, np.zeros_like(same)))
    with pytest.raises(ConfigError, match="0 impostor"):
        count_pairs(templates, split_pairs_into_batches(first, second, np.ones_like(same))).roc()
    with pytest.raises(ConfigError, match="got none"):
        count_pairs(templates, [])
    with pytest.raises(ConfigError, match="subject of each template"):
        count_pairs(templates, batches, weights=identity_weights(8, 2))
    with pytest.raises(RecordError, match=r"rows 0\.\.39"):
        score_pairs(templates, [0], [40])
    with pytest.raises(RecordError, match="float32"):
        score_pairs(templates.astype(float), [0], [1])
    templates[3, 0] = np.nan
    with pytest.raises(RecordError, match="the first at 3"):
        count_pairs(templates, batches)
