"""The learned mean: by hand, against torch, order, one face, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, CorruptModelFile, MissingModelFile, ModelError, RecordError
from facestream.models.aggregators import make_aggregator
from facestream.models.fusion import Members
from facestream.models.networks.scalar_fusion import ScalarWeighted, scalar_head
from facestream.models.networks.set_fusion import StyleWeighted
from facestream.models.networks.sets import FaceSets
from facestream.models.scalar_fusion import (
    Keys,
    LearnedMean,
    ScalarHead,
    load_scalar_head,
    save_scalar_head,
    scalar_inputs,
)

C, K = 6, 3


def make_members(seed: int, count: int) -> Members:
    draw = np.random.default_rng(seed)
    embeddings = draw.normal(size=(count, C)).astype(np.float32)
    return Members(
        embeddings,
        np.linalg.norm(embeddings, axis=1),
        draw.uniform(-0.1, 1.0, count).astype(np.float32),
        draw.normal(size=(count, K, 2)).astype(np.float32),
    )


def trained(keys: Keys, seed: int = 0) -> ScalarWeighted:
    """A network whose every weight and statistic is some number."""
    generator = torch.Generator().manual_seed(seed)
    network = ScalarWeighted(C, K, keys=keys, hidden=5)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var"):
                tensor.abs_()
    return network.eval()


def one_weight(score: float) -> ScalarHead:
    """A head of K = 1 without extra keys, whose score is score * relu(mean) + 0.5."""
    arrays = {
        "norm.weight": np.ones(2),
        "norm.bias": np.zeros(2),
        "norm.running_mean": np.zeros(2),
        "norm.running_var": np.full(2, 1.0 - 1e-5),
        "fc1.weight": np.array([[1.0, 0.0]]),
        "fc1.bias": np.zeros(1),
        "fc2.weight": np.array([[score]]),
        "fc2.bias": np.array([0.5]),
    }
    return ScalarHead("style", 2, arrays)


def fuse(one: LearnedMean, members: Members) -> np.ndarray:
    return one.read(one.update(one.empty(), members))


def test_two_faces_by_hand() -> None:
    # Scores 0.5 + log 3 * (1, 0): weights in the ratio 3 to 1.
    members = Members(
        np.array([[2.0, 0.0], [0.0, 5.0]], np.float32),
        np.array([2.0, 5.0], np.float32),
        np.zeros(2, np.float32),
        np.array([[[1.0, 9.0]], [[-4.0, 9.0]]], np.float32),
    )
    one = LearnedMean(one_weight(np.log(3.0)))
    np.testing.assert_allclose(fuse(one, members), np.array([3.0, 1.0]) / np.sqrt(10), atol=1e-7)
    state = one.update(one.empty(), members)
    np.testing.assert_allclose(one.weigh(members)[:, 0] * one.inspect(state).gain, [0.75, 0.25])


def test_inputs_by_hand() -> None:
    members = make_members(3, 2)._replace(
        norms=np.array([1.0, np.e], np.float32), qualities=np.array([-3.0, 0.99], np.float32)
    )
    rows = scalar_inputs(members, "style+norm+quality")
    np.testing.assert_allclose(rows[:, :6], members.styles.reshape(2, 6))
    np.testing.assert_allclose(rows[0, 6:], [0.0, 0.0, np.log(0.01)], atol=1e-6)
    np.testing.assert_allclose(rows[1, 6:], [1.0, 0.99, 0.0], atol=1e-6)


@pytest.mark.parametrize("keys", ["style", "style+norm", "style+quality", "style+norm+quality"])
def test_live_equals_torch(keys: Keys) -> None:
    network, members = trained(keys), make_members(1, 9)
    rows = [torch.from_numpy(np.asarray(column))[None] for column in members]
    sets = FaceSets(rows[0], torch.ones(1, 9, dtype=torch.bool), rows[3], rows[2])
    one = LearnedMean(scalar_head(network))
    weights = one.weigh(members)[:, 0]
    expected = network.weigh(sets)[0].detach().numpy()
    np.testing.assert_allclose(weights / weights.sum(), expected, atol=1e-6)
    fused = network(sets)[0].detach().numpy()
    np.testing.assert_allclose(fuse(one, members), fused / np.linalg.norm(fused), atol=1e-6)


def test_the_learned_scalar_on_style_converts_as_well() -> None:
    network = StyleWeighted(C, K, hidden=4).eval()
    torch.nn.init.normal_(network.fc2.weight, generator=torch.Generator().manual_seed(2))
    members = make_members(2, 5)
    sets = FaceSets(
        torch.from_numpy(members.embeddings)[None],
        torch.ones(1, 5, dtype=torch.bool),
        torch.from_numpy(members.styles)[None],
    )
    weights = LearnedMean(scalar_head(network)).weigh(members)[:, 0]
    expected = network.weigh(sets)[0].detach().numpy()
    np.testing.assert_allclose(weights / weights.sum(), expected, atol=1e-6)


def test_padding_does_not_matter_in_training() -> None:
    network = trained("style+norm+quality").train()
    network.drop.p = 0.0
    members = make_members(4, 4)
    rows = [
        torch.from_numpy(np.asarray(column)).reshape(2, 2, *column.shape[1:]) for column in members
    ]
    mask = torch.tensor([[True, True], [True, False]])
    spoilt = [row.clone() for row in rows]
    for row in spoilt:
        row[1, 1] = torch.nan
    first = network(FaceSets(rows[0], mask, rows[3], rows[2]))
    again = network(FaceSets(spoilt[0], mask, spoilt[3], spoilt[2]))
    torch.testing.assert_close(first, again)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 30), data=st.data())
def test_order_and_batches_do_not_matter(seed: int, count: int, data: st.DataObject) -> None:
    one, members = (
        LearnedMean(scalar_head(trained("style+norm+quality"))),
        make_members(seed, count),
    )
    order = data.draw(st.permutations(range(count)))
    cut = data.draw(st.integers(0, count))
    mixed = Members(*(column[list(order)] for column in members))
    np.testing.assert_allclose(fuse(one, mixed), fuse(one, members), atol=1e-6)
    first = one.update(one.empty(), members.take(slice(cut)))
    whole = one.update(one.empty(), members)
    pieces = one.update(first, members.take(slice(cut, None)))
    assert np.array_equal(pieces.values, whole.values) and np.array_equal(pieces.mass, whole.mass)
    rest = one.update(one.empty(), members.take(slice(cut, None)))
    np.testing.assert_allclose(one.merge(first, rest).values, whole.values, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_face_gives_itself_however_extreme_its_score(scale: float) -> None:
    head = scalar_head(trained("style+norm+quality"))
    arrays = dict(head.arrays) | {"fc2.bias": np.array([-scale])}
    one = LearnedMean(ScalarHead(head.keys, head.dimension, arrays))
    members = make_members(6, 1)
    unit = members.embeddings[0] / np.linalg.norm(members.embeddings[0])
    np.testing.assert_allclose(fuse(one, members), unit, atol=1e-7)


def test_nobody_cannot_be_read() -> None:
    one = LearnedMean(one_weight(1.0))
    with pytest.raises(RecordError):
        one.read(one.empty())
    with pytest.raises(RecordError, match="styles must be"):
        one.update(one.empty(), make_members(0, 2)._replace(embeddings=np.ones((2, 2), np.float32)))


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    head = scalar_head(trained("style+quality"))
    path = tmp_path / "head.npz"
    save_scalar_head(path, head)
    again = load_scalar_head(path, dimension=C, styles=K)
    assert (again.keys, again.dimension, again.styles) == ("style+quality", C, K)
    one = make_aggregator("learned", dimension=C, head_path=path)
    assert one.name == "learned"
    members = make_members(8, 7)
    np.testing.assert_allclose(fuse(LearnedMean(head), members), fuse(LearnedMean(again), members))
    for wrong in ({"dimension": C + 1}, {"styles": K + 1}):
        with pytest.raises(ModelError, match="own pack"):
            load_scalar_head(path, **wrong)
    with pytest.raises(MissingModelFile, match="no learned fusion head"):
        load_scalar_head(tmp_path / "absent.npz")
    with pytest.raises(MissingModelFile, match="aggregator learned needs a head"):
        make_aggregator("learned", dimension=C)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": np.array("norm")}, "keys must be one of"),
        ({"dimension": np.array(1.5)}, "dimension must be one integer"),
        ({"dimension": np.array(0)}, "dimension 1 or more"),
        ({"fc1.weight": np.zeros((5, 2), np.float32)}, r"fc1\.weight must be \(5, 8\)"),
        ({"fc2.bias": np.array([np.nan], np.float32)}, "finite"),
        ({"fc2.bias": np.array(["a"])}, r"fc2\.bias must be floats"),
        ({"norm.running_var": np.full(8, -1, np.float32)}, "must not be negative"),
        ({"extra": np.zeros(1, np.float32)}, "must hold"),
        ({"keys": np.array("style+norm")}, "8 inputs cannot be"),
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    save_scalar_head(good, scalar_head(trained("style+quality")))
    with np.load(good) as arrays:
        np.savez(bad, **(dict(arrays) | change))
    with pytest.raises(CorruptModelFile, match=message):
        load_scalar_head(bad)


def test_unknown_keys_are_refused_in_training() -> None:
    with pytest.raises(ConfigError, match="keys must be one of"):
        ScalarWeighted(C, K, keys="quality")  # type: ignore[arg-type]
