"""Set fusers that weigh every face: what CAFace is compared with (its tables 1 to 6).

    fused = sum_i w_i f_i / ||f_i||,   sum_i w_i = 1

with a weight per face, or per face and dimension; they differ in where the weights come from.
Order never matters, one face alone gives its own direction, padding weighs 0. Weights and sums are
float32 at least, also under autocast, which narrows only the networks before them. B sets of at
most N faces, embeddings of C numbers, K style channels and maps (D, H, W) as in `sets.FaceSets`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ConfigError, RecordError
from .backbone import MAP_SIDE
from .sets import FaceSets, check_sets, clear_field, clear_padding

VARIANCE_FLOOR = 1e-6
"""PFE's least variance; what it predicts is added to it."""


class WeightedFuser(nn.Module, ABC):
    """Base: a weighted mean of the unit embeddings; a SetFuser."""

    needs: tuple[str, ...] = ()
    """The optional fields of FaceSets that the weights are made of."""

    def __init__(self, dimension: int, *, styles: int | None = None) -> None:
        """dimension: C. styles: K where styles are read.

        Raises ConfigError for a dimension below 1.
        """
        super().__init__()
        if dimension < 1:
            raise ConfigError(f"the dimension of an embedding must be 1 or more, got {dimension}")
        self.dimension = dimension
        self.styles = styles

    @abstractmethod
    def _weigh(self, sets: FaceSets) -> Tensor:
        """Weights of checked sets whose padding is cleared: (B, N) or (B, N, C)."""

    def weigh(self, sets: FaceSets) -> Tensor:
        """The weights (B, N), or (B, N, C) where dimensions differ; they sum to 1 over a set.

        Raises RecordError when `sets` does not fit.
        """
        return self._weigh(self._prepare(sets))

    def forward(self, sets: FaceSets) -> Tensor:
        """The fused embeddings (B, C), not normalised. Raises RecordError as `weigh` does."""
        return self.aggregate(self._prepare(sets))

    def aggregate(self, sets: FaceSets) -> Tensor:
        """`forward` for sets that fit and whose padding is cleared: nothing is checked."""
        return weighted_mean(self._weigh(sets), unit_features(sets))

    def _prepare(self, sets: FaceSets) -> FaceSets:
        check_sets(sets, dimension=self.dimension, styles=self.styles, needs=self.needs)
        return clear_padding(sets)


class MeanFuser(WeightedFuser):
    """Every face counts the same: w_i = 1 / n."""

    def _weigh(self, sets: FaceSets) -> Tensor:
        return share(torch.ones_like(widen(sets.features[..., 0])), sets.mask)


class NormWeighted(WeightedFuser):
    """By the length of the embedding: w_i ~ ||f_i||.

    The direction of the mean of raw embeddings, which is the "average" of CAFace's tables.
    """

    def _weigh(self, sets: FaceSets) -> Tensor:
        return share(torch.linalg.vector_norm(widen(sets.features), dim=2), sets.mask)


class QualityWeighted(WeightedFuser):
    """By quality: w_i ~ max(q_i, 0), as `models.mean_fusion.QualityMean` does live.

    A set in which no quality is above 0 gets the plain mean.
    """

    needs = ("quality",)

    def _weigh(self, sets: FaceSets) -> Tensor:
        assert sets.quality is not None  # check_sets saw to it
        return share(widen(sets.quality).clamp(min=0.0), sets.mask)


