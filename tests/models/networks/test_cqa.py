"""CQA-Face: the sizes of its parts, its equations, and what must hold for any weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, RecordError
from facestream.models.networks.backbone import Backbone, make_backbone, stages_to_styles
from facestream.models.networks.cqa import (
    Attention,
    Branches,
    CQAFace,
    LANet,
    QualityNetwork,
    pool_parts,
    relation_vectors,
)
from facestream.models.networks.cqa_losses import Reading, contrastive_attention_loss

READINGS: tuple[Reading, ...] = ("pixel", "mean", "sum")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


M = TypeVar("M", bound=nn.Module)


def mixed_norms(network: M) -> M:
    """The network in eval mode, its batch norms as if trained: no scale 1, no shift 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.2, 1)  # so that ReLUs are alive
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


class TestAttention:
    """LANets and equation 1."""

    def test_parameters(self) -> None:
        assert parameters_of(LANet(512)) == 512 * 32 + 32 + 32 + 1 == 16_449
        assert parameters_of(Attention(512, 4)) == 4 * 16_449

    def test_maps_and_parts(self) -> None:
        last_map = torch.randn(3, 32, 5, 4)
        attention = Attention(32, 2).eval()
        maps, parts = attention(last_map)
        assert maps.shape == (3, 2, 5, 4) and parts.shape == (3, 2, 32)
        assert maps.min() > 0 and maps.max() < 1
        assert torch.equal(maps[:, 1:], attention.lanets[1](last_map))

    def test_parts_are_pooled_products(self) -> None:
        last_map = torch.randn(2, 6, 3, 4, dtype=torch.float64)
        maps = torch.rand(2, 3, 3, 4, dtype=torch.float64)
        products = maps[:, :, None] * last_map[:, None]  # (B, b, D, H, W)
        assert torch.allclose(pool_parts(last_map, maps), products.mean(dim=(3, 4)), atol=1e-15)

    def test_full_attention_leaves_the_map_as_it_is(self) -> None:
        """M = 1, so O = X and P = GAP(X)."""
        last_map = torch.randn(2, 6, 3, 4, dtype=torch.float64)
        parts = pool_parts(last_map, torch.ones(2, 1, 3, 4, dtype=torch.float64))
        assert torch.allclose(parts[:, 0], last_map.mean(dim=(2, 3)), atol=1e-15)

    @pytest.mark.parametrize("reading", READINGS)
    def test_copies_never_part_and_fresh_branches_do(self, reading: Reading) -> None:
        last_map = torch.randn(4, 32, 3, 3)

        def largest_gradient(attention: Attention) -> float:
            loss = contrastive_attention_loss(attention(last_map)[0], sigma=0.1, reading=reading)
            gradients = torch.autograd.grad(loss, list(attention.parameters()))
            return max(gradient.abs().max().item() for gradient in gradients)

        attention = Attention(32, 3)
        fresh = largest_gradient(attention)
        for lanet in attention.lanets[1:]:
            lanet.load_state_dict(attention.lanets[0].state_dict())
        assert largest_gradient(attention) == 0
        assert fresh > 0

    def test_which_readings_act_on_fresh_branches(self) -> None:
        """At 512 channels: "sum" never; "mean" with small weights only; "pixel" always."""
        attention = Attention(512, 4).eval()
        last_map = torch.randn(8, 512, 7, 7)

        def losses() -> dict[str, float]:
            with torch.no_grad():
                maps, _ = attention(last_map)
            return {r: contrastive_attention_loss(maps, reading=r).item() for r in READINGS}

        small = losses()
        for module in attention.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        large = losses()
        assert small["sum"] == large["sum"] == large["mean"] == 0
        assert small["mean"] > 0.1 and small["pixel"] > 0.3 and large["pixel"] > 0.05

    def test_dropout_hides_places_of_each_branch_in_training_only(self) -> None:
        attention = Attention(32, 2, dropout=0.5)
        last_map = torch.randn(3, 32, 3, 3)
        maps, parts = attention(last_map)
        assert not torch.allclose(parts, pool_parts(last_map, maps))
        maps, parts = attention.eval()(last_map)
        assert torch.equal(parts, pool_parts(last_map, maps))

    def test_refusals(self) -> None:
        for wrong in ({"branches": 0}, {"dropout": 1.0}):
            with pytest.raises(ConfigError, match="1 branch or more and dropout in"):
                Attention(32, **wrong)
        for reduction in (0, 33):
            with pytest.raises(ConfigError, match="reduction must be from 1 to the 32 channels"):
                LANet(32, reduction)


