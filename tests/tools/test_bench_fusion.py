"""`facestream bench fusion`: sets, rates by hand, differences, the page."""

from __future__ import annotations

import numpy as np
import pytest

from facestream.models.fusion import Members, normalise_rows
from facestream.tools import bench_fusion
from facestream.tools.bench_fusion import (
    SETS,
    Cells,
    Hits,
    Tracks,
    compare,
    draw_sets,
    fusers_of,
    measure,
    resample,
)
from facestream.tools.bench_fusion_page import write_page

PEOPLE, RUNS, FRAMES, C, K = 6, 3, 4, 256, 192


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    draw = np.random.default_rng(0)
    gallery = normalise_rows(draw.normal(size=(PEOPLE, C)))
    quality = np.repeat(draw.uniform(0.05, 1.0, PEOPLE * RUNS), FRAMES)
    owners = np.repeat(np.arange(PEOPLE), RUNS * FRAMES)
    noise = normalise_rows(draw.normal(size=(len(owners), C))) * (3 * (1 - quality[:, None]))
    embeddings = (gallery[owners] + noise).astype(np.float32)
    members = Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        quality.astype(np.float32),
        draw.normal(size=(len(owners), K, 2)).astype(np.float32),
    )
    return Tracks("london, made", members, owners, np.arange(len(owners)) // FRAMES, gallery)


@pytest.fixture(scope="module")
def cells(tracks: Tracks) -> Cells:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_fusion, "SIZES", (1, 8, 16, 32, 64))
        return measure(tracks, fusers_of("omz"))


def test_rates_by_hand() -> None:
    own, other = np.array([0.9, 0.5, 0.2, 0.8]), np.array([0.1, 0.6, 0.1, 0.4])
    hits = Hits(np.array([0, 0, 1, 1]), own, other, np.ones(4, np.int64))
    # FPIR 1 % of four searches lets none pass: the bar is 0.6.
    np.testing.assert_allclose(hits.value, [0.75, 0.5])
    # Of 400 searches, of which 3 are the second, it may pass, and the bar is the fourth's 0.4.
    weights = np.array([[100.0, 3.0, 197.0, 100.0]])
    np.testing.assert_allclose(hits.rates(weights), [[397 / 400, 200 / 400]])
    once = np.array([[1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(hits.rates(once), [[1.0, 1.0]])


def test_sets_are_of_one_person_and_made_of_runs(tracks: Tracks) -> None:
    for size in (1, 8, 40):
        sets = draw_sets(tracks, size)
        assert len(sets) == SETS["london"] * PEOPLE and all(len(rows) == size for rows in sets)
        for rows in sets:
            assert len(set(tracks.owners[rows])) == 1
            changes = np.count_nonzero(np.diff(tracks.stretches[rows]))
            assert changes < RUNS
        assert all(np.array_equal(a, b) for a, b in zip(sets, draw_sets(tracks, size), strict=True))


def test_better_weights_find_more_and_one_face_is_the_same_to_all(cells: Cells) -> None:
    names = list(dict.fromkeys(name for name, _ in cells))
    assert names == ["mean", "norm", "quality", "learned", "caface", "oracle"]
    own = {name: cells[name, 16].own.mean() for name in names}
    assert own["mean"] < own["quality"] <= own["oracle"] + 0.1
    for name in names:
        np.testing.assert_allclose(cells[name, 1].own, cells["mean", 1].own, atol=1e-5)


def test_intervals_hold_the_value_and_differences_are_paired(cells: Cells) -> None:
    first, named = resample(cells["quality", 16])
    for rate in (first, named):
        assert 0.0 <= rate.low <= rate.value <= rate.high <= 1.0
    same = compare(cells, "quality", "quality")
    assert same == (0.0, 0.0, 0.0)
    there, back = compare(cells, "quality", "mean"), compare(cells, "mean", "quality")
    assert there.value == pytest.approx(-back.value) and there.low == pytest.approx(-back.high)


def test_columns_are_augmented_where_sets_repeat_views(
    tracks: Tracks, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facestream.tools.bench_fusion_page.SIZES", (1, 16))
    views = RUNS * FRAMES
    assert (cells["mean", 64].distinct <= views).all() and (cells["mean", 1].distinct == 1).all()
    repeated = [len(set(rows.tolist())) for rows in draw_sets(tracks, 16)]
    np.testing.assert_array_equal(cells["caface", 16].distinct, repeated)
    quarter = np.where(np.arange(SETS["london"] * PEOPLE) % 4 == 0, 12, 16)
    made = {
        key: hits._replace(distinct=quarter) if key[1] == 16 else hits
        for key, hits in cells.items()
    }
    page = write_page({"omz": {"london, made": made}}, "bench")
    assert "| sets | N=1 | N=16 (augmented) |" in page and "N=1 (augmented)" not in page
    assert "| that repeat a view, % | 0 | 25 |" in page
    assert "| distinct views, mean | 1.0 | 15.0 |" in page


def test_the_page_tells_everything(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facestream.tools.bench_fusion_page.SIZES", (1, 8, 16, 32, 64))
    page = write_page({"omz": {"london, made": cells}}, "facestream bench fusion --folder banks")
    assert "## omz" in page and "### london, made" in page and "N=64 (augmented)" in page
    assert "| caface - learned |" in page and "| oracle - quality |" in page
    assert f"the {PEOPLE} people" in page
