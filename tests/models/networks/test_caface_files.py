"""CAFace's weights in files: what is trained in torch is what runs live, to the last digit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from facestream import ConfigError, CorruptModelFile, MissingModelFile
from facestream.models.caface import CAFace as LiveCAFace
from facestream.models.caface_head import (
    CAFaceHead,
    HeadSize,
    head_shapes,
    load_head,
    random_head,
    save_head,
)
from facestream.models.fusion import Members
from facestream.models.networks.caface import CAFace
from facestream.models.networks.caface_files import (
    head_from_network,
    load_caface,
    network_from_checkpoint,
    network_from_head,
)
from facestream.models.networks.sets import FaceSets, full_sets

SIZE = HeadSize(dimension=20, styles=5, centres=4, style_code=16, norm_code=24)


def lively_head(**conventions) -> CAFaceHead:
    """A head whose every array was drawn: nothing is 0 or 1 by its start."""
    head, draw = random_head(0, SIZE, style_mix=0.5), np.random.default_rng(0)
    arrays = {
        name: 8 * array + 0.2 * draw.standard_normal(array.shape)
        if array.ndim == 2 and name.startswith(("cn.blocks", "cn.assign", "agn."))
        else array + 0.2 * draw.standard_normal(array.shape)
        for name, array in head.arrays.items()
    }
    arrays["sim.bn.running_var"] = draw.uniform(0.5, 2, SIZE.style_code)
    arrays["norm.running_mean"], arrays["norm.running_var"] = np.array([20.0]), np.array([64.0])
    single = {name: array.astype(np.float32).astype(np.float64) for name, array in arrays.items()}
    return replace(head, arrays=single, **conventions)


def make_members(count: int) -> Members:
    draw = np.random.default_rng(count)
    embeddings = draw.standard_normal((count, SIZE.dimension))
    norms = draw.uniform(1, 40, (count, 1))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) * norms).astype(
        np.float32
    )
    return Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        np.ones(count, np.float32),
        draw.standard_normal((count, SIZE.styles, 2)).astype(np.float32),
    )


def as_sets(members: Members, dtype: torch.dtype) -> FaceSets:
    embeddings, styles = (torch.from_numpy(x).to(dtype)[None] for x in (members[0], members[3]))
    return full_sets(embeddings, styles)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("conventions", [{}, {"division": "clip1", "rounding": "trunc"}], ids=str)
@pytest.mark.parametrize("count", [1, 16, 41])
def test_the_network_of_a_head_does_what_the_head_does_live(dtype, tolerance, conventions, count):
    head, members = lively_head(**conventions), make_members(count)
    network, live = network_from_head(head, dtype=dtype), LiveCAFace(head)
    # Merging with a track of none closes the last chunk, so that the sums hold every face.
    chunks = [members.take(slice(i, i + 16)) for i in range(0, count, 16)]
    state = live.empty()
    for chunk in chunks:
        state = live.merge(state, live.merge(live.update(live.empty(), chunk), live.empty()))
    state = live.merge(state, state)  # closes a single open chunk too; means stay
    with torch.no_grad():
        encoded = network.encode(as_sets(members, dtype))
        sums = network.empty(1)
        for start in range(0, count, 16):
            sums = sums.merge(network.cluster(encoded.take(slice(start, start + 16))))
        sums = sums.merge(sums)
        fused, gain = network.aggregate(sums)
        assert torch.equal(fused, network.read(sums))
    for ours, theirs in zip(sums, (state.values, state.styles, state.mass), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=tolerance * scale)
    divisor = state.mass if head.division == "exact" else np.maximum(state.mass, 1.0)
    shares = live.aggregate(state.styles / divisor[:, None])
    expected = (shares * (state.values / divisor[:, None])).sum(axis=0)
    np.testing.assert_allclose(fused[0].numpy(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(gain[0].numpy(), live.inspect(state).gain, rtol=tolerance * 10)
    unit = fused[0].double() / fused[0].double().norm()
    np.testing.assert_allclose(unit.numpy(), live.read(state), rtol=0, atol=max(tolerance, 1e-7))


def test_shares_of_faces_agree_too():
    head, members = lively_head(), make_members(12)
    network, live = network_from_head(head, dtype=torch.float64), LiveCAFace(head)
    reading = live.inspect(live.update(live.empty(), members))
    shares = network.sample_weights(as_sets(members, torch.float64))[0]
    np.testing.assert_allclose(shares.detach(), reading.pending @ reading.gain, atol=1e-12)


def test_a_trained_network_survives_the_heads_file(tmp_path):
    torch.manual_seed(0)
    network = CAFace(SIZE, style_mix=0.5, rounding="trunc")
    sets = as_sets(make_members(8), torch.float32)
    network(sets).sum().backward()  # moves the running statistics
    network.eval()
    save_head(tmp_path / "head.npz", head_from_network(network))
    again = network_from_head(load_head(tmp_path / "head.npz"))
    assert (again.division, again.norm.rounding) == ("exact", "trunc")
    assert torch.equal(network(sets), again(sets))
    counter = "sim.bn.num_batches_tracked"
    for name, weight in network.state_dict().items():
        assert name == counter or torch.equal(weight, again.state_dict()[name]), name
    assert network.state_dict().keys() - {counter} == head_shapes(SIZE).keys()


def test_only_the_papers_keys_have_a_head():
    with pytest.raises(ConfigError, match='this network has "style"'):
        head_from_network(CAFace(SIZE, keys="style"))
    network = CAFace(SIZE)
    with torch.no_grad():
        network.norm.scale.fill_(torch.nan)
    with pytest.raises(CorruptModelFile, match=r"norm\.scale"):
        head_from_network(network)


def authors_state(size: HeadSize) -> dict[str, torch.Tensor]:
    """A checkpoint in the layout of the release, written out from its modules' names."""
    wide = 2 * size.token
    layer, mlp = "fusion_net.clustering_layer", "fusion_net.conf_mlp"
    shapes = {
        "style_maker.cfc": (size.styles, 2),
        "style_maker.cfcs.0": (size.styles, 2),
        "style_maker.relu.weight": (1,),
        **linear("style_maker.linear", size.style_code, size.styles),
        **scale("style_maker.bn", size.style_code),
        "style_maker.bn.running_mean": (size.style_code,),
        "style_maker.bn.running_var": (size.style_code,),
        "norm_emb.norm_bn.running_mean": (1,),
        "norm_emb.norm_bn.running_var": (1,),
        "norm_emb.pe": (61, size.norm_code),
        "norm_emb.scale": (),
        f"{layer}.group_token": (1, size.centres, size.token),
        **scale(f"{layer}.cluster_block.norm_tokens", size.token),
        **scale(f"{layer}.cluster_block.norm_x", size.token),
        **linear(f"{layer}.cluster_block.assign.q_proj", size.token, size.token),
        **linear(f"{layer}.cluster_block.assign.k_proj", size.token, size.token),
        **linear(f"{mlp}.2.fc1", wide, wide),
        **linear(f"{mlp}.2.fc2", size.dimension, wide),
    }
    for i in (0, 1):
        block, mixer = f"{layer}.blocks.{i}", f"{mlp}.{i}"
        shapes |= scale(f"{block}.norm1", size.token) | scale(f"{block}.norm2", size.token)
        shapes |= linear(f"{block}.attn.qkv", 3 * size.token, size.token)
        shapes |= linear(f"{block}.attn.proj", size.token, size.token)
        shapes |= linear(f"{block}.mlp.fc1", 4 * size.token, size.token)
        shapes |= linear(f"{block}.mlp.fc2", size.token, 4 * size.token)
        shapes |= scale(f"{mixer}.ln", wide) | {f"{mixer}.skip_connect_gate": ()}
        shapes |= linear(f"{mixer}.tokens_mlp_block.fc1", 2 * size.centres, size.centres)
        shapes |= linear(f"{mixer}.tokens_mlp_block.fc2", size.centres, 2 * size.centres)
        shapes |= linear(f"{mixer}.channels_mlp_block.fc1", size.token, wide)
        shapes |= linear(f"{mixer}.channels_mlp_block.fc2", wide, size.token)
    draw = torch.Generator().manual_seed(0)
    state = {f"aggregator.{name}": torch.rand(s, generator=draw) for name, s in shapes.items()}
    for bn in ("style_maker.bn", "norm_emb.norm_bn"):
        state[f"aggregator.{bn}.num_batches_tracked"] = torch.tensor(7)
    return state | {"center.weight": torch.zeros(9, 4), "model.input_layer.0.weight": torch.ones(3)}


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def scale(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


@pytest.mark.parametrize("size", [SIZE, HeadSize(512, 384, 4)], ids=["small", "published"])
def test_the_authors_checkpoint_loads_by_its_keys(tmp_path, size):
    state = authors_state(size)
    torch.save({"epoch": 9, "state_dict": state}, tmp_path / "released.ckpt")
    network = load_caface(tmp_path / "released.ckpt")
    assert network.size == size and not network.training
    assert (network.division, network.norm.rounding) == ("clip1", "trunc")
    held = network.state_dict()
    places = {
        "style_maker.cfcs.0": "sim.mix",
        "fusion_net.clustering_layer.blocks.1.attn.qkv.weight": "cn.blocks.1.qkv.weight",
        "fusion_net.clustering_layer.cluster_block.norm_tokens.bias": "cn.assign.norm_centres.bias",
        "fusion_net.clustering_layer.cluster_block.assign.k_proj.weight": "cn.assign.key.weight",
        "fusion_net.conf_mlp.0.tokens_mlp_block.fc2.weight": "agn.mixers.0.tokens.fc2.weight",
        "fusion_net.conf_mlp.1.ln.weight": "agn.mixers.1.norm.weight",
        "fusion_net.conf_mlp.2.fc1.bias": "agn.head.fc1.bias",
        "norm_emb.norm_bn.running_var": "norm.running_var",
    }
    for theirs, ours in places.items():
        assert torch.equal(state[f"aggregator.{theirs}"], held[ours]), ours
    gate = state["aggregator.fusion_net.conf_mlp.0.skip_connect_gate"]
    assert torch.equal(gate[None], held["agn.mixers.0.gate"])
    group = state["aggregator.fusion_net.clustering_layer.group_token"]
    assert torch.equal(group[0], held["cn.centres"])
    assert len(held) == len([key for key in state if key.startswith("aggregator.")]) - 3
    assert head_from_network(network).division == "clip1"


SCALE = "aggregator.norm_emb.scale"
TOKEN = "aggregator.fusion_net.clustering_layer.group_token"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({SCALE: None}, r"1 missing \(aggregator\.norm_emb\.scale\), 0 unknown"),
        (
            {"aggregator.extra": torch.ones(1)},
            r"0 missing \(none\), 1 unknown \(aggregator\.extra\)",
        ),
        (
            {SCALE: torch.ones(2)},
            r"1 wrong \(aggregator\.norm_emb\.scale is \(2,\) instead of \(\)\)",
        ),
        ({TOKEN: torch.ones(4, 40)}, r"group_token must be \(1, M, D\).* got \(4, 40\)"),
        ({TOKEN: torch.ones(1, 4, 16)}, r"D above the style code's 16"),
        ({TOKEN: torch.ones(1, 4, 41)}, "multiple of 8, got 41"),
        ({TOKEN: torch.ones(1, 4, 48)}, "instead of"),
        ({SCALE: torch.tensor(torch.inf)}, r"norm_emb\.scale must hold finite numbers"),
    ],
)
def test_a_mismatch_names_the_keys(change, message):
    state = {k: v for k, v in (authors_state(SIZE) | change).items() if v is not None}
    with pytest.raises(CorruptModelFile, match=message):
        network_from_checkpoint(state)


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(MissingModelFile):
        load_caface(tmp_path / "none.ckpt")
    torch.save({"model.weight": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CorruptModelFile, match=r"other\.ckpt must .*\b70 missing .* more\)"):
        load_caface(tmp_path / "other.ckpt")
