"""Plain and quality-weighted mean, and what every aggregator's state promises."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, CorruptModelFile, MissingModelFile, ModelError, RecordError
from facestream.models.aggregators import make_aggregator
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.fusion import (
    Aggregator,
    FusionState,
    Members,
    dump_state,
    join_members,
    load_state,
    no_members,
)

C, K = 24, 6
NAMES = ["mean", "quality", "caface"]


def make_members(seed: int, count: int) -> Members:
    draw = np.random.default_rng(seed)
    embeddings = (draw.standard_normal(C) + draw.standard_normal((count, C))) * 20
    return Members(
        embeddings.astype(np.float32),
        np.linalg.norm(embeddings, axis=1).astype(np.float32),
        draw.uniform(0, 1, count).astype(np.float32),
        draw.uniform(0, 2, (count, K, 2)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def aggregators(tmp_path_factory):
    head = tmp_path_factory.mktemp("head") / "caface.npz"
    save_head(head, random_head(3, HeadSize(C, K, 3), style_mix=0.5))
    return {name: make_aggregator(name, dimension=C, head_path=head) for name in NAMES}


def fold(aggregator: Aggregator, members: Members, cuts: list[int]) -> FusionState:
    """The state when the members arrive in batches that end at `cuts`."""
    state, start = aggregator.empty(), 0
    for end in [*sorted(cuts), len(members.norms)]:
        state = aggregator.update(state, members.take(slice(start, end)))
        start = end
    return state


def largest_difference(first: FusionState, second: FusionState) -> float:
    pairs = zip((*first[:3], *first.pending), (*second[:3], *second.pending), strict=True)
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_batches_do_not_change_the_state(aggregators, name, data):
    count = data.draw(st.integers(0, 45))
    cuts = data.draw(st.lists(st.integers(0, count), max_size=6))
    members = make_members(count, count)
    whole = aggregators[name].update(aggregators[name].empty(), members)
    pieces = fold(aggregators[name], members, cuts)
    assert pieces.observations == whole.observations == count
    assert largest_difference(whole, pieces) <= 1e-12


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(counts=st.tuples(*[st.integers(0, 40)] * 3))
def test_merging_is_commutative_and_associative_with_the_empty_state_as_identity(
    aggregators, name, counts
):
    one = aggregators[name]
    a, b, c = (one.update(one.empty(), make_members(i, n)) for i, n in enumerate(counts))
    assert largest_difference(one.merge(a, b), one.merge(b, a)) <= 1e-12
    left, right = one.merge(one.merge(a, b), c), one.merge(a, one.merge(b, c))
    # An identity leaves the open chunk open, so compare after closing both sides the same way.
    assert largest_difference(one.merge(left, left), one.merge(right, right)) <= 1e-11
    assert left.observations == sum(counts)
    assert largest_difference(one.merge(a, one.empty()), a) == 0.0
    assert largest_difference(one.merge(one.empty(), a), a) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_merging_reads_as_one_track_when_chunks_line_up(aggregators, name):
    one, members = aggregators[name], make_members(5, 16 * 3)
    first = one.update(one.empty(), members.take(slice(0, 16)))
    rest = one.update(one.empty(), members.take(slice(16, None)))
    together = one.update(one.empty(), members)
    assert largest_difference(one.merge(first, rest), together) <= 1e-12
    np.testing.assert_allclose(one.read(one.merge(rest, first)), one.read(together), atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 37])
def test_a_restart_changes_nothing(aggregators, name, count):
    one, later = aggregators[name], make_members(9, 20)
    state = one.update(one.empty(), make_members(8, count))
    again = load_state(dump_state(state))
    assert dump_state(again) == dump_state(state)
    assert np.array_equal(one.read(one.update(again, later)), one.read(one.update(state, later)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 7, 16, 40])
def test_shares_are_positive_and_sum_to_one(aggregators, name, count):
    one, members = aggregators[name], make_members(4, count)
    state = one.update(one.empty(), members)
    reading = one.inspect(state)
    closed = [
        one.weigh(members.take(slice(start, start + 16)))
        for start in range(0, count // 16 * 16, 16)
    ]
    if name != "caface":  # no chunks: every row is final at once
        closed = [one.weigh(members)]
    shares = np.concatenate([*closed, reading.pending]) @ reading.gain
    assert shares.shape == (count,) and shares.min() >= 0
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_one_observation_is_its_own_template(aggregators, name):
    one, members = aggregators[name], make_members(2, 1)
    unit = members.embeddings[0] / np.linalg.norm(members.embeddings[0].astype(np.float64))
    read = one.read(one.update(one.empty(), members))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, unit, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_unusable_observations_leave_no_trace(aggregators, name):
    one, good = aggregators[name], make_members(6, 5)
    bad = make_members(7, 5)
    bad.embeddings[0] = 0
    bad.embeddings[1, 3] = np.nan
    bad.norms[2] = np.inf
    bad.qualities[3] = np.nan
    bad.styles[4, 0, 1] = np.inf
    state = one.update(one.empty(), join_members(bad, good))
    assert state.observations == 5
    assert np.array_equal(one.read(state), one.read(one.update(one.empty(), good)))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_read_is_an_error(aggregators, name):
    with pytest.raises(RecordError, match="no usable observation"):
        aggregators[name].read(aggregators[name].empty())


def test_the_mean_ignores_the_lengths_of_embeddings():
    one = make_aggregator("mean", dimension=2)
    members = Members(
        np.array([[100, 0], [0, 0.001]], np.float32),
        np.array([100, 0.001], np.float32),
        np.ones(2, np.float32),
        np.zeros((2, 0, 2), np.float32),
    )
    read = one.read(one.update(one.empty(), members))
    np.testing.assert_allclose(read, [np.sqrt(0.5)] * 2, atol=1e-7)


@pytest.mark.parametrize(
    ("qualities", "expected", "shares"),
    [
        ([3.0, 4.0], [0.6, 0.8], [3 / 7, 4 / 7]),
        ([-5.0, 0.5], [0.0, 1.0], [0.0, 1.0]),
        ([0.0, 0.0], [0.5**0.5, 0.5**0.5], [0.5, 0.5]),  # all-zero weights: the plain mean
        ([-1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.5, 0.5]),
        ([1e-320, 3e-320], [0.5**0.5, 0.5**0.5], [0.5, 0.5]),  # zero as float32
    ],
)
def test_quality_weights_by_hand(qualities, expected, shares):
    one = make_aggregator("quality", dimension=2)
    members = Members(
        np.eye(2, dtype=np.float32) * 9,
        np.full(2, 9, np.float32),
        np.array(qualities, np.float32),
        np.zeros((2, 0, 2), np.float32),
    )
    reading = one.inspect(one.update(one.empty(), members))
    np.testing.assert_allclose(reading.embedding, expected, atol=1e-7)
    np.testing.assert_allclose(one.weigh(members) @ reading.gain, shares, atol=1e-12)


def test_sums_do_not_drift_over_a_long_track():
    one = make_aggregator("mean", dimension=C)
    members = make_members(1, 20_000)
    state = one.update(one.empty(), members)
    units = members.embeddings.astype(np.longdouble)
    units /= np.sqrt((units**2).sum(axis=1, keepdims=True))
    assert np.abs(state.values[0] - units.sum(axis=0)).max() < 1e-10
    assert len(dump_state(state)) < 1000


def test_bytes_that_are_no_state_are_refused():
    one = make_aggregator("mean", dimension=C)
    good = dump_state(one.update(one.empty(), make_members(0, 3)))
    version, summed, sums, pending = msgspec.msgpack.decode(good)
    dtype, _, data = sums[0]
    contradictions = [
        [version + 1, summed, sums, pending],
        [version, -1, sums, pending],
        [version, summed, [[dtype, [2, C], data], *sums[1:]], pending],
        [version, summed, [["|O8", [1, C], data], *sums[1:]], pending],
        [version, summed, [[dtype, [1, -C], data], *sums[1:]], pending],
        [version, summed, [*sums[:2], [dtype, [2], data[:16]]], pending],
    ]
    for bad in (b"", b"nonsense", good[:-9], *map(msgspec.msgpack.encode, contradictions)):
        with pytest.raises(RecordError):
            load_state(bad)


def test_members_of_another_embedder_are_refused(aggregators):
    for one in aggregators.values():
        with pytest.raises(RecordError, match=r"embeddings must be \(2, 24\), got \(2, 9\)"):
            one.update(
                one.empty(),
                no_members(9, K)._replace(
                    embeddings=np.ones((2, 9), np.float32), norms=np.ones(2, np.float32)
                ),
            )
    with pytest.raises(RecordError, match=r"styles must be \(3, 6, 2\), got \(3, 0, 2\)"):
        one = aggregators["caface"]
        one.update(one.empty(), make_members(1, 3)._replace(styles=np.zeros((3, 0, 2), np.float32)))


def test_wrong_names_and_heads_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="got 'median'"):
        make_aggregator("median", dimension=C)
    with pytest.raises(MissingModelFile, match=r"fuse\.aggregator: quality"):
        make_aggregator("caface", dimension=C)
    with pytest.raises(MissingModelFile, match="no CAFace head"):
        make_aggregator("caface", dimension=C, head_path=tmp_path / "absent.npz")
    path = tmp_path / "head.npz"
    save_head(path, random_head(0, HeadSize(C, K, 2)))
    with pytest.raises(ModelError, match="24 numbers per embedding, the embedder gives 512"):
        make_aggregator("caface", dimension=512, head_path=path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptModelFile):
        make_aggregator("caface", dimension=C, head_path=path)
