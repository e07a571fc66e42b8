"""CAFace: the exact properties of the paper, and a slow reference in plain loops."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.models.caface import CAFace, norm_table
from facestream.models.caface_head import CAFaceHead, HeadSize, random_head
from facestream.models.fusion import Members

SIZE = HeadSize(dimension=20, styles=5, centres=4)
TINY = HeadSize(dimension=5, styles=3, centres=2, style_code=6, norm_code=10)


@functools.cache
def lively_head(seed: int, size: HeadSize = SIZE, strength: float = 8.0) -> CAFaceHead:
    """A head whose weights are far from the near-zero start, so that faces are told apart."""
    head = random_head(seed, size, style_mix=0.5)
    draw = np.random.default_rng(seed)
    arrays = {}
    for name, array in head.arrays.items():
        if name.startswith(("cn.", "agn.")) and name != "cn.centres":
            array = (
                array * strength
                if array.ndim == 2
                else array + 0.3 * draw.standard_normal(array.shape)
            )
        arrays[name] = array
    arrays["sim.prelu"] = np.array([-0.4])
    arrays["sim.bn.weight"] = draw.uniform(1, 4, size.style_code)
    arrays["sim.bn.bias"] = draw.standard_normal(size.style_code)
    arrays["sim.bn.running_mean"] = draw.standard_normal(size.style_code)
    arrays["sim.bn.running_var"] = draw.uniform(0.5, 2, size.style_code)
    arrays["norm.running_mean"] = np.array([20.0])
    arrays["norm.running_var"] = np.array([16.0])
    arrays["norm.scale"] = np.array([0.5])
    return replace(head, arrays=arrays)


def make_members(seed: int, count: int, size: HeadSize = SIZE) -> Members:
    draw = np.random.default_rng(seed)
    embeddings = draw.standard_normal((count, size.dimension))
    norms = draw.uniform(5, 35, count)
    embeddings *= (norms / np.linalg.norm(embeddings, axis=1))[:, None]
    return Members(
        embeddings.astype(np.float32),
        norms.astype(np.float32),
        np.ones(count, np.float32),
        draw.standard_normal((count, size.styles, 2)).astype(np.float32),
    )


def shuffled(members: Members, order) -> Members:
    return Members(*(column[order] for column in members))


def fuse(aggregator: CAFace, members: Members):
    return aggregator.update(aggregator.empty(), members)


def test_norm_table_has_61_rows_of_sines_and_cosines():
    table = norm_table(64)
    assert table.shape == (61, 64)
    frequencies = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(table[30, 0::2], np.sin(30 * frequencies), atol=1e-12)
    np.testing.assert_allclose(table[30, 1::2], np.cos(30 * frequencies), atol=1e-12)


@pytest.mark.parametrize(
    ("rounding", "norm", "row"),
    [("floor", 19.0, 27), ("trunc", 19.0, 28), ("floor", 21.0, 32), ("trunc", 21.0, 32),
     ("floor", 500.0, 60), ("floor", 0.0, 0), ("floor", 20.0, 30)],
)  # fmt: skip
def test_norms_fall_into_bins_of_a_tenth_of_a_deviation(rounding, norm, row):
    # mean 20, deviation 4: 19 is -0.25 deviations, -2.5 steps.
    one = CAFace(replace(lively_head(0), rounding=rounding))
    members = make_members(0, 1)._replace(norms=np.array([norm], np.float32))
    np.testing.assert_allclose(one.tokens(members)[0, 64:], 0.5 * norm_table(64)[row], atol=1e-12)


# The reference: one multiplication at a time, straight from the equations.


def ref_linear(head, name, row):
    weight, bias = (head.arrays[f"{name}.{part}"].tolist() for part in ("weight", "bias"))
    return [dot(w, row) + b for w, b in zip(weight, bias, strict=True)]


def ref_norm(head, name, row):
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + 1e-5)
    weight, bias = head.arrays[f"{name}.weight"], head.arrays[f"{name}.bias"]
    return [(x - mean) / deviation * w + b for x, w, b in zip(row, weight, bias, strict=True)]


def ref_gelu(row):
    return [x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in row]


def ref_mlp(head, name, row):
    return ref_linear(head, f"{name}.fc2", ref_gelu(ref_linear(head, f"{name}.fc1", row)))


def ref_softmax(row):
    top = max(row)
    total = sum(math.exp(x - top) for x in row)
    return [math.exp(x - top) / total for x in row]


def add(first, second):
    return [a + b for a, b in zip(first, second, strict=True)]


def dot(first, second):
    return sum(a * b for a, b in zip(first, second, strict=True))


def ref_token(head, style, norm):
    arrays = head.arrays
    mixed = [m[0] * s[0] + m[1] * s[1] for m, s in zip(arrays["sim.mix"], style, strict=True)]
    mixed = [x if x > 0 else arrays["sim.prelu"][0] * x for x in mixed]
    code = []
    for i, x in enumerate(ref_linear(head, "sim.linear", mixed)):
        x = (x - arrays["sim.bn.running_mean"][i]) / math.sqrt(
            arrays["sim.bn.running_var"][i] + 1e-5
        )
        code.append(x * arrays["sim.bn.weight"][i] + arrays["sim.bn.bias"][i])
    deviations = (norm - arrays["norm.running_mean"][0]) / math.sqrt(
        arrays["norm.running_var"][0] + 1e-5
    )
    place = math.floor(max(-3.0, min(3.0, deviations)) * 10) + 30
    width = head.size.norm_code
    for column in range(width):
        angle = place / 10000 ** ((column // 2 * 2) / width)
        sign = math.sin(angle) if column % 2 == 0 else math.cos(angle)
        code.append(arrays["norm.scale"][0] * sign)
    return code


def ref_block(head, block, tokens):
    heads, width = 8, len(tokens[0]) // 8
    fused = [ref_linear(head, f"{block}.qkv", ref_norm(head, f"{block}.norm1", t)) for t in tokens]

    def part(t, kind, h):
        return fused[t][(kind * heads + h) * width : (kind * heads + h + 1) * width]

    out = []
    for t in range(len(tokens)):
        mixed = []
        for h in range(heads):
            logits = [
                dot(part(t, 0, h), part(u, 1, h)) / math.sqrt(width) for u in range(len(tokens))
            ]
            shares = ref_softmax(logits)
            mixed += [
                sum(shares[u] * part(u, 2, h)[i] for u in range(len(tokens))) for i in range(width)
            ]
        token = add(tokens[t], ref_linear(head, f"{block}.proj", mixed))
        out.append(add(token, ref_mlp(head, block, ref_norm(head, f"{block}.norm2", token))))
    return out


def ref_chunk(head, members):
    """A (M, n) and keys (n, D)."""
    tokens = [
        ref_token(head, s, float(n)) for s, n in zip(members.styles, members.norms, strict=True)
    ]
    centres = [list(row) for row in head.arrays["cn.centres"]]
    together = tokens + centres
    for block in ("cn.blocks.0", "cn.blocks.1"):
        together = ref_block(head, block, together)
    keys = [ref_norm(head, "cn.assign.norm_keys", t) for t in together[: len(tokens)]]
    queries = [
        ref_linear(head, "cn.assign.query", ref_norm(head, "cn.assign.norm_centres", c))
        for c in centres
    ]
    columns = []
    for key in keys:
        key = ref_linear(head, "cn.assign.key", key)
        columns.append(ref_softmax([dot(q, key) / math.sqrt(len(key)) for q in queries]))
    return [list(row) for row in zip(*columns, strict=True)], keys


def ref_template(head, chunks):
    centres, dimension, token = head.size.centres, head.size.dimension, head.size.token
    values = [[0.0] * dimension for _ in range(centres)]
    styles = [[0.0] * token for _ in range(centres)]
    mass = [0.0] * centres
    for members in chunks:
        weights, keys = ref_chunk(head, members)
        for i, raw in enumerate(members.embeddings):
            length = math.sqrt(sum(float(x) ** 2 for x in raw))
            for m in range(centres):
                values[m] = add(values[m], [weights[m][i] * float(x) / length for x in raw])
                styles[m] = add(styles[m], [weights[m][i] * x for x in keys[i]])
                mass[m] += weights[m][i]
    mixed = [
        list(head.arrays["cn.centres"][m]) + [x / mass[m] for x in styles[m]]
        for m in range(centres)
    ]
    for mixer in ("agn.mixers.0", "agn.mixers.1"):
        normed = [ref_norm(head, f"{mixer}.norm", row) for row in mixed]
        across = [ref_mlp(head, f"{mixer}.tokens", column) for column in zip(*normed, strict=True)]
        gate = head.arrays[f"{mixer}.gate"][0]
        mixed = [
            [gate * x + across[c][m] for c, x in enumerate(row)] for m, row in enumerate(mixed)
        ]
        mixed = [
            add(row, ref_mlp(head, f"{mixer}.channels", ref_norm(head, f"{mixer}.norm", row)))
            for row in mixed
        ]
    logits = [ref_mlp(head, "agn.head", row) for row in mixed]
    fused = []
    for c in range(dimension):
        shares = ref_softmax([row[c] for row in logits])
        fused.append(sum(shares[m] * values[m][c] / mass[m] for m in range(centres)))
    length = math.sqrt(dot(fused, fused))
    return [x / length for x in fused]


@pytest.mark.parametrize("count", [3, 18])
def test_a_slow_reference_in_plain_loops_agrees(count):
    head, members = lively_head(1, TINY, strength=20.0), make_members(1, count, TINY)
    one = CAFace(head)
    chunks = [members.take(slice(start, start + 16)) for start in range(0, count, 16)]
    weights, keys = ref_chunk(head, chunks[0])
    assigned = one.assign(chunks[0])
    np.testing.assert_allclose(assigned.weights, weights, atol=1e-12)
    np.testing.assert_allclose(assigned.keys, keys, atol=1e-10)
    assert np.std(weights) > 0.05  # the head does tell these faces apart
    np.testing.assert_allclose(one.read(fuse(one, members)), ref_template(head, chunks), atol=1e-7)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(16)))
def test_order_inside_a_chunk_does_not_matter(order):
    one, members = CAFace(lively_head(2)), make_members(2, 16)
    straight, mixed = fuse(one, members), fuse(one, shuffled(members, list(order)))
    for a, b in zip(straight[:3], mixed[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)))
def test_order_of_whole_chunks_does_not_matter(order):
    one, members = CAFace(lively_head(2)), make_members(3, 64)
    places = np.concatenate([np.arange(16) + 16 * chunk for chunk in order])
    straight, mixed = fuse(one, members), fuse(one, shuffled(members, places))
    for a, b in zip(straight[:3], mixed[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(one.read(straight), one.read(mixed), atol=1e-7)


def test_who_shares_a_chunk_does_matter():
    """The reason for the chunk rule: other company, other assignment."""
    one, members = CAFace(lively_head(2)), make_members(3, 32)
    interleaved = np.arange(32).reshape(2, 16).T.ravel()
    a, b = fuse(one, members), fuse(one, shuffled(members, interleaved))
    assert np.abs(a.mass - b.mass).max() > 1e-6


@pytest.mark.parametrize("count", [1, 15, 16, 70])
def test_the_shares_of_a_face_sum_to_one(count):
    one, members = CAFace(lively_head(4)), make_members(4, count)
    weights = one.assign(members.take(slice(0, 16))).weights
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-12)
    assert weights.min() > 0
    state = one.merge(fuse(one, members), fuse(one, members))
    assert state.mass.sum() == pytest.approx(2 * count, abs=1e-9)


def test_the_centres_weights_sum_to_one_per_channel():
    one = CAFace(lively_head(5))
    shares = one.aggregate(np.random.default_rng(5).standard_normal((4, 128)))
    assert shares.shape == (4, 20)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=1e-12)
    assert np.std(shares) > 0.01


@pytest.mark.parametrize("count", [1, 5, 16, 40])
def test_identical_faces_return_that_face(count):
    one, face = CAFace(lively_head(6)), make_members(6, 1)
    unit = face.embeddings[0].astype(np.float64) / np.linalg.norm(
        face.embeddings[0].astype(np.float64)
    )
    many = shuffled(face, [0] * count)
    np.testing.assert_allclose(one.read(fuse(one, many)), unit, atol=1e-7)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), count=st.integers(1, 40))
def test_each_channel_stays_inside_the_range_of_its_inputs(seed, count):
    one, members = CAFace(lively_head(seed % 5)), make_members(seed, count)
    state = one.merge(fuse(one, members), fuse(one, members))  # tails closed, means unchanged
    units = (
        members.embeddings / np.linalg.norm(members.embeddings.astype(np.float64), axis=1)[:, None]
    )
    means = state.values / state.mass[:, None]
    shares = one.aggregate(state.styles / state.mass[:, None])
    fused = (shares * means).sum(axis=0)
    assert (fused <= units.max(axis=0) + 1e-12).all() and (fused >= units.min(axis=0) - 1e-12).all()


def test_a_centre_with_hardly_any_weight_still_has_an_exact_mean():
    """Trained heads send nearly all weight to one centre; the others hold 1e-13 or far less."""
    head = lively_head(7)
    arrays = dict(head.arrays)
    arrays["cn.assign.query.weight"] = arrays["cn.assign.query.weight"] * 4000
    one = CAFace(replace(head, arrays=arrays))
    face = make_members(7, 1)
    weights = one.assign(face).weights
    assert 0 < weights.min() < 1e-200
    unit = face.embeddings[0].astype(np.float64) / np.linalg.norm(
        face.embeddings[0].astype(np.float64)
    )
    np.testing.assert_allclose(one.read(fuse(one, face)), unit, atol=1e-7)
    clipped = CAFace(replace(one.head, division="clip1"))
    assert clipped.read(fuse(clipped, face)) @ unit < 0.999  # what the authors' division does


def test_scaling_embeddings_matters_only_through_the_norm():
    one, members = CAFace(lively_head(8)), make_members(8, 9)
    scaled = members._replace(embeddings=members.embeddings * np.float32(4.0))
    np.testing.assert_allclose(one.read(fuse(one, members)), one.read(fuse(one, scaled)), atol=1e-7)
    louder = scaled._replace(norms=members.norms * np.float32(1.5))
    assert np.abs(one.read(fuse(one, members)) - one.read(fuse(one, louder))).max() > 1e-5


def test_the_open_chunk_counts_in_every_read():
    one, members = CAFace(lively_head(9)), make_members(9, 20)
    state = fuse(one, members)
    assert (state.summed, len(state.pending.norms), state.observations) == (16, 4, 20)
    closed = one.merge(
        fuse(one, members.take(slice(0, 16))), fuse(one, members.take(slice(16, None)))
    )
    np.testing.assert_allclose(one.read(state), one.read(closed), atol=1e-7)
    assert one.inspect(state).pending.shape == (4, 4)


def test_sample_weights_are_those_of_the_supplement():
    one, members = CAFace(lively_head(10)), make_members(10, 12)
    state, weights = fuse(one, members), one.assign(members).weights
    mass = weights.sum(axis=1)
    importance = one.aggregate((weights @ one.assign(members).keys) / mass[:, None]).mean(axis=1)
    expected = (weights / mass[:, None] * importance[:, None]).sum(axis=0)
    reading = one.inspect(state)
    np.testing.assert_allclose(reading.pending @ reading.gain, expected, atol=1e-12)
    assert expected.sum() == pytest.approx(1.0, abs=1e-12)
