"""CAFace in torch: the exact properties of the paper, its losses, and a short training."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facestream import ConfigError, RecordError
from facestream.models.caface_head import HeadSize
from facestream.models.networks.caface import CAFace, Sums
from facestream.models.networks.caface_losses import (
    caface_loss,
    consistency_loss,
    identity_centres,
    template_loss,
)
from facestream.models.networks.caface_style import NormEmbedding
from facestream.models.networks.sets import FaceSets, full_sets, pad_sets
from facestream.models.networks.synthetic import SyntheticSets

PAPER = HeadSize(dimension=512, styles=384, centres=4)
SIZE = HeadSize(dimension=20, styles=5, centres=4, style_code=16, norm_code=16)
TINY = HeadSize(dimension=3, styles=2, centres=2, style_code=4, norm_code=4)
EXACT = {torch.float32: 1e-6, torch.float64: 1e-12}
both_dtypes = pytest.mark.parametrize("dtype", EXACT, ids=str)


@functools.cache
def _lively(size: HeadSize, dtype: torch.dtype, options: tuple) -> CAFace:
    torch.manual_seed(1)
    network = CAFace(size, style_mix=0.5, **dict(options)).to(dtype).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("cn.", "agn.")) and name != "cn.centres":
                drawn = 0.3 * torch.randn_like(weight)
                weight.copy_(8.0 * weight if weight.ndim == 2 else weight + drawn)
        network.sim.bn.running_var.uniform_(0.5, 2.0)
        if network.norm is not None:
            network.norm.scale.fill_(0.5)
            network.recalibrate_norms(torch.linspace(5, 35, 31))
    return network


def lively(size: HeadSize = SIZE, dtype: torch.dtype = torch.float64, **options) -> CAFace:
    """A network far from the near-zero start, so that it tells faces apart; evaluation mode."""
    return copy.deepcopy(_lively(size, dtype, tuple(options.items())))


def make_sets(
    count: int, faces: int, size: HeadSize = SIZE, dtype: torch.dtype = torch.float64, seed: int = 0
) -> FaceSets:
    draw = torch.Generator().manual_seed(seed)
    units = F.normalize(torch.randn(count, faces, size.dimension, generator=draw), dim=2)
    norms = 5 + 30 * torch.rand(count, faces, 1, generator=draw)
    styles = torch.randn(count, faces, size.styles, 2, generator=draw)
    return full_sets((units * norms).to(dtype), styles.to(dtype))


def reorder(sets: FaceSets, order) -> FaceSets:
    order = torch.as_tensor(order)
    return full_sets(sets.features[:, order], sets.styles[:, order])


def assert_same(first, second, tolerance: float) -> None:
    first, second = ((x,) if isinstance(x, torch.Tensor) else x for x in (first, second))
    for mine, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def count_parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("centres", "count"), [(1, 786_002), (2, 786_160), (4, 786_524), (8, 787_444)]
)
def test_the_counts_of_parameters_are_those_of_table_1(centres, count):
    network = CAFace(PAPER._replace(centres=centres))
    assert count_parameters(network) == count
    mixers = 2 * (66_433 + 4 * centres**2 + 3 * centres)  # 133,018 with 4 centres
    parts = {
        network.sim: 25_537,
        network.norm: 1,
        network.cn: 128 * centres + 396_544 + 33_536,
        network.cn.blocks: 396_544,
        network.cn.assign: 33_536,
        network.agn.mixers: mixers,
        network.agn.head: 197_376,
    }
    assert {part: count_parameters(part) for part in parts} == parts


@both_dtypes
def test_an_untrained_network_of_the_papers_size_on_16_chunks_of_64_faces(dtype):
    torch.manual_seed(0)
    network, sets = CAFace(PAPER).to(dtype).eval(), make_sets(1, 1024, PAPER, dtype)
    chunk_by_chunk = functools.partial(network.fuse_in_chunks, chunk=64)
    draw = torch.Generator().manual_seed(1)
    within = torch.cat([64 * i + torch.randperm(64, generator=draw) for i in range(16)])
    chunks = torch.arange(1024).view(16, 64)[torch.randperm(16, generator=draw)].flatten()
    with torch.no_grad():
        fused, whole = chunk_by_chunk(sets), network(sets)
        assert_same(chunk_by_chunk(reorder(sets, chunks)), fused, EXACT[dtype])
        assert_same(chunk_by_chunk(reorder(sets, within)), fused, EXACT[dtype])
        encoded = network.encode(sets)
        columns = network.cn(encoded.tokens).weights.sum(dim=1)
        assert_same(columns, torch.ones_like(columns), EXACT[dtype])
        # Company hardly matters before training, yet it does: this must not be asserted to 1e-6.
        assert F.cosine_similarity(fused, whole).item() == pytest.approx(1.0, abs=1e-6)
        network.cn.blocks = nn.ModuleList()
        assert_same(chunk_by_chunk(sets), network(sets), EXACT[dtype])


@pytest.mark.parametrize(
    ("keys", "count"), [("style", 250_715), ("feature+style+norm", 16_279_644)]
)
def test_so_are_those_of_other_keys(keys, count):
    assert count_parameters(CAFace(PAPER, keys=keys)) == count


@pytest.mark.parametrize("keys", ["style", "feature+style+norm"])
def test_networks_of_other_keys_fuse(keys):
    size = SIZE._replace(dimension=24)
    network, sets = lively(size, keys=keys), make_sets(2, 5, size)
    order = [4, 2, 0, 1, 3]
    assert_same(network(sets), network(reorder(sets, order)), 1e-12)
    louder = network(sets._replace(features=3 * sets.features))
    # Without a norm embedding the length of an embedding says nothing.
    assert torch.allclose(network(sets), louder, atol=1e-12) == (keys == "style")


def test_the_norm_table_has_61_rows_of_sines_and_cosines():
    embedding = NormEmbedding(64).double()
    assert embedding.table.shape == (61, 64) and embedding.table.dtype == torch.float64
    frequencies = 10000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    assert_same(embedding.table[30, 0::2], torch.sin(30 * frequencies), 1e-12)
    assert_same(embedding.table[30, 1::2], torch.cos(30 * frequencies), 1e-12)


@pytest.mark.parametrize(
    ("rounding", "norm", "row"),
    [("floor", 19.0, 27), ("trunc", 19.0, 28), ("floor", 21.0, 32), ("trunc", 21.0, 32),
     ("floor", 500.0, 60), ("trunc", 0.0, 0), ("floor", 20.0, 30)],
)  # fmt: skip
def test_norms_fall_into_bins_of_a_tenth_of_a_deviation(rounding, norm, row):
    embedding = NormEmbedding(8, rounding=rounding).eval()
    embedding.running_mean.fill_(20.0)
    embedding.running_var.fill_(16.0)
    code = embedding(torch.tensor([norm]))
    assert_same(code[0], 0.1 * embedding.table[row], 1e-6)


def test_the_norm_embedding_keeps_statistics_as_batch_normalisation_does():
    embedding, reference = NormEmbedding(8), nn.BatchNorm1d(1, affine=False)
    for seed in range(3):
        norms = 20 + 4 * torch.randn(50, generator=torch.Generator().manual_seed(seed))
        code, standard = embedding(norms), reference(norms[:, None])[:, 0]
        bins = (standard.clamp(-3, 3) * 10).floor().long() + 30
        same = (code == 0.1 * embedding.table[bins]).all(dim=1)
        assert same.float().mean() > 0.95  # float32 moves few across the edge of a bin
    assert_same(embedding.running_mean, reference.running_mean, 1e-5)
    assert_same(embedding.running_var, reference.running_var, 1e-5)


def test_no_gradient_flows_to_a_norm():
    norms = torch.tensor([5.0, 20.0, 40.0], requires_grad=True)
    embedding = NormEmbedding(8)
    for code in (embedding(norms), embedding.eval()(norms)):
        gradients = torch.autograd.grad(code.sum(), (norms, embedding.scale), allow_unused=True)
        assert gradients[0] is None and gradients[1].any()


def test_norms_of_another_camera_are_recalibrated():
    network, sets = lively(), make_sets(2, 9)
    darker = sets._replace(features=0.25 * sets.features)
    moved = copy.deepcopy(network)
    norms = torch.linalg.vector_norm(sets.features, dim=2)
    network.recalibrate_norms(norms)
    assert network.norm.running_mean.item() == pytest.approx(norms.mean().item())
    assert network.norm.running_var.item() == pytest.approx(norms.var().item())
    assert not torch.allclose(network(sets), network(darker), atol=1e-4)
    moved.recalibrate_norms(0.25 * norms)
    assert_same(network(sets), moved(darker), 1e-9)
    with pytest.raises(RecordError, match="at least two faces, got 1"):
        network.recalibrate_norms(torch.ones(1))
    with pytest.raises(RecordError, match="finite"):
        network.recalibrate_norms(torch.tensor([1.0, float("inf")]))
    with pytest.raises(ConfigError, match="reads no norms"):
        lively(keys="style").recalibrate_norms(norms)


@both_dtypes
@pytest.mark.parametrize("training", [False, True])
def test_a_padded_set_is_the_set_whatever_the_padding(dtype, training):
    parts = [make_sets(1, 3, dtype=dtype), make_sets(1, 7, dtype=dtype, seed=1)]
    batch = pad_sets(parts)
    dirty = batch._replace(
        features=batch.features.masked_fill(~batch.mask[..., None], float("nan")),
        styles=batch.styles.masked_fill(~batch.mask[..., None, None], 1e30),
    )
    network = lively(dtype=dtype, drop_path=0.0)
    alone = torch.cat([network(part) for part in parts])
    assert_same(network(dirty), alone, EXACT[dtype])
    network.train(training)
    features = dirty.features.clone().requires_grad_()
    network(dirty._replace(features=features)).sum().backward()
    assert features.grad.isfinite().all() and not features.grad[~batch.mask].any()
    assert all(weight.grad.isfinite().all() for weight in network.parameters())
    if training:  # padding is not in the statistics either
        faces = torch.cat([part.styles[0] for part in parts])
        code = network.sim.linear(F.prelu((faces * network.sim.mix).sum(dim=2), network.sim.prelu))
        before = lively(dtype=dtype, drop_path=0.0).sim.bn.running_mean
        assert_same(network.sim.bn.running_mean, before.lerp(code.mean(dim=0), 0.1), 1e-6)


@both_dtypes
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(16)))
def test_order_inside_a_chunk_does_not_matter(dtype, order):
    network, sets = lively(dtype=dtype), make_sets(2, 16, dtype=dtype)
    with torch.no_grad():
        assert_same(network(sets), network(reorder(sets, order)), EXACT[dtype])


@both_dtypes
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(4)))
def test_order_of_chunks_does_not_matter(dtype, order):
    network, sets = lively(dtype=dtype), make_sets(2, 64, dtype=dtype)
    places = np.concatenate([np.arange(16) + 16 * chunk for chunk in order])
    with torch.no_grad():
        straight = network.fuse_in_chunks(sets)
        assert_same(straight, network.fuse_in_chunks(reorder(sets, places)), EXACT[dtype])


@both_dtypes
def test_without_the_transformer_pieces_are_the_whole(dtype):
    network, sets = lively(dtype=dtype), make_sets(2, 50, dtype=dtype)
    with torch.no_grad():
        whole, pieces = network(sets), network.fuse_in_chunks(sets)
        # Who shares a chunk matters a little: the transformer lets faces look at each other.
        assert F.cosine_similarity(whole, pieces).min() > 0.98
        assert (whole - pieces).abs().max() > 1e-6
        network.cn.blocks = nn.ModuleList()
        assert_same(network(sets), network.fuse_in_chunks(sets), EXACT[dtype])


@both_dtypes
def test_weights_sum_to_one(dtype):
    network, sets = lively(dtype=dtype), make_sets(3, 16, dtype=dtype)
    encoded = network.encode(sets)
    weights = network.cn(encoded.tokens, encoded.mask).weights
    assert weights.dtype == torch.float64 and weights.min() > 0 and weights.std() > 0.02
    assert_same(weights.sum(dim=1), torch.ones(3, 16, dtype=torch.float64), 1e-12)
    sums = network.cluster(encoded)
    assert_same(sums.mass.sum(dim=1), torch.full((3,), 16.0, dtype=torch.float64), 1e-12)
    styles = (sums.styles / sums.mass[..., None]).to(dtype)
    shares = network.agn(network.cn.centres, styles)
    assert_same(shares.sum(dim=1), torch.ones(3, 20, dtype=torch.float64), 1e-12)


def sharpen(network: CAFace) -> CAFace:
    """Nearly all weight of a face to one centre: the others receive sums far below 1e-200."""
    with torch.no_grad():
        network.cn.assign.query.weight.mul_(4000.0)
        network.cn.assign.query.bias.mul_(4000.0)
    return network


@both_dtypes
@pytest.mark.parametrize("prepare", [lambda network: network, sharpen], ids=["soft", "sharp"])
@pytest.mark.parametrize("count", [1, 40])
def test_one_face_and_identical_faces_return_that_face(dtype, prepare, count):
    network, sets = prepare(lively(dtype=dtype)), make_sets(3, 1, dtype=dtype)
    unit = F.normalize(sets.features[:, 0], dim=1)
    many = reorder(sets, [0] * count)
    assert_same(network(many), unit, EXACT[dtype])
    assert_same(network.fuse_in_chunks(many), unit, EXACT[dtype])
    clipped = prepare(lively(dtype=dtype, division="clip1"))
    assert (clipped(sets).norm(dim=1) < 0.9).all()  # what the authors' division does to one face
    if prepare is sharpen:
        encoded = network.encode(sets)
        assert 0 < network.cn(encoded.tokens, encoded.mask).weights.min() < 1e-200


@pytest.mark.parametrize("strength", [1.0, 40.0, 4000.0])
def test_gradients_are_finite_however_small_a_weight(strength):
    network, sets = lively(), make_sets(2, 6)
    with torch.no_grad():
        network.cn.assign.query.weight.mul_(strength)
    template_loss(network(sets), torch.ones(2, 20, dtype=torch.float64)).backward()
    for weight in network.parameters():
        assert weight.grad.isfinite().all()


def test_gradients_are_right():
    network = lively(TINY)
    # A norm's bin has no gradient: the probe must not cross an edge, so norms are far outside.
    network.norm.running_mean.fill_(-1e6)
    sets = make_sets(2, 3, TINY)
    network.requires_grad_(False)
    network.sim.mix.requires_grad_(True)
    network.cn.centres.requires_grad_(True)

    def fuse(features, styles, mix, centres):
        weights = {"sim.mix": mix, "cn.centres": centres}
        return torch.func.functional_call(network, weights, (full_sets(features, styles),))

    inputs = (sets.features, sets.styles, network.sim.mix, network.cn.centres)
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(fuse, inputs)


def test_the_authors_division_cuts_the_gradient_of_the_mass():
    mass = torch.tensor([[3.0, 0.5, 1.5, 2.0]], dtype=torch.float64, requires_grad=True)
    for division in ("exact", "clip1"):
        network = lively(division=division)
        values, styles, _ = network.empty(1)
        fused = network.read(Sums(values + 1.0, styles + 1.0, mass))
        (slope,) = torch.autograd.grad(fused.sum() + 0.0 * mass.sum(), mass)
        assert slope.any() == (division == "exact")


def test_the_result_is_linear_in_the_values_for_fixed_keys():
    network = lively()
    encoded = network.encode(make_sets(2, 12))
    other = torch.randn(2, 12, 20, dtype=torch.float64)

    def fuse(values):
        return network.read(network.cluster(encoded._replace(values=values)))

    mixed = fuse(2.0 * encoded.values - 3.0 * other)
    assert_same(mixed, 2.0 * fuse(encoded.values) - 3.0 * fuse(other), 1e-12)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=3, max_size=3))
def test_merging_is_commutative_and_associative_with_an_identity(counts):
    network = lively()
    with torch.no_grad():
        a, b, c = (
            network.cluster(network.encode(make_sets(2, n, seed=i))) for i, n in enumerate(counts)
        )
    for mine, theirs in zip(a.merge(b), b.merge(a), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(a.merge(network.empty(2)), a, strict=True):
        assert torch.equal(mine, theirs)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)), 1e-12)


def test_a_chunk_of_padding_alone_adds_nothing():
    network, sets = lively(), pad_sets([make_sets(1, 5), make_sets(1, 40, seed=1)])
    with torch.no_grad():
        alone = torch.cat([network.fuse_in_chunks(make_sets(1, n, seed=n // 40)) for n in (5, 40)])
        assert_same(network.fuse_in_chunks(sets), alone, 1e-12)
        encoded = network.encode(sets).take(slice(16, 32))
        assert not any(part[0].any() for part in network.cluster(encoded))


@pytest.mark.parametrize("half", ["float16 network", "bfloat16 autocast"])
def test_sums_are_float64_in_every_dtype(half):
    if half == "float16 network":
        network, sets = lively(dtype=torch.float16), make_sets(2, 16, dtype=torch.float16)
        sums = network.cluster(network.encode(sets))
    else:
        network, sets = lively(dtype=torch.float32), make_sets(2, 16, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            sums = network.cluster(network.encode(sets))
    assert all(part.dtype == torch.float64 for part in sums)
    many = Sums(*(part * 1e6 for part in sums))  # 16 million faces
    assert_same(network.read(many).float(), network.read(sums).float(), 2e-3)


def test_sample_weights_are_shares():
    network = lively()
    sets = pad_sets([make_sets(1, 12), make_sets(1, 20, seed=1)])
    shares = network.sample_weights(sets)
    assert (shares >= 0).all() and not shares[~sets.mask].any() and shares.std() > 1e-3
    assert_same(shares.sum(dim=1), torch.ones(2, dtype=torch.float64), 1e-12)
    # Shares are means over the channels; with one centre every channel has the same.
    network = lively(SIZE._replace(centres=1))
    units = F.normalize(sets.features, dim=2)
    shares = network.sample_weights(sets)
    assert_same(network(sets), (shares[..., None] * units).sum(dim=1), 1e-12)


def test_stochastic_depth_drops_branches_of_whole_sets_in_training_only():
    network, sets = lively(), make_sets(1, 6)
    assert [block.drop_path for block in network.cn.blocks] == [0.0, 0.1]
    block = network.cn.blocks[1]
    block.drop_path = 0.5
    tokens = network.encode(sets).tokens.expand(64, -1, -1)
    assert torch.equal(block(tokens, None), block(tokens, None))
    block.train()
    torch.manual_seed(0)
    kinds = block(tokens, None).round(decimals=9).unique(dim=0)
    assert len(kinds) == 4  # each of two branches is there or not
    assert any(torch.allclose(kind, tokens[0], atol=1e-8) for kind in kinds)


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_published_start_has_no_style_and_no_gradient_behind_it(mix):
    network, sets = CAFace(SIZE, style_mix=mix), make_sets(4, 8, dtype=torch.float32)
    code = network.encode(sets).tokens[..., :16]
    assert (code.std() > 0.5) == (mix > 0)
    code.square().sum().backward()
    (network(sets) ** 3).sum().backward()
    assert bool((network.sim.linear.weight.grad.abs() > 1e-9).any()) == (mix > 0)
    assert network.sim.mix.grad.abs().max() > 0


def test_the_start_is_the_papers():
    torch.manual_seed(0)
    network = CAFace(PAPER)
    centres = network.cn.centres.detach()
    assert_same(centres @ centres.T, torch.eye(4), 1e-6)
    assert network.cn.blocks[0].qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.agn.head.fc2.bias.any() and not network.sim.mix.any()
    assert network.norm.scale.item() == pytest.approx(0.1)


def test_what_cannot_be_is_refused():
    network = lively()
    with pytest.raises(ConfigError, match="multiple of 8 numbers, got 4 centres and tokens of 20"):
        CAFace(SIZE._replace(norm_code=4))
    with pytest.raises(RecordError, match="every set must have a face"):
        network.read(network.empty(2))
    with pytest.raises(RecordError, match="reads styles"):
        network(full_sets(make_sets(1, 2).features))
    with pytest.raises(RecordError, match=r"features must be \(B, N, 20\)"):
        network(full_sets(torch.ones(1, 2, 7), torch.ones(1, 2, 5, 2)))
    with pytest.raises(RecordError, match="at least two faces, got 1"):
        network.norm.train()(torch.ones(1))
    with pytest.raises(RecordError, match="needs two faces for its statistics, got 1"):
        network.train()(make_sets(1, 1))
    with pytest.raises(ConfigError, match="a chunk must be of 1 face or more, got 0"):
        network.fuse_in_chunks(make_sets(1, 2), chunk=0)
    for wrong in ({"keys": "norm"}, {"division": "clip"}, {"rounding": "round"}, {"drop_path": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
            CAFace(SIZE, **wrong)


@pytest.mark.parametrize("field", ["features", "styles"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_face_with_numbers_that_are_not_finite_is_refused(field, number):
    sets = make_sets(2, 3)
    broken = getattr(sets, field).clone()
    broken[1, 2].view(-1)[0] = number
    with pytest.raises(RecordError, match=r"must be finite.* leave out faces"):
        lively()(sets._replace(**{field: broken}))


def test_a_batch_of_no_sets_gives_no_embeddings():
    network, sets = lively(), make_sets(0, 3)
    assert network(sets).shape == network.fuse_in_chunks(sets).shape == (0, 20)
    assert network.sample_weights(sets).shape == (0, 3)


# Losses.


def test_the_template_loss_is_a_mean_cosine_distance():
    a = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert template_loss(a, torch.tensor([[5.0, 0.0], [0.0, -1.0]])).item() == 1.0
    assert template_loss(a, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() == 1.0
    assert template_loss(a, a).item() == pytest.approx(0.0, abs=1e-6)
    assert template_loss(a.bfloat16(), a.bfloat16()).dtype == torch.float32
    zero = torch.zeros(2, 2, requires_grad=True)
    template_loss(zero, a).backward()
    assert zero.grad.isfinite().all()
    with pytest.raises(RecordError, match="both be"):
        template_loss(a, a[:1])


def test_the_authors_divide_the_consistency_loss_by_the_batch_twice():
    draw = torch.Generator().manual_seed(0)
    pieces, whole = (torch.randn(256, 8, generator=draw, requires_grad=True) for _ in range(2))
    once = consistency_loss(pieces, whole)
    twice = consistency_loss(pieces, whole, divide_again=True)
    assert twice.item() == pytest.approx(once.item() / 256)
    once.backward()
    assert pieces.grad.abs().sum() > 0 and whole.grad.abs().sum() > 0


def test_one_training_step_fuses_groups_pieces_and_whole():
    network, sets = lively(), make_sets(3, 12)
    centres = torch.randn(3, 20, dtype=torch.float64)
    loss = caface_loss(network, sets, centres, sizes=(2, 6), weight=0.5)
    pieces, whole = network.fuse_in_chunks(sets, chunk=6), network(sets)

    def group(first: int) -> torch.Tensor:
        fused = [network(sets.take(slice(first, first + size))) for size in (2, 6)]
        return sum(template_loss(one, centres) for one in fused) / 2

    parts = [group(0), group(6), template_loss(pieces, centres), template_loss(whole, centres)]
    assert_same(loss.template, sum(parts) / 4, 1e-12)
    assert_same(loss.consistency, consistency_loss(pieces, whole), 1e-12)
    assert_same(loss.total, loss.template + 0.5 * loss.consistency, 1e-12)
    authors = caface_loss(network, sets, centres, sizes=(2, 6), divide_again=True)
    assert_same(authors.consistency, loss.consistency / 3, 1e-12)
    with pytest.raises(RecordError, match="two full groups"):
        caface_loss(network, sets.take(slice(5)), centres, sizes=(2,))
    with pytest.raises(RecordError, match="two full groups"):
        caface_loss(network, pad_sets([sets, make_sets(1, 10)]), centres, sizes=(2,))
    with pytest.raises(ConfigError, match="from 1 to 6"):
        caface_loss(network, sets, centres, sizes=(7,))


def test_an_identitys_centre_is_the_mean_of_unit_embeddings():
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 8.0], [0.0, -2.0]])
    centres = identity_centres(embeddings, torch.tensor([0, 0, 1]), 2)
    assert_same(centres, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]), 1e-6)
    with pytest.raises(RecordError, match="1 of 3 have none"):
        identity_centres(embeddings, torch.tensor([0, 0, 1]), 3)
    with pytest.raises(RecordError, match=r"lie in 0\.\.1, got -1\.\.2"):
        identity_centres(embeddings, torch.tensor([2, 0, -1]), 2)
    with pytest.raises(RecordError, match=r"one label each, got \(3, 2\) and labels \(2,\)"):
        identity_centres(embeddings, torch.tensor([0, 1]), 2)


def test_a_short_training_beats_the_mean():
    """Faces of a set share an error, so the mean stays wrong; the fuser has to find the good."""
    torch.manual_seed(0)
    people = SyntheticSets(0)
    batches = [people.make(16, 16) for _ in range(10)]
    network = CAFace(HeadSize(64, 32, 4, 16, 16), style_mix=0.5)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(30):
        loss = caface_loss(network, *batches[step % 10], sizes=(2 + step % 7,))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    sets, centres = people.make(128, 32)
    with torch.no_grad():
        fused = network.eval().fuse_in_chunks(sets)
    naive = F.cosine_similarity(sets.features.mean(dim=1), centres).mean()
    trained = F.cosine_similarity(fused, centres).mean()
    assert naive < 0.9 and trained > naive + 0.08


def test_synthetic_sets_are_drawn_by_their_seed():
    (first, centres), (again, _) = (SyntheticSets(3).make(4, 5) for _ in range(2))
    assert torch.equal(first.features, again.features) and torch.equal(first.styles, again.styles)
    assert centres.shape == (4, 64) and first.styles.shape == (4, 5, 32, 2)
    best = first.quality.argmax(dim=1)
    cosines = F.cosine_similarity(first.features, centres[:, None], dim=2)
    assert (cosines[torch.arange(4), best] >= cosines.mean(dim=1)).all()
