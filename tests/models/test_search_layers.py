"""A gallery that changes: each version finds what an index of its own would, and copies little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.models import search_layers
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.models.search_layers import RATIO, find_numbers
from facestream.models.search_versions import IndexVersions, RowNumbers, match_prints

C = 12
PRECISIONS = ["float32", "bfloat16", "int8"]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


DRAW = np.random.default_rng(0)
CENTRES = DRAW.standard_normal((5, C))
POOL = unit(CENTRES[DRAW.integers(0, 5, 400)] + 0.4 * DRAW.standard_normal((400, C)))
POOL[350:] = POOL[:50]  # the same photo of two people
ANCHORS = Anchors(unit(CENTRES[DRAW.integers(0, 5, 60)] + DRAW.standard_normal((60, C))), "a", k=5)
PROBES = unit(POOL[:9] + 0.1 * DRAW.standard_normal((9, C)))
DENSITIES = ANCHORS.density(POOL)


def both(make: IndexVersions, rows: np.ndarray, owners: np.ndarray, precision: str):
    """The version that `make` gives, and an index of its own."""
    known = {"anchors": ANCHORS, "densities": DENSITIES[rows]}
    index = make(POOL[rows], owners, **known)
    return index, SearchIndex(POOL[rows], owners, precision=precision, **known)


def same(index: SearchIndex, plain: SearchIndex, k: int = 4) -> None:
    own = ANCHORS.density(PROBES)
    for by in ("ida", "cosine"):
        expected = plain.search(PROBES, k, by=by, densities=own)
        assert index.search(PROBES, k, by=by, densities=own) == expected
    assert index.identities == plain.identities


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 300), min_size=2, max_size=6),
    people=st.integers(1, 200),
    k=st.integers(1, 12),
    precision=st.sampled_from(PRECISIONS),
)
def test_every_version_is_that_of_an_index_of_its_own(seed, sizes, people, k, precision) -> None:
    """Rows come, go and change places and owners; earlier versions stay as they were."""
    draw = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_layers, "SMALL", 10)
        make = IndexVersions(precision)
        made, rows = [], draw.permutation(400)[: sizes[0]]
        for size in sizes:
            stay = rows[draw.random(len(rows)) < draw.choice([0.5, 0.95, 1.0])]
            others = np.setdiff1d(np.arange(400), stay)
            rows = draw.permutation(np.concatenate([stay, draw.permutation(others)[: size // 10]]))
            made.append(both(make, rows, draw.integers(0, people, len(rows)), precision))
        for index, plain in made:
            same(index, plain, k)


def copied_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each new layer has, as they are made."""
    counts: list[int] = []

    class Noted(search_layers.ExactScan):
        def __init__(self, vectors, order, densities, **options):
            counts.append(len(order))
            super().__init__(vectors, order, densities, **options)

    monkeypatch.setattr(search_layers, "ExactScan", Noted)
    return counts


def test_a_version_copies_what_it_changes(monkeypatch) -> None:
    monkeypatch.setattr(search_layers, "SMALL", 10)
    counts = copied_by(monkeypatch)
    make = IndexVersions()
    rows = np.arange(300)
    for at, new in enumerate([301, 302, 303, 304]):
        rows = np.insert(rows, 5 * at, new)  # in the middle, as names go
        same(*both(make, rows, np.arange(len(rows)), "float32"))
    assert counts == [301, 1, 2, 3]  # the few new ones are together again and again
    both(make, rows[::-1], np.arange(len(rows)), "float32")  # other places, other owners
    both(make, rows[30:], np.arange(len(rows) - 30), "float32")  # less than a quarter goes
    assert counts == [301, 1, 2, 3]
    index, plain = both(make, rows[90:], np.arange(len(rows) - 90), "float32")
    assert counts == [301, 1, 2, 3, 214]
    same(index, plain)
    assert index.nbytes == plain.nbytes + 16 * 214  # numbers, and densities of the layer


