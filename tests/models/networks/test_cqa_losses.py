"""CQA-Face's losses and diagnostics: the paper's constants in numbers, ranges, symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facestream import ConfigError, RecordError
from facestream.models.networks.cqa_losses import (
    Reading,
    active_fraction,
    contrastive_attention_loss,
    diverse_attention_loss,
    map_correlation,
    most_branches,
    settled_difference,
)

READINGS: tuple[Reading, ...] = ("pixel", "mean", "sum")
quick = settings(max_examples=25, deadline=None)


def constant_maps(*levels: float, batch: int = 2, side: int = 3) -> Tensor:
    """One constant map per branch, float64."""
    return torch.tensor(levels, dtype=torch.float64)[None, :, None, None].expand(
        batch, -1, side, side
    )


def random_maps(seed: int, branches: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, branches, 3, 3, generator=generator, dtype=torch.float64)


class TestContrastiveAttentionLoss:
    """L_CAL, equation 2."""

    @quick
    @given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from(READINGS))
    def test_range(self, seed: int, branches: int, reading: Reading) -> None:
        maps = random_maps(seed, branches)
        assert 0 <= contrastive_attention_loss(maps, reading=reading).item() <= 0.8
        without_margin = contrastive_attention_loss(maps, margin=0.0, reading=reading).item()
        assert 0 < without_margin <= 1

    @pytest.mark.parametrize("reading", READINGS)
    def test_identical_maps_cost_one_minus_t_and_have_no_gradient(self, reading: Reading) -> None:
        maps = random_maps(3, 1).expand(-1, 4, -1, -1).clone().requires_grad_()
        loss = contrastive_attention_loss(maps, reading=reading)
        assert loss.item() == pytest.approx(0.8, abs=1e-15)
        loss.backward()
        assert maps.grad is not None and not maps.grad.any()

    @quick
    @given(st.integers(0, 10**6), st.permutations(range(4)), st.sampled_from(READINGS))
    def test_the_order_of_branches_does_not_matter(
        self, seed: int, order: list[int], reading: Reading
    ) -> None:
        maps = 0.3 * random_maps(seed, 4)
        expected = contrastive_attention_loss(maps, reading=reading).item()
        permuted = contrastive_attention_loss(maps[:, order], reading=reading).item()
        assert permuted == pytest.approx(expected, abs=1e-14)

    def test_one_branch_costs_nothing(self) -> None:
        maps = random_maps(0, 1).requires_grad_()
        for reading in READINGS:
            loss = contrastive_attention_loss(maps, reading=reading)
            assert loss.item() == 0
            loss.backward()
        assert maps.grad is not None and not maps.grad.any()
        assert active_fraction(maps).item() == 0

    def test_two_constant_maps(self) -> None:
        for reading in ("pixel", "mean"):
            near = contrastive_attention_loss(constant_maps(0.5, 0.6), reading=reading)
            assert near.item() == pytest.approx(math.exp(-1) - 0.2, abs=1e-12)
            assert near.item() == pytest.approx(0.167879, abs=5e-7)
            assert contrastive_attention_loss(constant_maps(0.5, 0.63), reading=reading) == 0
        # Summed over 9 places, .1 is far beyond the cut.
        assert contrastive_attention_loss(constant_maps(0.5, 0.6), reading="sum") == 0

    def test_the_mean_is_over_pairs(self) -> None:
        """Levels .5, .6, .9: one of three pairs is within reach."""
        loss = contrastive_attention_loss(constant_maps(0.5, 0.6, 0.9)).item()
        assert loss == pytest.approx((math.exp(-1) - 0.2) / 3, abs=1e-12)

    def test_the_readings_differ_where_maps_differ_in_places(self) -> None:
        """Nine places, one of which differs by .3."""
        maps = constant_maps(0.5, 0.5).clone()
        maps[:, 1, 0, 0] = 0.8
        expected = {
            "pixel": 8 / 9 * 0.8,
            "mean": math.exp(-0.09 / 9 / 0.01) - 0.2,
            "sum": 0.0,
        }
        for reading in READINGS:
            loss = contrastive_attention_loss(maps, reading=reading).item()
            assert loss == pytest.approx(expected[reading], abs=1e-12)

    def test_a_term_ends_at_the_settled_difference(self) -> None:
        cut = settled_difference()
        assert cut == pytest.approx(0.126864, abs=5e-7)
        assert contrastive_attention_loss(constant_maps(0.2, 0.2 + cut + 1e-9)) == 0
        assert contrastive_attention_loss(constant_maps(0.2, 0.2 + cut - 1e-9)) > 0
        assert settled_difference(margin=0.0) == math.inf

    def test_steepest_where_maps_differ_by_the_root_of_half_sigma(self) -> None:
        differences = torch.linspace(0, 0.2, 20_001, dtype=torch.float64).requires_grad_()
        maps = torch.stack([differences, torch.zeros_like(differences)])[None, :, None]
        loss = contrastive_attention_loss(maps, margin=0.0) * len(differences)
        (slope,) = torch.autograd.grad(loss, differences)
        steepest = slope.abs().max().item()
        assert steepest == pytest.approx(math.sqrt(2 / (0.01 * math.e)), rel=1e-6)
        assert steepest == pytest.approx(8.5776, abs=5e-5)
        at = differences[slope.abs().argmax()].item()
        assert at == pytest.approx(math.sqrt(0.005), abs=1e-5)
        assert at == pytest.approx(0.0707, abs=5e-5)

    @pytest.mark.parametrize("reading", READINGS)
    def test_gradient(self, reading: Reading) -> None:
        maps = (0.5 + 0.05 * random_maps(1, 3)).requires_grad_()
        sigma = 0.1 if reading == "sum" else 0.01
        assert torch.autograd.gradcheck(
            lambda m: contrastive_attention_loss(m, sigma=sigma, reading=reading), maps
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_maps_are_compared_in_float32(self, dtype: torch.dtype) -> None:
        maps = random_maps(0, 3).to(dtype)
        with torch.autocast("cpu", dtype=dtype):
            loss = contrastive_attention_loss(maps)
        assert loss.dtype == torch.float32
        expected = contrastive_attention_loss(maps.double()).item()
        assert loss.item() == pytest.approx(expected, rel=1e-4)

    def test_refusals(self) -> None:
        maps = random_maps(0, 2)
        for wrong in ({"sigma": 0.0}, {"margin": 1.0}, {"margin": -0.1}, {"sigma": math.nan}):
            with pytest.raises(ConfigError, match=r"sigma above 0 and a margin t in \[0, 1\)"):
                contrastive_attention_loss(maps, **wrong)
        with pytest.raises(ConfigError, match="pixel, mean, sum, got 'max'"):
            contrastive_attention_loss(maps, reading="max")  # type: ignore[arg-type]
        for bad in (maps[0], maps[:0], maps.long()):
            with pytest.raises(RecordError, match=r"must be \(B, b, H, W\) floating point"):
                contrastive_attention_loss(bad)


class TestMostBranches:
    """How many branches can have no loss at all."""

    @pytest.mark.parametrize(
        ("sigma", "most"), [(0.001, 25), (0.005, 12), (0.01, 8), (0.05, 4), (0.1, 3)]
    )
    def test_for_each_sigma_of_the_papers_table(self, sigma: float, most: int) -> None:
        assert most_branches(sigma) == most

    def test_without_a_margin_only_one(self) -> None:
        assert most_branches(margin=0.0) == 1

    def test_eight_reach_zero(self) -> None:
        step = settled_difference() + 1e-9
        levels = [0.05 + k * step for k in range(most_branches())]
        assert len(levels) == 8 and levels[-1] < 1
        assert contrastive_attention_loss(constant_maps(*levels)) == 0

    @quick
    @given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
    def test_nine_never_do(self, levels: list[float]) -> None:
        """Two of nine values in [0, 1] are at most 1/8 apart, and 1/8 is below the cut."""
        floor = 2 / (9 * 8) * (math.exp(-((1 / 8) ** 2) / 0.01) - 0.2)
        assert floor > 0
        assert contrastive_attention_loss(constant_maps(*levels)).item() >= floor - 1e-12


class TestDiverseAttentionLoss:
    """L_D, equation 3."""

    def test_hinge_on_the_distance_over_all_places(self) -> None:
        maps = constant_maps(0.5, 0.6)  # 9 places, so .3 apart
        assert diverse_attention_loss(maps, margin=1.0).item() == pytest.approx(0.7, abs=1e-12)
        assert diverse_attention_loss(maps, margin=0.29).item() == 0

    def test_identical_maps_cost_the_margin_and_have_no_gradient(self) -> None:
        maps = constant_maps(0.5, 0.5).clone().requires_grad_()
        loss = diverse_attention_loss(maps, margin=0.4)
        assert loss.item() == pytest.approx(0.4, abs=1e-15)
        loss.backward()
        assert maps.grad is not None and not maps.grad.any()

    def test_gradient_and_one_branch(self) -> None:
        maps = random_maps(2, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda m: diverse_attention_loss(m, margin=2.0), maps)
        assert diverse_attention_loss(maps[:, :1], margin=2.0) == 0

    def test_refusal(self) -> None:
        with pytest.raises(ConfigError, match=r"L_D must be above 0, got 0\.0"):
            diverse_attention_loss(random_maps(0, 2), margin=0.0)


class TestDiagnostics:
    """What to watch while training."""

    def test_active_fraction_counts_pairs_and_places_within_the_cut(self) -> None:
        maps = constant_maps(0.1, 0.2, 0.9).clone()
        assert active_fraction(maps).item() == pytest.approx(1 / 3)
        maps[:, 1, :2] = 0.5  # two of three rows of that pair
        assert active_fraction(maps).item() == pytest.approx(1 / 9)
        assert active_fraction(maps, margin=0.0).item() == 1

    def test_no_active_place_means_no_loss(self) -> None:
        maps = constant_maps(0.1, 0.5, 0.9)
        assert active_fraction(maps) == 0 and contrastive_attention_loss(maps) == 0

    def test_correlation_sees_through_a_difference_in_brightness(self) -> None:
        """L_CAL is 0 though both branches look at the same places."""
        first = 0.1 + 0.3 * random_maps(4, 1)
        maps = torch.cat([first, first + 0.4, 1 - first], dim=1)
        assert contrastive_attention_loss(maps[:, :2]) == 0
        expected = torch.tensor([[1, 1, -1], [1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
        assert torch.allclose(map_correlation(maps), expected, atol=1e-12)

    def test_correlation_is_pearsons(self) -> None:
        maps = random_maps(5, 3, batch=4)
        expected = torch.stack([torch.corrcoef(face.flatten(1)) for face in maps]).mean(dim=0)
        assert torch.allclose(map_correlation(maps), expected, atol=1e-12)

    def test_constant_maps_have_none(self) -> None:
        maps = random_maps(6, 2)
        maps[0, 1] = 0.7
        alone = map_correlation(maps[1:])
        assert map_correlation(maps)[0, 1] == pytest.approx(alone[0, 1].item(), abs=1e-12)
        assert map_correlation(maps[:1])[0, 1].isnan()
        assert map_correlation(maps[:1].float())[1, 1].isnan()
