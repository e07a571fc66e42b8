"""What pushes CQA-Face's branches to look at different places of a face, and how far they did.

Wang and Guo, "CQA-Face: Contrastive Quality-Aware Attentions for Face Recognition", AAAI 2022.
maps everywhere: (B, b, H, W) floating point, the attention of b branches, in (0, 1); B >= 1. The
losses are computed in float32 at least and add to a classification loss: L_Cls + lambda L (Eq. 9;
lambda 0.5 with L_CAL).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ... import ConfigError, RecordError

Reading = Literal["pixel", "mean", "sum"]

SIGMA = 0.01
"""The paper's sigma."""
MARGIN = 0.2
"""The paper's t."""
FLAT = 1e-6
"""A map whose deviation over places is not above this is constant: float32 rounding of (0, 1)."""


def contrastive_attention_loss(
    maps: Tensor, *, sigma: float = SIGMA, margin: float = MARGIN, reading: Reading = "pixel"
) -> Tensor:
    """L_CAL of Eq. 2, a scalar in [0, 1 - t]: the mean over pairs of branches and over faces of

        max(0, exp(-(M_i - M_j)^2 / sigma) - t)

    sigma > 0, margin: t in [0, 1). The paper does not say how (M_i - M_j)^2, a map, becomes a
    number. reading:

    "pixel"  the term is taken at every place, then averaged over places. A place is settled, and
             has no gradient, where the two maps differ by `settled_difference` or more.
    "mean"   the squares are averaged over places first.
    "sum"    they are summed. With the paper's constants this is 0 unless the maps nearly
             coincide (root mean square difference below 0.0181 for 7 x 7 places), so 0 from the
             first step with freshly initialised branches.

    1 - t for identical maps, where the gradient is 0: branches that start as copies of each other
    never part. 0 for one branch. All readings can be satisfied by maps that differ in brightness
    alone: watch `map_correlation`.

    Raises ConfigError for a setting out of its range, RecordError for maps of another shape.
    """
    _check_constants(sigma, margin)
    if reading not in get_args(Reading):
        raise ConfigError(f"reading must be one of {', '.join(get_args(Reading))}, got {reading!r}")
    squares = _differences(maps).square()  # (B, pairs, H, W)
    if reading == "mean":
        squares = squares.mean(dim=(2, 3))
    elif reading == "sum":
        squares = squares.sum(dim=(2, 3))
    return _mean((torch.exp(-squares / sigma) - margin).relu())


def diverse_attention_loss(maps: Tensor, *, margin: float) -> Tensor:
    """L_D of Eq. 3, a scalar in [0, t]: mean over pairs and faces of max(0, t - ||M_i - M_j||).

    The alternative that the paper compares with, from Wang et al., "Hierarchical Pyramid Diverse
    Attention Networks for Face Recognition", CVPR 2020. The distance is the Euclidean one over all
    places, at most sqrt(H W). margin: t > 0; CQA-Face does not give it. The gradient is 0 for
    identical maps and for one branch.

    Raises ConfigError for a margin out of its range, RecordError for maps of another shape.
    """
    if not 0 < margin < math.inf:
        raise ConfigError(f"the margin of L_D must be above 0, got {margin}")
    distances = torch.linalg.vector_norm(_differences(maps), dim=(2, 3))  # (B, pairs)
    return _mean((margin - distances).relu())


def settled_difference(sigma: float = SIGMA, margin: float = MARGIN) -> float:
    """|M_i - M_j| from which on a term of L_CAL is 0: sqrt(sigma ln(1 / t)), infinite at t = 0.

    0.126864 for the paper's constants. Raises ConfigError as `contrastive_attention_loss`.
    """
    _check_constants(sigma, margin)
    return math.sqrt(sigma * math.log(1 / margin)) if margin else math.inf


def most_branches(sigma: float = SIGMA, margin: float = MARGIN) -> int:
    """The most branches for which the "pixel" reading of L_CAL can be 0, at least 1.

    At every place their values in (0, 1) must keep `settled_difference` d from each other:
    (b - 1) d <= 1, so 8 for the paper's constants. With more, the loss has a floor above 0. Raises
    ConfigError as `contrastive_attention_loss`.
    """
    return int(1 / settled_difference(sigma, margin)) + 1


def active_fraction(maps: Tensor, *, sigma: float = SIGMA, margin: float = MARGIN) -> Tensor:
    """The share of pairs and places whose term of the "pixel" reading is above 0, in [0, 1].

    A float32 scalar without gradient, 0 for one branch. To watch while training: near 0 the loss
    has nothing left to do, or never had; 1 that does not fall is that of copies, which no gradient
    pushes apart. Raises as `contrastive_attention_loss`.
    """
    limit = settled_difference(sigma, margin)
    return _mean((_differences(maps.detach()).abs() < limit).float())


def map_correlation(maps: Tensor) -> Tensor:
    """How alike the branches look over places: (b, b) float64 in [-1, 1], without gradient.

    Pearson's correlation between the maps of two branches, over places, averaged over the faces
    where both maps vary; NaN where none does. 1 means that two branches look at the same places,
    even where a difference in brightness has made L_CAL 0. Raises RecordError for maps of another
    shape.
    """
    _check_maps(maps)
    flat = maps.detach().double().flatten(2)  # (B, b, H * W)
    centred = flat - flat.mean(dim=2, keepdim=True)
    deviations = centred.square().mean(dim=2).sqrt()
    varies = deviations > FLAT  # (B, b)
    safe = torch.where(varies, deviations, 1.0)
    scaled = centred * (varies / safe)[..., None]
    sums = (scaled @ scaled.transpose(1, 2) / flat.shape[2]).sum(dim=0)  # (b, b)
    counts = (varies[:, :, None] & varies[:, None, :]).sum(dim=0)
    return (sums / counts).clamp(-1, 1)


def _differences(maps: Tensor) -> Tensor:
    """M_i - M_j for all pairs i < j: (B, b (b - 1) / 2, H, W), at least float32."""
    _check_maps(maps)
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    count = maps.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=maps.device)
    return wide[:, first] - wide[:, second]


def _mean(terms: Tensor) -> Tensor:
    """The mean, and 0 for no terms: one branch has no pairs."""
    return terms.sum() / max(1, terms.numel())


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4 or 0 in maps.shape or not maps.is_floating_point():
        raise RecordError(
            "attention maps must be (B, b, H, W) floating point with nothing empty, got "
            f"{tuple(maps.shape)} {maps.dtype}"
        )


def _check_constants(sigma: float, margin: float) -> None:
    if not (0 < sigma < math.inf and 0 <= margin < 1):
        raise ConfigError(
            f"L_CAL needs sigma above 0 and a margin t in [0, 1), got {sigma} and {margin}"
        )
