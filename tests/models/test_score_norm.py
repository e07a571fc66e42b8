"""Score normalisations on miniatures worked out by hand, and how they relate to IDA."""

import functools

import numpy as np
import pytest

from facestream import RecordError
from facestream.models.ida import log_dao, soft_mean
from facestream.models.score_norm import as_norm, csls, s_norm, t_norm, z_norm

# One probe, two enrolled faces, a cohort of four. Means .2 and .4, .1; deviations .1 and .2, .1.
PROBE = np.array([[0.1, 0.3, 0.1, 0.3]])
GALLERY = np.array([[0.2, 0.6, 0.6, 0.2], [0.0, 0.2, 0.2, 0.0]])
SCORES = np.array([[0.5, 0.4]])

EVERY = {
    "z": z_norm,
    "t": t_norm,
    "s": s_norm,
    "as": functools.partial(as_norm, top=3),
    "csls": functools.partial(csls, k=2),
}
every_norm = pytest.mark.parametrize("norm", EVERY.values(), ids=EVERY)


def random_scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(3, 4)), draw.normal(size=(3, 30)), draw.normal(size=(4, 30))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (z_norm, [0.1 / 0.2, 0.3 / 0.1]),
        (t_norm, [0.3 / 0.1, 0.2 / 0.1]),
        (s_norm, [(0.5 + 3.0) / 2, (3.0 + 2.0) / 2]),
        # The two highest of every side: .3, .3 and .6, .6 and .2, .2.
        (functools.partial(csls, k=2), [1.0 - 0.3 - 0.6, 0.8 - 0.3 - 0.2]),
        (functools.partial(csls, k=4), [1.0 - 0.2 - 0.4, 0.8 - 0.2 - 0.1]),
    ],
    ids=["z", "t", "s", "csls of 2", "csls of 4"],
)
def test_miniatures_by_hand(norm, expected):
    np.testing.assert_allclose(norm(SCORES, PROBE, GALLERY), [expected], rtol=0, atol=1e-12)


def test_as_norm_by_hand():
    # The two highest: .5 and .3 (mean .4, deviation .1) and .4 and .2 (mean .3, deviation .1).
    score = as_norm([0.6], [[0.5, -0.9, 0.3]], [[0.2, 0.4, -0.7]], top=2)
    np.testing.assert_allclose(score, [(2.0 + 3.0) / 2], rtol=0, atol=1e-12)


def test_s_norm_is_the_mean_of_z_and_t_and_as_norm_with_everybody_is_s_norm():
    scores = random_scores()
    mean = (z_norm(*scores) + t_norm(*scores)) / 2
    np.testing.assert_allclose(s_norm(*scores), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(as_norm(*scores, top=30), mean, rtol=0, atol=1e-12)


@every_norm
def test_pairs_are_the_diagonal_of_the_matrix(norm):
    scores, probes, gallery = random_scores()
    pairs = norm(np.diag(scores), probes, gallery[:3])
    np.testing.assert_allclose(pairs, np.diag(norm(scores, probes, gallery)), rtol=0, atol=1e-12)


@every_norm
def test_more_similar_is_a_higher_score_and_the_order_of_the_cohort_does_not_matter(norm):
    scores, probes, gallery = random_scores()
    order = np.random.default_rng(1).permutation(30)
    same = norm(scores, probes[:, order], gallery[:, order])
    np.testing.assert_allclose(same, norm(scores, probes, gallery), rtol=0, atol=1e-12)
    assert (norm(scores + 0.01, probes, gallery) > norm(scores, probes, gallery)).all()


@pytest.mark.parametrize("name", ["s", "as", "csls"])
def test_symmetric_ones_do_not_care_who_is_the_probe(name):
    scores, probes, gallery = random_scores()
    np.testing.assert_allclose(
        EVERY[name](scores.T, gallery, probes), EVERY[name](scores, probes, gallery).T, atol=1e-12
    )


@pytest.mark.parametrize("name", ["z", "t", "s", "as"])
def test_standardising_ones_undo_a_change_of_scale(name):
    scores, probes, gallery = random_scores()
    changed = EVERY[name](3 * scores - 1, 3 * probes - 1, 3 * gallery - 1)
    np.testing.assert_allclose(changed, EVERY[name](scores, probes, gallery), atol=1e-12)


def test_the_aligned_score_of_small_tau_is_half_of_csls():
    scores, probes, gallery = random_scores()
    k, tau = 10, 1e-6
    half = csls(scores, probes, gallery, k=k) / 2
    near = [np.sort(side)[:, -k:] for side in (probes, gallery)]
    first, second = (soft_mean(side, tau) for side in near)
    score = (log_dao(scores, first[:, None], second, k=k, tau=tau) - np.log(2 / k)) / tau
    np.testing.assert_allclose(score, half, rtol=0, atol=1e-5)
    # At any tau: with equal densities, log DAO less CSLS of the soft means is log 2 - log k.
    r = soft_mean(near[0], 1.0)
    rest = log_dao(scores[:, 0], r, r, k=k, tau=1.0) - (scores[:, 0] - r)
    np.testing.assert_allclose(rest, np.log(2) - np.log(k), rtol=0, atol=1e-12)


@every_norm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SCORES, PROBE, GALLERY[:1]), r"got \(1, 2\), \(1, 4\) and \(1, 4\)"),
        ((SCORES, PROBE[:, :3], GALLERY), "A"),
        ((SCORES, PROBE[0], GALLERY), r"\(4,\)"),
        ((0.5, PROBE, PROBE), r"got \(\)"),
        ((SCORES * np.nan, PROBE, GALLERY), "finite"),
        ((SCORES, PROBE[:, :0], GALLERY[:, :0]), "at least . faces, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(norm, arguments, message):
    with pytest.raises(RecordError, match=message):
        norm(*arguments)


def test_a_cohort_that_is_too_small_is_refused():
    for call in (
        lambda: z_norm(SCORES, PROBE[:, :1], GALLERY[:, :1]),
        lambda: as_norm(SCORES, PROBE, GALLERY, top=5),
        lambda: csls(SCORES, PROBE, GALLERY, k=5),
    ):
        with pytest.raises(RecordError, match="the cohort must"):
            call()
    with pytest.raises(RecordError, match="at least 2 of the cohort must be used, asked for 1"):
        as_norm(SCORES, PROBE, GALLERY, top=1)
    with pytest.raises(RecordError, match="at least 1 of the cohort must be used, asked for 0"):
        csls(SCORES, PROBE, GALLERY, k=0)


@pytest.mark.parametrize("name", ["z", "t", "s", "as"])
def test_a_cohort_without_deviation_is_refused(name):
    # The mean of four times .1 is not .1 in floating point: no division by what is left of it.
    flat = np.full((1, 4), 0.1)
    with pytest.raises(RecordError, match="deviation is 0"):
        EVERY[name](np.array([[0.5]]), flat, flat)
    assert csls([[0.5]], flat, flat, k=3) == pytest.approx(0.8)
