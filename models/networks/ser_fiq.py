"""SER-FIQ: a face has quality when its embedding hardly changes under dropout.

Terhoerst, Kolf, Damer, Kirchbuchner, Kuijper, "SER-FIQ: Unsupervised Estimation of Face Image
Quality Based on Stochastic Embedding Robustness", CVPR 2020, the "same model" variant. Needs a
torch network: an exported file has no dropout. The network should have been trained with dropout
in front of its last layers.

    q = 2 sigmoid(-d),  d = the mean distance of m unit embeddings, each with its own dropout

The paper writes d = 2 / m^2 * sum over i < j, (m - 1) / m of the mean that the released
code takes. Cost grows with m^2 / 2 distances per face; the stem runs once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ... import ConfigError, RecordError
from .backbone import Backbone
from .eval_mode import in_eval_mode

PASSES = 100
"""m of the paper."""
STRETCH, CENTRE = 130.0, 0.88
"""alpha and r of the released code's last step."""

Factor = Literal["mean", "paper"]


class Dropout(NamedTuple):
    """What is dropped on the last map. rate: probability in [0, 1)."""

    rate: float
    of: Literal["elements", "channels"] = "elements"


def ser_fiq(
    backbone: Backbone,
    images: Tensor,
    *,
    passes: int = PASSES,
    dropout: Dropout | None = None,
    factor: Factor = "mean",
    seed: int = 0,
) -> Tensor:
    """images (B, 3, 112, 112), as the backbone takes them -> quality (B,) float64, 0.238 to 1.

    passes: m, at least 2. dropout: None takes that of the backbone, see `find_dropout`. factor: see
    `embedding_robustness`. The m masks depend on the seed alone, so the score of a face does not
    depend on its batch. All else is in eval mode, without gradients, and the backbone is left in
    the mode it was in. Memory: m masks and m last maps of one face, 10 MB each at m = 100.

    Raises ConfigError for fewer than two passes, a rate outside [0, 1), or a backbone without
    dropout when none is given; RecordError as the backbone does.
    """
    if passes < 2:
        raise ConfigError(f"SER-FIQ compares passes: it needs 2 or more, got {passes}")
    dropped = find_dropout(backbone) if dropout is None else dropout
    if not 0 <= dropped.rate < 1:
        raise ConfigError(f"a dropout rate must be in [0, 1), got {dropped.rate}")
    with torch.no_grad(), in_eval_mode(backbone):
        maps = backbone.feature_map(images)  # (B, D, 7, 7)
        masks = _draw_masks(maps, passes, dropped, seed)
        scores = [embedding_robustness(backbone.head(one * masks), factor) for one in maps]
    if not scores:
        return maps.new_zeros(0, dtype=torch.float64)
    return torch.stack(scores)


def find_dropout(backbone: Backbone) -> Dropout:
    """The dropout that the backbone was built with: rate, and whether whole channels are dropped.

    Raises ConfigError when it has none (insightface's networks, "mobile") or several.
    """
    kinds = (nn.Dropout, nn.Dropout2d)
    found = [one for one in backbone.modules() if isinstance(one, kinds) and one.p > 0]
    if len(found) != 1:
        raise ConfigError(
            f"SER-FIQ needs a backbone with one dropout layer, got {len(found)}: take one trained "
            "with dropout, or give the dropout to use"
        )
    return Dropout(found[0].p, "channels" if isinstance(found[0], nn.Dropout2d) else "elements")


def embedding_robustness(embeddings: Tensor, factor: Factor = "mean") -> Tensor:
    """2 sigmoid(-d) of m >= 2 embeddings (m, C) of one face, any length: a float64 scalar.

    factor: "mean", d is the mean distance of the m (m - 1) / 2 pairs (released code); "paper", d is
    2 / m^2 times their sum. 1 exactly when all embeddings are equal.
    Raises RecordError for another shape, ConfigError for another factor.
    """
    if factor not in ("mean", "paper"):
        raise ConfigError(f"factor must be mean or paper, got {factor!r}")
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise RecordError(
            f"embeddings must be (m, C) with m >= 2, got {tuple(embeddings.shape)}: one per pass"
        )
    units = functional.normalize(embeddings.double(), dim=1)
    total = functional.pdist(units).sum()
    count = len(units)
    pairs = count * (count - 1) / 2 if factor == "mean" else count * count / 2
    return 2 * torch.sigmoid(-total / pairs)


def stretch_scores(quality: Tensor, *, stretch: float = STRETCH, centre: float = CENTRE) -> Tensor:
    """sigmoid(stretch (q - centre)): the last step of the released code; keeps the order.

    Spreads the narrow range of scores over 0..1. In float64 at least: scores near 1 crowd together.
    """
    return torch.sigmoid(stretch * (quality.double() - centre))


def _draw_masks(maps: Tensor, passes: int, dropout: Dropout, seed: int) -> Tensor:
    """(m, D, 7, 7) or (m, D, 1, 1): 0 where dropped, else 1 / (1 - rate).

    Drawn on the CPU, so that every device gets the same.
    """
    shape = maps.shape[1:] if dropout.of == "elements" else (maps.shape[1], 1, 1)
    source = torch.Generator().manual_seed(seed)
    kept = torch.rand(passes, *shape, generator=source) >= dropout.rate
    return kept.to(maps) / (1 - dropout.rate)
