"""IDA: the values worked out by hand and the properties of DAO."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from facestream import RecordError
from facestream.models.anchor_check import own_bar
from facestream.models.ida import (
    Anchors,
    aligned_score,
    dao,
    discrepancy,
    linear_dao,
    log_cosh,
    log_dao,
    soft_mean,
)

cosines = st.floats(-1.0, 1.0)
TAUS = [0.1, 1.0, 8.0, 64.0]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_anchors(seed: int = 0, count: int = 60, **more) -> Anchors:
    rows = unit(np.random.default_rng(seed).standard_normal((count, 16)))
    return Anchors(rows, "test-1", **more)


def plain_dao(cosine, first, second, tau):
    """Equation 4 as it is printed; first and second are neighbour cosines."""
    return np.exp(tau * cosine) * (
        1 / np.exp(tau * np.asarray(first)).sum() + 1 / np.exp(tau * np.asarray(second)).sum()
    )


@pytest.mark.parametrize(
    ("cosine", "first", "second", "value"),
    [
        (0.7, 0.3, 0.3, 0.2983649),
        (0.0, 0.3, 0.3, 0.1481636),
        (0.3, 0.2, 0.2, 0.2210342),
        (0.3, 0.5, 0.5, 0.1637462),
    ],
)
def test_values_for_constant_neighbours(cosine, first, second, value):
    # k = 10, tau = 1: (2/k) exp(c - s)
    assert dao(cosine, first, second, k=10, tau=1.0) == pytest.approx(value, abs=5e-8)
    assert plain_dao(cosine, [first] * 10, [second] * 10, 1.0) == pytest.approx(value, abs=5e-8)


def test_ranges_for_ten_neighbours():
    assert discrepancy([1.0, -1.0], 10) == pytest.approx([0.0367879, 0.2718282], abs=5e-8)
    lowest, highest = (dao(cosine, -cosine, -cosine, k=10, tau=1.0) for cosine in (-1.0, 1.0))
    assert (lowest, highest) == pytest.approx((0.0270671, 1.4778112), abs=5e-8)
    assert np.log(lowest) == pytest.approx(-3.6094379, abs=5e-8)
    assert np.log(highest) == pytest.approx(0.3905621, abs=5e-8)
    assert log_dao(0.7, 0.3, 0.3, k=10, tau=1.0) == pytest.approx(-1.2094379, abs=5e-8)


def test_typical_densities_spread_the_discrepancy_by_a_twentieth():
    # r of .35 +- .05: F = .0706 +- .0035, so its variance, which SSR is to explain, is 1.25e-5.
    r = norm.ppf((np.arange(100_000) + 0.5) / 100_000, 0.35, 0.05)
    f = discrepancy(r, 10)
    assert (f.mean(), f.std()) == pytest.approx((0.0706, 0.0035), abs=5e-5)
    assert f.var() == pytest.approx(1.25e-5, rel=5e-3)


@pytest.mark.parametrize(("probe", "strength"), [(0.3, 0.5), (9.0, 1.0), (-9.0, 0.0)])
def test_how_much_the_gallerys_density_counts(probe, strength):
    """d log DAO / d r_g = -F_g / (F_q + F_g): half of it, all for a probe in a crowd, none for one
    by itself."""
    gallery, step = 0.3, 1e-5
    high, low = (log_dao(0.5, probe, gallery + side * step, k=10, tau=1.0) for side in (1.0, -1.0))
    own, other = discrepancy(gallery, 10), discrepancy(probe, 10)
    assert -(high - low) / (2 * step) == pytest.approx(own / (own + other), abs=1e-8)
    assert own / (own + other) == pytest.approx(strength, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    cosine=cosines,
    first=st.lists(cosines, min_size=5, max_size=5),
    second=st.lists(cosines, min_size=5, max_size=5),
    tau=st.sampled_from(TAUS),
)
def test_the_log_form_is_the_product_form(cosine, first, second, tau):
    r1, r2 = soft_mean(np.array([first, second]), tau)
    plain = plain_dao(cosine, first, second, tau)
    assert np.log(plain) == pytest.approx(float(log_dao(cosine, r1, r2, k=5, tau=tau)), abs=1e-12)
    # Symmetric, inside its range, and the score is its logarithm in cosine units.
    assert dao(cosine, r1, r2, k=5, tau=tau) == dao(cosine, r2, r1, k=5, tau=tau)
    score = float(aligned_score(cosine, r1, r2, tau=tau))
    assert -2 - 1e-9 <= score <= 2 + 1e-9
    assert score == pytest.approx((np.log(plain) + np.log(5 / 2)) / tau, abs=1e-11)
    # CSLS, which ranks nearly alike, is twice the first two terms; the rest is never negative.
    assert score >= cosine - (r1 + r2) / (2 * tau) - 1e-12
    if abs(r1 - r2) < 1e-9:
        assert score == pytest.approx(cosine - r1 / tau, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    near=st.lists(st.floats(-0.9, 0.9), min_size=4, max_size=4),
    other=st.floats(-1, 1),
    cosine=st.floats(-0.9, 0.9),
    place=st.integers(0, 3),
    tau=st.sampled_from(TAUS[:3]),
)
def test_more_cosine_raises_and_a_nearer_neighbour_lowers_the_score(
    near, other, cosine, place, tau
):
    def score(cosine, near):
        return float(aligned_score(cosine, soft_mean(np.array(near), tau), other * tau, tau=tau))

    nearer = [s + 0.05 * (i == place) for i, s in enumerate(near)]
    assert score(cosine + 0.05, near) > score(cosine, near)
    assert score(cosine, nearer) <= score(cosine, near) + 1e-12


def test_equal_densities_leave_the_ranking_of_cosines():
    values = np.random.default_rng(0).uniform(-1, 1, 50)
    scores = aligned_score(values, 0.3, 0.3, tau=1.0)
    np.testing.assert_allclose(scores, values - 0.3, atol=1e-12)
    np.testing.assert_array_equal(aligned_score(values, 0.0, 0.0, tau=1.0), values)


def test_dense_regions_are_held_to_a_higher_cosine():
    assert aligned_score(0.5, 0.2, 0.2, tau=1.0) > aligned_score(0.5, 0.4, 0.4, tau=1.0)


def test_tau_runs_from_the_mean_to_the_largest_neighbour():
    near = np.array([0.1, 0.3, 0.5, 0.7])
    assert soft_mean(near, 1e-4) / 1e-4 == pytest.approx(near.mean(), abs=1e-4)
    assert soft_mean(near, 2000.0) / 2000.0 == pytest.approx(near.max(), abs=1e-3)


def test_the_limit_of_small_tau_keeps_the_correction():
    first, second, tau = np.array([0.1, 0.3]), np.array([0.4, 0.6]), 1e-5
    value = dao(0.8, soft_mean(first, tau), soft_mean(second, tau), k=2, tau=tau)
    assert (value * 2 / 2 - 1) / tau == pytest.approx(0.8 - (0.2 + 0.5) / 2, abs=1e-4)


def test_log_cosh_does_not_overflow():
    x = np.array([0.0, 1e-3, -1.0, 5.0])
    np.testing.assert_allclose(log_cosh(x), np.log(np.cosh(x)), atol=1e-15)
    assert log_cosh(-1e6) == pytest.approx(1e6 - np.log(2))
    # exp(64) of ten neighbours: far outside float16, fine here.
    assert np.isfinite(log_dao(1.0, 64.0, -64.0, k=10, tau=64.0))


def test_density_is_that_of_exhaustive_search():
    anchors = make_anchors(k=7, tau=2.0)
    probes = unit(np.random.default_rng(1).standard_normal((9, 16)))
    near = np.sort(probes.astype(np.float64) @ anchors.vectors.T.astype(np.float64))[:, -7:]
    expected = np.log(np.exp(2.0 * near).mean(axis=1))
    got = anchors.density(probes)
    assert got.shape == (9,) and got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(discrepancy(got, 7), 1 / np.exp(2.0 * near).sum(axis=1), atol=1e-6)


def test_density_ignores_the_order_of_anchors_and_rotations_of_the_space():
    anchors, draw = make_anchors(), np.random.default_rng(2)
    probes = unit(draw.standard_normal((5, 16)))
    shuffled = Anchors(draw.permutation(anchors.vectors), "test-1")
    np.testing.assert_allclose(shuffled.density(probes), anchors.density(probes), atol=1e-6)
    turn = np.linalg.qr(draw.standard_normal((16, 16)))[0]
    turned = Anchors(unit(anchors.vectors @ turn), "test-1")
    np.testing.assert_allclose(
        turned.density(unit(probes @ turn)), anchors.density(probes), atol=1e-6
    )


def test_an_anchor_farther_than_the_kth_changes_nothing():
    anchors = make_anchors(k=5)
    probe = unit(np.random.default_rng(3).standard_normal((1, 16)))
    more = Anchors(np.concatenate([anchors.vectors, -probe]), "test-2", k=5)
    assert more.density(probe) == pytest.approx(anchors.density(probe), abs=1e-7)
    nearer = Anchors(np.concatenate([anchors.vectors, probe]), "test-3", k=5)
    assert nearer.density(probe) > anchors.density(probe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 61}, r"number of anchors \(60\), got 61"),
        ({"k": 0}, "got 0"),
        ({"tau": 0.0}, "tau must be a positive"),
        ({"tau": float("nan")}, "tau must be a positive"),
    ],
)
def test_impossible_parameters_are_refused(change, message):
    with pytest.raises(RecordError, match=message):
        make_anchors(**change)


def test_vectors_that_are_not_unit_are_refused():
    anchors = make_anchors()
    with pytest.raises(RecordError, match=r"anchors must be unit vectors, got one of length 2\.0"):
        Anchors(anchors.vectors * np.float32(2), "x")
    with pytest.raises(RecordError, match="float64"):
        Anchors(anchors.vectors.astype(np.float64), "x")
    with pytest.raises(RecordError, match=r"\(N, 16\)"):
        anchors.density(np.ones((2, 4), np.float32))
    with pytest.raises(RecordError, match="got one of length nan"):
        anchors.density(np.full((2, 16), np.nan, np.float32))
    assert anchors.density(np.zeros((0, 16), np.float32)).shape == (0,)


@settings(max_examples=40, deadline=None)
@given(cosine=cosines, first=cosines, second=cosines, tau=st.sampled_from(TAUS))
def test_the_linear_form_is_equation_4(cosine, first, second, tau):
    r1, r2 = tau * first, tau * second
    linear = linear_dao(cosine, discrepancy(r1, 10), discrepancy(r2, 10), tau=tau)
    plain = plain_dao(cosine, [first] * 10, [second] * 10, tau)
    assert linear == pytest.approx(plain, rel=1e-12)
    assert np.log(linear) == pytest.approx(float(log_dao(cosine, r1, r2, k=10, tau=tau)), abs=1e-12)


def test_ten_neighbours_at_tau_64_do_not_overflow():
    near = np.full(10, 1.0)
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(np.float16(64.0)))
    assert soft_mean(near, 64.0) == pytest.approx(64.0, abs=1e-12)
    assert discrepancy(64.0, 10) == pytest.approx(np.exp(-64.0) / 10, rel=1e-12)
    assert aligned_score(1.0, 64.0, 64.0, tau=64.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("terms", "error"), [(1, 3.2e-4), (2, 5.3e-6), (3, 1.0e-7)])
def test_the_series_that_search_relies_on(terms, error):
    # log cosh(D/2) = D^2/8 - D^4/192 + D^6/2880 - 17 D^8/645120 + ...; |D| = .5
    coefficients = np.array([1 / 8, -1 / 192, 1 / 2880])[:terms]
    gaps = np.linspace(-0.5, 0.5, 101)
    series = (coefficients * gaps[:, None] ** (2 * np.arange(1, terms + 1))).sum(axis=1)
    worst = np.abs(log_cosh(gaps / 2) - series).max()
    following = [1 / 192, 1 / 2880, 17 / 645120][terms - 1]
    assert worst == pytest.approx(error, rel=0.03)
    assert worst <= following * 0.5 ** (2 * terms + 2)  # the next term bounds the error


def test_dao_ranks_almost_as_csls_does():
    draw = np.random.default_rng(0)
    first, second = draw.normal(0.35, 0.05, (2, 20_000))
    cosine = draw.normal(0.1, 0.1, 20_000)
    ranks = spearmanr(dao(cosine, first, second, k=10, tau=1.0), 2 * cosine - first - second)
    assert ranks.statistic == pytest.approx(0.99996, abs=2e-5)


def test_neighbours_that_an_approximate_search_misses_only_raise_the_discrepancy():
    anchors = make_anchors(k=6)
    probes = unit(np.random.default_rng(4).standard_normal((20, 16)))
    near = np.sort(probes.astype(np.float64) @ anchors.vectors.T.astype(np.float64))[:, ::-1]
    exact = discrepancy(soft_mean(near[:, :6], 1.0), 6)
    draw = np.random.default_rng(5)
    for _ in range(20):
        found = np.sort(draw.choice(12, 6, replace=False))  # six of the twelve nearest
        missed = discrepancy(soft_mean(near[:, found], 1.0), 6)
        assert (missed >= exact).all()


def tpr_at_fpr(genuine: np.ndarray, impostor: np.ndarray, fpr: float) -> float:
    """The share of genuine scores above the threshold that this share of impostors exceeds."""
    return float((genuine > np.quantile(impostor, 1 - fpr)).mean())


def rehearse(crowding: tuple[float, float], seed: int = 0) -> tuple[float, float]:
    """TPR at FPR 1e-3 by cosine and by IDA, for people of two domains.

    The centres of a domain's people share a direction; crowding is its length beside their own.
    """
    draw, dimension, people = np.random.default_rng(seed), 48, 300
    shared = unit(draw.standard_normal((2, dimension)))

    def centres(count):
        each = np.repeat(np.array(crowding)[:, None] * shared, count, axis=0)
        return unit(each + unit(draw.standard_normal((2 * count, dimension))))

    def photos(of):
        return unit(of + 0.9 * unit(draw.standard_normal(of.shape)))

    anchors = Anchors(photos(centres(1500)), "strangers")
    who = centres(people)
    gallery, probes = photos(who), photos(who)
    cosine = probes.astype(np.float64) @ gallery.T.astype(np.float64)
    aligned = aligned_score(
        cosine, anchors.density(probes)[:, None], anchors.density(gallery), tau=1.0
    )
    same = np.eye(2 * people, dtype=bool)
    return tuple(tpr_at_fpr(table[same], table[~same], 1e-3) for table in (cosine, aligned))


def test_ida_helps_where_domains_differ_in_density():
    plain, aligned = np.mean([rehearse((1.2, 0.0), seed) for seed in range(3)], axis=0)
    assert aligned > plain + 0.1


def test_ida_is_neutral_where_they_do_not():
    plain, aligned = np.mean([rehearse((0.0, 0.0), seed) for seed in range(3)], axis=0)
    assert aligned == pytest.approx(plain, abs=0.03)


# Anchors that show the enrolled person


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    own=st.floats(-0.5, 1.0),
    k=st.integers(1, 8),
    count=st.integers(8, 40),
    copies=st.integers(0, 4),
)
def test_ones_own_anchors_are_no_neighbours_as_brute_force_says(
    seed: int, own: float, k: int, count: int, copies: int
) -> None:
    draw = np.random.default_rng(seed)
    rows = unit(draw.standard_normal((count, 4)))
    templates = unit(np.concatenate([rows[:copies] + 0.01, draw.standard_normal((5, 4))]))
    anchors = Anchors(rows, "a", k=k, tau=3.0, own=own)
    got = anchors.template_density(templates)
    for template, density in zip(templates, got, strict=True):
        cosines = sorted((float(row) for row in rows @ template), reverse=True)
        while len(cosines) > k and cosines[0] >= own:
            del cosines[0]
        assert density == pytest.approx(
            np.log(np.mean(np.exp(3.0 * np.array(cosines[:k])))), abs=1e-5
        )
    assert (got <= anchors.density(templates) + 1e-6).all()  # one's own face made it look crowded


def test_nobody_is_left_out_unless_a_cosine_is_given() -> None:
    anchors = make_anchors()
    np.testing.assert_array_equal(
        anchors.template_density(anchors.vectors), anchors.density(anchors.vectors)
    )


def test_a_stranger_is_taken_for_an_anchor_with_a_chance_of_one_in_a_hundred() -> None:
    bar = own_bar(0.05, 0.1, 1000)
    nearest = 0.05 + 0.1 * np.random.default_rng(1).standard_normal((4000, 1000)).max(axis=1)
    assert 0.005 < (nearest >= bar).mean() < 0.015
    assert own_bar(0.05, 0.1, 10) < bar < own_bar(0.05, 0.1, 100_000) < 1.0
    with pytest.raises(RecordError, match="spread must be positive"):
        own_bar(0.0, 0.0, 10)
