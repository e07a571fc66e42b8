"""Samplers: every face once per epoch, shares of a step disjoint, balance, and no memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, RecordError
from facestream.train.samplers import (
    Draw,
    Identities,
    face_generator,
    identity_sets,
    sample_faces,
    shuffled_rows,
)

ranks_of = st.integers(1, 4)
seeds = st.integers(0, 2**31)


@given(count=st.integers(1, 50), share=st.integers(1, 7), ranks=ranks_of, seed=seeds)
def test_every_epoch_has_every_row_once_over_all_processes(
    count: int, share: int, ranks: int, seed: int
) -> None:
    batch = share * ranks
    steps = -(-3 * count // batch)
    stream = np.concatenate(
        [
            shuffled_rows(count, batch, Draw(seed, step, rank, ranks))
            for step in range(steps)
            for rank in range(ranks)
        ]
    )
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    # One process reads what several read together, in the same order.
    alone = [shuffled_rows(count, batch, Draw(seed, step)) for step in range(steps)]
    np.testing.assert_array_equal(np.concatenate(alone), stream)


@given(count=st.integers(20, 60), ranks=ranks_of, step=st.integers(0, 10**6), seed=seeds)
def test_shares_of_a_step_are_disjoint_but_for_a_new_epoch(
    count: int, ranks: int, step: int, seed: int
) -> None:
    batch = 4 * ranks
    first, last = step * batch // count, (step * batch + batch - 1) // count
    rows = [shuffled_rows(count, batch, Draw(seed, step, rank, ranks)) for rank in range(ranks)]
    together = np.concatenate(rows).tolist()
    assert max(Counter(together).values()) <= 1 + last - first


@given(seed=seeds, step=st.integers(0, 1000), other=st.integers(0, 1000))
def test_a_step_depends_on_no_other(seed: int, step: int, other: int) -> None:
    first = shuffled_rows(17, 6, Draw(seed, step, 1, 2))
    shuffled_rows(17, 6, Draw(seed, other, 0, 2))
    np.testing.assert_array_equal(first, shuffled_rows(17, 6, Draw(seed, step, 1, 2)))
    identities = Identities(np.arange(17) % 5)
    sets = identity_sets(identities, 4, 3, Draw(seed, step, 1, 2))
    identity_sets(identities, 4, 3, Draw(seed, other, 0, 2))
    for one, again in zip(
        sets, identity_sets(identities, 4, 3, Draw(seed, step, 1, 2)), strict=True
    ):
        np.testing.assert_array_equal(one, again)


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {
        tuple(shuffled_rows(30, 30, Draw(seed, step)).tolist())
        for seed in range(3)
        for step in range(3)
    }
    assert len(orders) == 9


def test_a_drawn_order_cannot_be_spoilt_by_its_reader() -> None:
    first = shuffled_rows(8, 8, Draw(0, 0))
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(shuffled_rows(8, 8, Draw(0, 0)), kept)


def test_a_batch_must_be_shared_evenly() -> None:
    with pytest.raises(ConfigError, match="batch of 10 cannot be shared evenly by 4"):
        shuffled_rows(100, 10, Draw(0, 0, 0, 4))


labels_of = st.lists(st.integers(1, 9), min_size=2, max_size=12).flatmap(
    lambda counts: st.permutations(np.repeat(np.arange(len(counts)), counts).tolist())
)


@settings(max_examples=60)
@given(
    labels=labels_of, ranks=ranks_of, share=st.integers(1, 3), faces=st.integers(1, 12), seed=seeds
)
def test_batches_are_balanced_whatever_the_number_of_faces(
    labels: list[int], ranks: int, share: int, faces: int, seed: int
) -> None:
    identities, people = Identities(labels), share * ranks
    named = np.array(labels)
    seen: Counter[int] = Counter()
    steps = identities.classes  # `people` epochs of identities
    for step in range(steps):
        whole = identity_sets(identities, people, faces, Draw(seed, step))
        parts = [
            identity_sets(identities, people, faces, Draw(seed, step, rank, ranks))
            for rank in range(ranks)
        ]
        for field in range(2):
            joined = np.concatenate([part[field] for part in parts])
            np.testing.assert_array_equal(whole[field], joined)
        chosen, rows = whole
        assert chosen.shape == (people,) and rows.shape == (people, faces)
        assert (named[rows] == chosen[:, None]).all()
        seen.update(chosen.tolist())
        for identity, of in zip(chosen.tolist(), rows.tolist(), strict=True):
            times = Counter(of)
            there = int(identities.counts[identity])
            assert len(times) == min(faces, there)  # no two alike while there are enough
            assert max(times.values()) - min(times.values()) <= 1
    assert set(seen.values()) == {people}  # each identity as often as any other


def test_rows_of_identities() -> None:
    identities = Identities([2, 0, 2, 1, 0, 2])
    assert identities.classes == 3 and identities.counts.tolist() == [2, 1, 3]
    assert [identities.rows(n).tolist() for n in range(3)] == [[1, 4], [3], [0, 2, 5]]


def test_all_faces_of_an_identity_are_drawn_alike() -> None:
    times = Counter(
        row
        for step in range(600)
        for row in identity_sets(Identities([0] * 5 + [1]), 1, 2, Draw(3, step))[1].ravel().tolist()
    )
    # Identity 0 comes 300 times, with 2 of 5 faces: 120 of each; identity 1 300 times twice.
    assert times.pop(5) == 600
    assert all(90 < count < 150 for count in times.values()) and len(times) == 5


def test_numbers_of_a_face_are_the_same_however_processes_share() -> None:
    alone = [face_generator(Draw(1, 7), 4, place).random() for place in range(4)]
    shared = [
        face_generator(Draw(1, 7, rank, 2), 2, place).random()
        for rank in (0, 1)
        for place in (0, 1)
    ]
    assert alone == shared and len(set(alone)) == 4
    assert face_generator(Draw(1, 8), 4, 0).random() != alone[0]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([], r"got \(0,\)"),
        ([0, 2], "class 1 has no face"),
        ([0, -1], "from 0 on"),
        ([0.0, 1.0], "got .* float64"),
        ([[0], [1]], r"got \(2, 1\)"),
    ],
)
def test_labels_that_are_none_are_refused(labels: list[int], why: str) -> None:
    with pytest.raises(RecordError, match=why):
        Identities(labels)


def test_a_set_of_nobody_is_refused() -> None:
    with pytest.raises(RecordError, match="one face at least"):
        sample_faces(np.zeros(0, np.int64), 3, np.random.default_rng(0))
