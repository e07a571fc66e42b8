"""Ranks, CMC and TPIR@FPIR against miniatures and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.models import identification as module
from facestream.models.identification import (
    ProbeRanks,
    add_distractors,
    closed_set,
    cmc,
    join_ranks,
    mean_over_galleries,
    open_set,
    open_set_roc,
    rank_probes,
    resample_probes,
    search_gallery,
)
from facestream.models.verification import operating_point, roc_points

# Gallery: subjects 1, 2, 3. Probes: 1 found first; 2 behind 3; 3 ties with 1; 9 and 8 unknown.
GALLERY = [1, 2, 3]
PROBES = [1, 2, 3, 9, 8]
SCORES = np.array(
    [[0.9, 0.1, 0.2], [0.1, 0.5, 0.6], [0.7, 0.0, 0.7], [0.3, 0.4, 0.2], [0.8, 0.1, 0.1]]
)


def ranks_of(mates: list[float], others: list[float], strangers: list[float]) -> ProbeRanks:
    """Mated probes with these scores and best others, then non-mated ones."""
    mate = np.array([*mates, *[-np.inf] * len(strangers)])
    other = np.array([*others, *strangers], float)
    ranks = np.where(np.isfinite(mate), np.where(mate > other, 1, 2), 0)
    return ProbeRanks(np.arange(len(mate)), mate, other, ranks)


def test_ranks_of_a_miniature():
    ranks = rank_probes(SCORES, PROBES, GALLERY)
    assert ranks.ranks.tolist() == [1, 2, 2, 0, 0]  # a tie counts against the mate
    assert ranks.mates.tolist() == [0.9, 0.5, 0.7, -np.inf, -np.inf]
    assert ranks.others.tolist() == [0.2, 0.6, 0.7, 0.4, 0.8]
    assert ranks.mated.tolist() == [True, True, True, False, False]
    assert cmc(ranks, 3).tolist() == pytest.approx([1 / 3, 1, 1])
    assert closed_set(ranks) == pytest.approx(1 / 3)
    assert closed_set(ranks, 5) == 1.0


def test_a_subject_counts_once_with_its_best_entry():
    # Subject 2 has two entries above the mate: it still takes one rank only.
    ranks = rank_probes(np.array([[0.5, 0.8, 0.9, 0.1]]), [1], [1, 2, 2, 3])
    assert ranks.ranks.tolist() == [2]
    best = rank_probes(np.array([[0.2, 0.8, 0.9, 0.1]]), [1], [1, 2, 1, 3])
    assert (best.mates[0], best.ranks[0]) == (0.9, 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 8))
def test_ranks_are_their_definition(seed, probes, entries):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 5, (probes, entries)) / 4
    of_probe, of_entry = draw.integers(0, 5, probes), draw.integers(0, 5, entries)
    ranks = rank_probes(scores, of_probe, of_entry)
    for row in range(probes):
        best = {int(s): scores[row][of_entry == s].max() for s in np.unique(of_entry)}
        mate = best.pop(int(of_probe[row]), None)
        assert ranks.others[row] == max(best.values(), default=-np.inf)
        expected = 0 if mate is None else 1 + sum(score >= mate for score in best.values())
        assert ranks.ranks[row] == expected
    order = draw.permutation(entries)
    moved = rank_probes(np.exp(scores[:, order]), of_probe, of_entry[order])
    assert (moved.ranks == ranks.ranks).all()


@pytest.mark.parametrize(
    ("definition", "fpir", "threshold", "tpir", "measured"),
    [
        # Non-mate maxima .9 .8 .7 .6; mates .95 .85 .75 .65 all first, .99 behind another.
        ("at_most", 0.25, 0.8, 0.4, 0.25),  # > .8
        ("at_most", 0.24, 0.9, 0.2, 0.0),  # > .9
        ("at_most", 1.0, -np.inf, 0.8, 1.0),
        ("ijb", 0.5, 0.8, 0.4, 0.25),  # > m[1]: one below the target
        ("ijb", 0.25, 0.9, 0.2, 0.0),  # > m[0]
        ("ijb", 0.1, 0.9, 0.2, 0.0),  # N * FPIR < 1
        ("ijbs", 0.5, 0.8, 0.4, 0.5),  # >= m[1]
        ("ijbs", 0.25, 0.9, 0.2, 0.25),  # >= m[0]
        ("ijbs", 0.1, 0.9 + 1e-8, 0.2, 0.0),  # N * FPIR < 1
    ],
)
def test_thresholds_by_definition(definition, fpir, threshold, tpir, measured):
    ranks = ranks_of([0.95, 0.85, 0.75, 0.65, 0.99], [0, 0, 0, 0, 1], [0.6, 0.9, 0.7, 0.8])
    point = open_set(ranks, fpir, definition)
    assert point.threshold == threshold
    assert (point.tpir, point.fpir) == pytest.approx((tpir, measured))
    assert (point.mated, point.non_mated) == (5, 4)


def test_a_mate_on_the_threshold_passes_in_ijbs_only():
    ranks = ranks_of([0.8], [0.1], [0.8, 0.2])
    assert open_set(ranks, 0.5, "ijb").tpir == 0.0
    assert open_set(ranks, 0.5, "ijbs").tpir == 1.0
    assert open_set(ranks, 0.0, "at_most").tpir == 0.0


def test_ties_of_strangers_never_exceed_at_most():
    ranks = ranks_of([0.9, 0.4], [0.0, 0.0], [0.5, 0.5, 0.5, 0.1])
    assert open_set(ranks, 0.5).fpir == 0.0  # one or two of three equal maxima cannot pass alone
    assert open_set(ranks, 0.75) == ("at_most", 0.75, 0.1, 0.75, 1.0, 2, 4)


def test_ranks_below_one_may_be_asked_for():
    ranks = ranks_of([0.9, 0.8], [0.0, 0.85], [0.5])
    assert open_set(ranks, 0.0).tpir == 0.5
    assert open_set(ranks, 0.0, rank=2).tpir == 1.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 20).map(lambda n: n / 20))
def test_the_curve_and_the_points_agree(seed, fpir):
    draw = np.random.default_rng(seed)
    levels = draw.integers(0, 8, (3, 12)) / 8
    ranks = ranks_of(levels[0].tolist(), levels[1].tolist(), levels[2].tolist())
    roc = open_set_roc(ranks)
    assert operating_point(roc, fpir).tar == open_set(ranks, fpir).tpir
    assert open_set(ranks, fpir).fpir <= fpir
    _, tpir = roc_points(roc)
    assert tpir[-1] == closed_set(ranks)  # no threshold: what is first is accepted


def test_a_curve_without_any_hit_is_flat():
    roc = open_set_roc(ranks_of([0.1], [0.5], [0.3]))
    assert operating_point(roc, 0.5).tar == 0.0
    assert [axis.tolist() for axis in roc_points(roc)] == [[0, 1], [0, 0]]


def test_a_missing_template_scores_zero_to_all():
    gallery = np.array([[1, 0], [-1, 0], [0, 0]], np.float32)  # subject 3 has no detection
    probes = np.array([[0, 0], [-0.6, -0.8], [1, 0]], np.float32)
    ranks = search_gallery(probes, [1, 1, 3], gallery, [1, 2, 3])
    assert ranks.mates.tolist() == pytest.approx([0.0, -0.6, 0.0])
    # A missing probe ties with all. Zero outranks a mate of -.6. A missing mate loses to 1.
    assert ranks.ranks.tolist() == [3, 3, 2]


def test_blocks_and_distractors_change_nothing(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((60, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    probes, gallery = vectors[:20], vectors[20:]
    of_probe, of_entry = draw.integers(0, 30, 20), np.concatenate([np.arange(10), [100] * 30])
    of_entry[10:] += np.arange(30)  # 10 subjects that may be probed, 30 distractors
    whole = search_gallery(probes, of_probe, gallery, of_entry)
    monkeypatch.setattr(module, "_BLOCK", 100)
    near = search_gallery(probes, of_probe, gallery[:10], of_entry[:10])
    for at in (10, 25):
        near = add_distractors(near, probes @ gallery[at : at + 15].T)
    np.testing.assert_array_equal(near.ranks, whole.ranks)
    np.testing.assert_allclose(near.others, whole.others, atol=1e-6)
    parts = [
        search_gallery(probes[r], of_probe[r], gallery, of_entry)
        for r in np.split(np.arange(20), 4)
    ]
    np.testing.assert_array_equal(join_ranks(parts).ranks, whole.ranks)


def test_the_mean_over_two_galleries():
    one = open_set(ranks_of([0.9, 0.1], [0, 0], [0.5]), 0.0)
    two = open_set(ranks_of([0.9], [0], [0.5]), 0.0)
    assert mean_over_galleries([one, two]).tpir == pytest.approx(0.75)
    other = open_set(ranks_of([0.9], [0], [0.5]), 0.0, "ijbs")
    for points in ([], [one, other]):
        with pytest.raises(ConfigError, match="one definition"):
            mean_over_galleries(points)


def test_resamples_take_all_probes_of_a_subject():
    ranks = rank_probes(np.repeat(SCORES, 2, axis=0), np.repeat(PROBES, 2), GALLERY)
    draws = list(resample_probes(ranks, resamples=50, seed=1))
    assert {len(drawn.ranks) for drawn in draws} == {10}
    assert all((drawn.ranks[::2] == drawn.ranks[1::2]).all() for drawn in draws)
    shares = [closed_set(drawn) for drawn in draws if drawn.mated.any()]
    assert min(shares) < closed_set(ranks) < max(shares)


def test_what_cannot_be_identified():
    with pytest.raises(ConfigError, match="empty"):
        rank_probes(np.zeros((2, 0)), [1, 2], [])
    with pytest.raises(RecordError, match="NaN"):
        rank_probes(np.array([[np.nan]]), [1], [1])
    with pytest.raises(RecordError, match="of length 1"):
        search_gallery(np.array([[2, 0]], np.float32), [1], np.eye(2, dtype=np.float32), [1, 2])
    with pytest.raises(RecordError, match=r"\(N, 2\)"):
        search_gallery(np.eye(2, dtype=np.float32), [1, 2], np.eye(3, dtype=np.float32), [1, 2, 3])
    everyone = rank_probes(SCORES[:3], PROBES[:3], GALLERY)
    with pytest.raises(ConfigError, match="3 and 0"):
        open_set(everyone, 0.01)
    with pytest.raises(ConfigError, match="got none"):
        closed_set(rank_probes(SCORES[3:], PROBES[3:], GALLERY))
    with pytest.raises(ConfigError, match="at_most, ijb or ijbs"):
        open_set(rank_probes(SCORES, PROBES, GALLERY), 0.1, "nist")
    with pytest.raises(ConfigError, match="rank must be 1"):
        cmc(everyone, 0)