def test_many_changes_copy_each_row_a_few_times(monkeypatch) -> None:
    monkeypatch.setattr(search_layers, "SMALL", 10)
    counts = copied_by(monkeypatch)
    make = IndexVersions()
    for size in range(2, 351, 3):
        index, plain = both(make, np.arange(size), np.arange(size), "float32")
    same(index, plain)
    sizes = [len(layer.numbers) for layer in index._finder.layers]
    assert sum(sizes) == 350 and len(sizes) > 1
    assert all(own >= RATIO * sum(sizes[at + 1 :]) for at, own in enumerate(sizes))
    assert sum(counts) < 350 * 10  # an index of its own each time: 117 * 175


def test_small_galleries_lie_in_one_layer_and_nothing_is_copied_twice(monkeypatch) -> None:
    counts = copied_by(monkeypatch)
    make = IndexVersions()
    for size in (200, 201, 201, 190):
        index, plain = both(make, np.arange(size), np.arange(size), "float32")
        same(index, plain)
    assert counts == [200, 201, 190] and len(index._finder.layers) == 1


def test_an_empty_version_and_one_after_it() -> None:
    make = IndexVersions("int8")
    for rows in (np.arange(0), np.arange(20), np.arange(0), np.arange(3)):
        index, plain = both(make, rows, np.arange(len(rows)), "int8")
        same(index, plain)
        assert index.method == plain.method == "exact, int8: product (not measured)"


def test_other_anchors_start_anew() -> None:
    make, other = IndexVersions(), Anchors(ANCHORS.vectors[:20], "b", tau=3.0)
    for anchors in (ANCHORS, other, None):
        index = make(POOL, np.arange(400), anchors=anchors, densities=None)
        plain = SearchIndex(POOL, np.arange(400), anchors=anchors)
        assert index.search(PROBES, 3) == plain.search(PROBES, 3)


def test_wrong_galleries_are_refused_and_the_next_version_is_right() -> None:
    make = IndexVersions()
    rows = np.arange(30)
    both(make, rows, rows, "float32")
    with pytest.raises(RecordError, match="unit vectors"):
        make(2 * POOL[:31], np.arange(31), anchors=ANCHORS, densities=DENSITIES[:31])
    with pytest.raises(RecordError, match="owners"):
        make(POOL[:31], rows, anchors=ANCHORS, densities=DENSITIES[:31])
    same(*both(make, np.arange(32), np.arange(32), "float32"))


def test_a_version_that_could_not_be_made_leaves_the_next_one_right(monkeypatch) -> None:
    make = IndexVersions()
    both(make, np.arange(30), np.arange(30), "float32")

    def fail(*_: object, **__: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(search_layers, "ExactScan", fail)
        with pytest.raises(OSError, match="full"):
            both(make, np.arange(40), np.arange(40), "float32")
    same(*both(make, np.arange(40), np.arange(40), "float32"))


def test_rows_keep_their_numbers() -> None:
    numbers = RowNumbers(C)
    first = numbers.give(POOL[[0, 1, 2, 350]], DENSITIES[[0, 1, 2, 350]])
    assert first.tolist() == [0, 1, 2, 3]  # 350 is like 0, and yet another row
    order = [350, 5, 2, 0, 2]
    assert numbers.give(POOL[order], DENSITIES[order]).tolist() == [0, 4, 2, 3, 5]
    other = DENSITIES[order] + np.array([0, 1e-9, 0, 0, 0])  # measured again
    assert numbers.give(POOL[order], other).tolist() == [0, 6, 2, 3, 5]
    flipped = POOL[order].copy()
    flipped[2, [3, 4]] *= -1  # two bits
    assert numbers.give(flipped, other).tolist() == [0, 6, 7, 3, 2]  # the first of those alike
    assert numbers.give(POOL[[2]], DENSITIES[[2]]).tolist() == [2]
    assert numbers.give(POOL[[0]], DENSITIES[[0]]).tolist() == [8]  # who went comes as new


def test_matching_by_hand() -> None:
    old, new = np.array([7, 3, 7, 9], np.uint64), np.array([7, 9, 1, 7, 7], np.uint64)
    assert match_prints(old, new).tolist() == [0, 3, -1, 2, -1]
    assert match_prints(old[:0], new).tolist() == [-1] * 5
    assert match_prints(old, new[:0]).tolist() == []
    assert find_numbers(np.array([4, -1, 9, 2]), np.array([2, 4])).tolist() == [3, 0]