def lively_quality_network(*, channel_mean: bool = False) -> QualityNetwork:
    """Small, float64, eval mode; no ReLU behind the relations is dead and no sigmoid saturated."""
    network = mixed_norms(QualityNetwork(16, 3, reduction=1, channel_mean=channel_mean)).double()
    for layer in (network.nu[0], network.theta[0]):
        layer.weight.data.abs_()
    network.theta[3].weight.data *= 0.1
    return network


class TestQualityNetwork:
    """QAN, equations 4 to 6."""

    @pytest.mark.parametrize("channel_mean", [False, True])
    @pytest.mark.parametrize("branches", [1, 4, 5])
    def test_parameters_follow_the_formula(self, branches: int, channel_mean: bool) -> None:
        inner, joint = 32, (1 if channel_mean else 32) + 2 * branches
        hidden = math.ceil(joint / 8)
        expected = (
            3 * (512 * inner + 2 * inner)
            + (4 * branches**2 + 4 * branches)
            + (joint * hidden + 2 * hidden)
            + (hidden + 2)
        )
        network = QualityNetwork(512, branches, channel_mean=channel_mean)
        assert parameters_of(network) == expected
        if branches == 4:
            assert expected == (49_450 if channel_mean else 49_641)
            assert network.theta[0].weight.shape[:2] == ((2, 9) if channel_mean else (5, 40))

    @pytest.mark.parametrize("channel_mean", [False, True])
    def test_one_quality_per_part(self, channel_mean: bool) -> None:
        network = QualityNetwork(32, 3, reduction=4, channel_mean=channel_mean)
        parts = 5 * torch.randn(6, 3, 32)
        for mode in (True, False):
            qualities = network.train(mode)(parts)
            assert qualities.shape == (6, 3)
            assert qualities.min() > 0 and qualities.max() < 1

    def test_relation_vectors_are_row_then_column(self) -> None:
        relations = torch.arange(9.0).reshape(1, 3, 3)
        expected = [[0, 1, 2, 0, 3, 6], [3, 4, 5, 1, 4, 7], [6, 7, 8, 2, 5, 8]]
        assert relation_vectors(relations)[0].tolist() == expected

    @pytest.mark.parametrize("channel_mean", [False, True])
    def test_equations_written_out(self, channel_mean: bool) -> None:
        """Part by part and relation by relation, for one face in eval mode."""
        network = lively_quality_network(channel_mean=channel_mean)
        parts = torch.randn(1, 3, 16, dtype=torch.float64)
        assert network(parts).std() > 1e-3

        def through(layer: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
            return layer(vector[None, :, None])[0, :, 0]

        relations = torch.empty(3, 3, dtype=torch.float64)
        for i in range(3):
            for j in range(3):
                relations[i, j] = through(network.phi, parts[0, i]) @ through(
                    network.psi, parts[0, j]
                )
        for i in range(3):
            own = through(network.mu, parts[0, i])
            if channel_mean:
                own = own.mean()[None]
            related = through(network.nu, torch.cat([relations[i, :], relations[:, i]]))
            score = through(network.theta, torch.cat([own, related]))
            expected = 1 / (1 + torch.exp(-score))
            assert network(parts)[0, i].item() == pytest.approx(expected.item(), abs=1e-12)

    def test_the_order_of_branches_counts_unless_nu_is_permuted_too(self) -> None:
        network = lively_quality_network()
        parts = torch.randn(4, 3, 16, dtype=torch.float64)
        order = [2, 0, 1]
        expected = network(parts)[:, order]
        assert not torch.allclose(network(parts[:, order]), expected, atol=1e-4)
        permuted = copy.deepcopy(network)
        inputs = order + [3 + k for k in order]
        permuted.nu[0].weight.data = network.nu[0].weight.data[:, inputs]
        assert torch.allclose(permuted(parts[:, order]), expected, atol=1e-12)

    def test_gradient(self) -> None:
        network = lively_quality_network()
        parts = torch.randn(1, 3, 16, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(network, parts)

    def test_refusal(self) -> None:
        network = QualityNetwork(32, 3)
        for shape in [(2, 4, 32), (2, 3, 16), (3, 32)]:
            with pytest.raises(RecordError, match=r"takes parts \(B, 3, 32\)"):
                network(torch.zeros(shape))


@pytest.fixture(scope="module")
def network() -> CQAFace:
    """On the compact backbone, as if trained, eval mode. Not to be changed."""
    torch.manual_seed(1)
    return mixed_norms(CQAFace(make_backbone("mobile")))


class TestCQAFace:
    """The whole network, a backbone like any other."""

    def test_it_is_a_backbone(self, network: CQAFace) -> None:
        images = torch.rand(2, 3, 112, 112) * 2 - 1
        assert isinstance(network, Backbone)
        assert (network.dimension, network.map_channels, network.style_channels) == (512, 512, 192)
        with torch.no_grad():
            embeddings, styles = network.with_styles(images)
            assert embeddings.shape == (2, 512) and styles.shape == (2, 192, 2)
            assert torch.equal(embeddings, network(images))
            assert torch.equal(styles, stages_to_styles(network.stem.stages(images)))
            again, branches = network.with_branches(images)
        assert torch.equal(again, embeddings)
        assert branches.maps.shape == (2, 4, 7, 7)
        assert branches.parts.shape == (2, 4, 512)
        assert branches.qualities.shape == (2, 4)
        assert torch.equal(network.head(network.feature_map(images)), embeddings)

    def test_faces_do_not_depend_on_each_other(self, network: CQAFace) -> None:
        last_map = torch.randn(3, 512, 7, 7)
        together, alone = network.head(last_map), network.head(last_map[:1])
        assert torch.allclose(together[:1], alone, atol=1e-5)

    def test_parameters(self) -> None:
        with torch.device("meta"):
            network = CQAFace(make_backbone("iresnet18"))
            whole = make_backbone("iresnet18")
        assert parameters_of(network.fc) == 2048 * 512 + 512 == 1_049_088
        replaced = parameters_of(whole.fc) + parameters_of(whole.features)
        expected = parameters_of(whole) - replaced + 4 * 16_449 + 49_641 + 1_049_088 + 2 * 512
        assert parameters_of(network) == expected

    @pytest.mark.parametrize("name", ["mobile", "iresnet18"])
    def test_training_reaches_every_parameter(self, name: str) -> None:
        """Nothing of the stem's own head is left to be carried along unused."""
        with torch.device("meta"):
            network = CQAFace(make_backbone(name), dropout=0.1)
            embeddings, branches = network.with_branches(torch.empty(2, 3, 112, 112))
            loss = embeddings.sum() + 0.5 * contrastive_attention_loss(branches.maps)
            loss.backward()
        assert [n for n, p in network.named_parameters() if p.grad is None] == []

    def test_full_quality_is_plain_concatenation(self, network: CQAFace) -> None:
        last_map = torch.randn(2, 512, 7, 7)
        with torch.no_grad():
            branches = network.branches(last_map)
            whole = network.join(branches._replace(qualities=torch.ones(2, 4)))
            plain = network.features(network.fc(branches.parts.flatten(1)))
            weighed = network.join(branches)
        assert torch.equal(whole, plain)
        assert not torch.allclose(weighed, plain, atol=1e-3)

    def test_without_weighing_there_is_no_quality_network(self) -> None:
        with torch.device("meta"):
            network = CQAFace(make_backbone("mobile"), weigh=False)
        assert not any(isinstance(module, QualityNetwork) for module in network.modules())
        network = network.to_empty(device="cpu")
        branches = network.branches(torch.randn(2, 512, 7, 7))
        assert torch.equal(branches.qualities, torch.ones(2, 4))

    def test_parts_count_times_their_quality(self, network: CQAFace) -> None:
        """Equation 7."""
        parts, qualities = torch.randn(2, 4, 512), torch.rand(2, 4)
        maps = torch.ones(2, 4, 7, 7)
        weighed = torch.stack([qualities[:, i, None] * parts[:, i] for i in range(4)], dim=1)
        expected = network.join(Branches(maps, weighed, torch.ones(2, 4)))
        assert torch.equal(network.join(Branches(maps, parts, qualities)), expected)

    def test_evaluation_is_deterministic(self) -> None:
        network = CQAFace(make_backbone("mobile"), dropout=0.5).eval()
        last_map = torch.randn(2, 512, 7, 7)
        assert torch.equal(network.head(last_map), network.head(last_map))

    def test_autocast_keeps_embeddings_in_float32(self, network: CQAFace) -> None:
        last_map = torch.randn(2, 512, 7, 7)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            half = network.head(last_map)
        full = network.head(last_map)
        assert half.dtype == torch.float32
        assert torch.cosine_similarity(half, full).min() > 0.99

    def test_refusals(self, network: CQAFace) -> None:
        with pytest.raises(ConfigError, match="must be a plain backbone, got a CQAFace"):
            CQAFace(network)
        with torch.device("meta"), pytest.raises(ConfigError, match="must be 1 or more, got 0"):
            CQAFace(make_backbone("mobile"), dimension=0)
        with pytest.raises(RecordError, match=r"takes images \(B, 3, 112, 112\)"):
            network.with_branches(torch.zeros(2, 3, 96, 112))
