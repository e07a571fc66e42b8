"""`facestream bench strangers`: what it draws, how it judges, and the page."""

from __future__ import annotations

import numpy as np
import pytest

from facestream.stream.sighting_cluster import cut_tree, link_pairs, score_pairs
from facestream.tools.bench_strangers import (
    MOST,
    Row,
    Seen,
    best_threshold,
    draw_sightings,
    group_by_density,
    judge,
)
from facestream.tools.bench_strangers_page import write_page


def test_groups_are_judged_as_by_hand() -> None:
    # Groups: 0, 0 of A; one A and one B mixed; B alone; C alone, called noise.
    owners = np.array([7, 7, 7, 8, 8, 9])
    found = judge(np.array([0, 0, 1, 1, 2, -1]), owners)
    # Precision: 1, 1, 1/2, 1/2, 1, 1. Recall: 2/3, 2/3, 1/3, 1/2, 1/2, 1.
    assert found.precision == pytest.approx(5 / 6)
    assert found.recall == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 2 + 1 / 2 + 1) / 6)
    assert (found.found, found.pure) == (0.5, 0.5)
    assert judge(np.arange(6), owners)[3:] == (0.0, 1.0)


def test_sightings_share_no_picture_and_half_of_the_people_come_once() -> None:
    owners = np.repeat(np.arange(40), 10)
    halves = [draw_sightings(owners, 2, half, (1, 0)) for half in (0, 1)]
    for half, sets in enumerate(halves):
        rows = np.concatenate(sets.rows)
        assert len(rows) == len(np.unique(rows)) == 2 * len(sets.owners)
        assert set(owners[rows] % 2) == {half}
        assert (owners[np.stack(sets.rows)] == sets.owners[:, None]).all()
        people, times = np.unique(sets.owners, return_counts=True)
        assert len(people) == 20 and (times == 1).sum() == 10
        assert times.max() <= min(MOST, 5)
    again = draw_sightings(owners, 2, 0, (1, 0))
    assert all(np.array_equal(a, b) for a, b in zip(again.rows, halves[0].rows, strict=True))


@pytest.fixture
def seen() -> Seen:
    """Five people, seen 1 to 5 times, well apart."""
    draw = np.random.default_rng(4)
    owners = np.repeat(np.arange(5), np.arange(1, 6))
    vectors = np.eye(32, dtype=np.float32)[owners]
    vectors += draw.normal(0, 0.05, vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = score_pairs(vectors, None)
    return Seen(scores, link_pairs(len(owners), scores), owners)


def test_people_who_are_well_apart_are_told_apart(seen: Seen) -> None:
    bar = best_threshold(seen)
    assert judge(cut_tree(seen.tree, bar), seen.owners).f == 1.0


def test_density_finds_them_too(seen: Seen) -> None:
    pytest.importorskip("sklearn", reason="HDBSCAN IS NOT TESTED: no scikit-learn, an extra")
    assert judge(group_by_density(seen, "eom"), seen.owners).f > 0.9


def test_the_page_has_every_row() -> None:
    values = np.tile([0.5, 0.625, 0.75, 0.25, 1.0], (4, 1))
    rows = [
        Row("ida", "linkage, fitted", 1, np.array([0.1, 0.2, 0.1, 0.2]), values),
        Row("ida", "HDBSCAN, eom", 2, np.full(4, np.nan), values),
    ]
    page = write_page({"open": rows}, "the command", 3, 30)
    assert "    the command" in page and "3 people" in page
    line = "50.0 ± 0.0 | 62.5 ± 0.0 | 75.0 ± 0.0 | 25.0 ± 0.0 | 100.0 ± 0.0 |"
    assert f"| ida | linkage, fitted | 0.150 ± 0.050 | {line}" in page
    assert f"| ida | HDBSCAN, eom |  | {line}" in page
    assert "1 picture a sighting" in page and "2 pictures a sighting" in page