class StyleWeighted(WeightedFuser):
    """By one learned number per face: w = softmax over the set of MLP(style statistics).

    BatchNorm(2K), Linear(2K -> hidden), ReLU, Linear(hidden -> 1); the last starts at 0, so that an
    untrained one is the plain mean. The least that learns from what CAFace reads; layout ours.
    """

    needs = ("styles",)

    def __init__(self, dimension: int, styles: int, *, hidden: int = 64) -> None:
        """dimension: C. styles: K."""
        super().__init__(dimension, styles=styles)
        self.norm = nn.BatchNorm1d(2 * styles)
        self.fc1 = nn.Linear(2 * styles, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        start_at_zero(self.fc2)

    def _weigh(self, sets: FaceSets) -> Tensor:
        assert sets.styles is not None  # check_sets saw to it
        scores = _run_on_faces(self._score, sets.styles, sets.mask, skip_padding=self.training)
        return softmax_over_set(scores.squeeze(2), sets.mask)

    def _score(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.fc2(F.relu(self.fc1(self.norm(rows))))
        return scores


class NAN(WeightedFuser):
    """Neural aggregation network (Yang et al., CVPR 2017): two attention blocks in a row.

    With v_i the unit embeddings: a = softmax_i(q0 . v_i), r0 = sum_i a_i v_i, q1 = tanh(W r0 + b)
    and w = softmax_i(q1 . v_i). q0, W and b start at 0: the plain mean.
    """

    def __init__(self, dimension: int) -> None:
        """dimension: C."""
        super().__init__(dimension)
        self.query = nn.Parameter(torch.zeros(dimension))
        self.transfer = nn.Linear(dimension, dimension)
        start_at_zero(self.transfer)

    def _weigh(self, sets: FaceSets) -> Tensor:
        units = unit_features(sets)
        first = softmax_over_set(units @ self.query, sets.mask)
        query = torch.tanh(self.transfer(weighted_mean(first, units)))
        return softmax_over_set((units @ query[..., None]).squeeze(2), sets.mask)


class CFAN(WeightedFuser):
    """Component-wise feature aggregation network (Gong et al., 2019).

    w_ij = exp(q_ij) / sum_k exp(q_kj): a softmax over the set for every dimension j by itself, of
    q_i = FC(last feature map of the face), which starts at 0: the plain mean. With C = 512 and maps
    (512, 7, 7) it has the 12.85 M parameters of CAFace's table 1.
    """

    needs = ("maps",)

    def __init__(self, dimension: int, map_channels: int, *, side: int = MAP_SIDE) -> None:
        """dimension: C. map_channels: D. side: H = W."""
        super().__init__(dimension)
        self.map_shape = (map_channels, side, side)
        self.fc = nn.Linear(math.prod(self.map_shape), dimension)
        start_at_zero(self.fc)

    def _weigh(self, sets: FaceSets) -> Tensor:
        assert sets.maps is not None  # check_sets saw to it
        scores = _run_on_faces(self.fc, sets.maps, sets.mask, skip_padding=self.training)
        return softmax_over_set(scores, sets.mask)

    def _prepare(self, sets: FaceSets) -> FaceSets:
        sets = super()._prepare(sets)
        check_maps(sets, self.map_shape)
        return sets


class Gaussians(NamedTuple):
    """Templates as PFE has them: means (B, C), not normalised, and log variances (B, C)."""

    means: Tensor
    log_variances: Tensor


class PFE(WeightedFuser):
    """Probabilistic face embeddings (Shi and Jain, ICCV 2019): a Gaussian per face.

    The mean is the unit embedding, the variance is predicted per dimension from the last feature
    map by `UncertaintyHead`. w_ij = (1/s_ij) / sum_k (1/s_kj) with s the variances, the mean of the
    product of the Gaussians (its section on fusion).
    """

    needs = ("maps",)

    def __init__(
        self,
        dimension: int,
        map_channels: int,
        *,
        side: int = MAP_SIDE,
        layout: Literal["paper", "large"] = "paper",
    ) -> None:
        """dimension: C. map_channels: D. side: H = W. layout: see UncertaintyHead."""
        super().__init__(dimension)
        self.map_shape = (map_channels, side, side)
        self.head = UncertaintyHead(math.prod(self.map_shape), dimension, layout=layout)

    def log_variances(self, sets: FaceSets) -> Tensor:
        """log s (B, N, C), at least log 1e-6; 0 in the padding. Raises RecordError as `weigh`."""
        return clear_field(self._log_variances(self._prepare(sets)), sets.mask)

    def fuse(self, sets: FaceSets) -> Gaussians:
        """Mean and variance of every template.

        The variance of a dimension is the least of the set: frames of a video are not independent,
        and 1 / sum(1/s) would fall with every frame (the same section).
        Raises RecordError as `weigh` does.
        """
        sets = self._prepare(sets)
        logs = self._log_variances(sets)
        means = weighted_mean(softmax_over_set(-logs, sets.mask), unit_features(sets))
        outside = ~sets.mask[..., None]
        return Gaussians(means, logs.masked_fill(outside, torch.inf).amin(dim=1))

    def _weigh(self, sets: FaceSets) -> Tensor:
        return softmax_over_set(-self._log_variances(sets), sets.mask)

    def _log_variances(self, sets: FaceSets) -> Tensor:
        assert sets.maps is not None  # check_sets saw to it
        return _run_on_faces(self.head, sets.maps, sets.mask, skip_padding=self.training)

    def _prepare(self, sets: FaceSets) -> FaceSets:
        sets = super()._prepare(sets)
        check_maps(sets, self.map_shape)
        return sets


class UncertaintyHead(nn.Module):
    """PFE's uncertainty module: flat maps (F, inputs) to log variances (F, C), float32 at least.

    "paper": FC + BatchNorm + ReLU, FC + BatchNorm without parameters, then one scale (from 1e-4)
    and one shift (from -7) for all dimensions, x = scale y + shift; 13,108,226 parameters for
    25,088 inputs and C = 512. "large": three FC layers with biases, whose 13,370,880 are the
    13.37 M of CAFace's table 1; only the number is published, so the layout is ours: ReLU after the
    first two, x from the third, which starts at weight 0 and bias -7.
    Both end with log s = log(1e-6 + exp x).
    """

    def __init__(
        self, inputs: int, dimension: int, *, layout: Literal["paper", "large"] = "paper"
    ) -> None:
        """inputs: D * H * W. dimension: C. Raises ConfigError for an unknown layout."""
        super().__init__()
        if layout not in ("paper", "large"):
            raise ConfigError(f"layout must be paper or large, got {layout!r}")
        self.scale: nn.Parameter | None = None
        self.shift: nn.Parameter | None = None
        if layout == "paper":
            self.layers = nn.Sequential(
                nn.Linear(inputs, dimension, bias=False),
                nn.BatchNorm1d(dimension, eps=1e-3, momentum=0.005),
                nn.ReLU(),
                nn.Linear(dimension, dimension, bias=False),
                nn.BatchNorm1d(dimension, eps=1e-3, momentum=0.005, affine=False),
            )
            self.scale = nn.Parameter(torch.tensor(1e-4))
            self.shift = nn.Parameter(torch.tensor(-7.0))
        else:
            last = nn.Linear(dimension, dimension)
            start_at_zero(last)
            nn.init.constant_(last.bias, -7.0)
            self.layers = nn.Sequential(
                nn.Linear(inputs, dimension),
                nn.ReLU(),
                nn.Linear(dimension, dimension),
                nn.ReLU(),
                last,
            )

    def forward(self, rows: Tensor) -> Tensor:
        """Flat maps (F, inputs) to log variances (F, C)."""
        logs = widen(self.layers(rows))
        if self.scale is not None and self.shift is not None:
            logs = self.scale * logs + self.shift
        return torch.logaddexp(logs, logs.new_tensor(math.log(VARIANCE_FLOOR)))


def widen(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit_features(sets: FaceSets) -> Tensor:
    """Embeddings (B, N, C) at length 1, at least float32; zeros in cleared padding."""
    return F.normalize(widen(sets.features), dim=2)


def weighted_mean(weights: Tensor, units: Tensor) -> Tensor:
    """Sum over the set (B, C) of weights (B, N) or (B, N, C) times units (B, N, C)."""
    if weights.ndim == 2:
        weights = weights[..., None]
    return (weights * units).sum(dim=1)


def share(weights: Tensor, mask: Tensor) -> Tensor:
    """Weights (B, N) >= 0 divided by their sum over the set; equal ones where all are 0.

    A set with a weight that is NaN gets NaN: it must not pass for one without weights.
    """
    weights = torch.where(mask, weights, weights.new_zeros(()))
    # By the largest first: a sum of tiny weights would underflow.
    largest = weights.amax(dim=1, keepdim=True)
    weighted = ~(largest <= torch.finfo(weights.dtype).tiny)  # also where it is NaN
    scaled = torch.where(weighted, weights / torch.where(weighted, largest, 1.0), mask.to(weights))
    return scaled / scaled.sum(dim=1, keepdim=True)


def softmax_over_set(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of scores (B, N) or (B, N, C) over the faces of a set, in float32 at least."""
    where = mask if scores.ndim == 2 else mask[..., None]
    return torch.softmax(widen(scores).masked_fill(~where, -torch.inf), dim=1)


def start_at_zero(layer: nn.Linear) -> None:
    """Set weight and bias to 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def check_maps(sets: FaceSets, shape: tuple[int, int, int]) -> None:
    """Raise RecordError unless the sets have maps (B, N, *shape)."""
    got = None if sets.maps is None else tuple(sets.maps.shape)
    if got is None or got[2:] != shape:
        raise RecordError(f"maps must be (B, N, {', '.join(map(str, shape))}), got {got}")


def _run_on_faces(
    network: Callable[[Tensor], Tensor], field: Tensor, mask: Tensor, *, skip_padding: bool
) -> Tensor:
    """A network of flat rows (F, W) to (F, V), on a field (B, N, ...): (B, N, V).

    skip_padding: it must not enter batch statistics, so only faces are run, and padding gets 0.
    Otherwise all places are: exported networks have no rows to pick.
    """
    rows = field.flatten(2).flatten(0, 1)
    if not skip_padding:
        return network(rows).reshape(*mask.shape, -1)
    faces = mask.flatten().nonzero().squeeze(1)
    results = network(rows[faces])
    placed = results.new_zeros(len(rows), results.shape[1]).index_copy(0, faces, results)
    return placed.reshape(*mask.shape, -1)
