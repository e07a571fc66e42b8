"""The learned mean, to train; models/scalar_fusion.py runs the same weights without torch."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ConfigError
from ..scalar_fusion import EPSILON, QUALITY_FLOOR, SMALLEST_NORM, Keys, ScalarHead, extra_inputs
from .set_fusion import (
    StyleWeighted,
    WeightedFuser,
    softmax_over_set,
    start_at_zero,
    unit_features,
    widen,
)
from .sets import FaceSets


class ScalarWeighted(WeightedFuser):
    """StyleWeighted that may read the embedding's norm and the quality as well.

    w = softmax over the set of fc2 . relu(fc1 . dropout(batch norm x)), with x the inputs that
    models/scalar_fusion names. The last layer starts at 0: the plain mean.
    """

    def __init__(
        self,
        dimension: int,
        styles: int,
        *,
        keys: Keys = "style+norm+quality",
        hidden: int = 64,
        dropout: float = 0.2,
        embedding: bool = False,
    ) -> None:
        """dimension: C. styles: K. dropout: share of the inputs, in training. embedding: reads the
        unit embedding as well, which no head does live.
        """
        super().__init__(dimension, styles=styles)
        if keys not in get_args(Keys):
            raise ConfigError(f"keys must be one of {', '.join(get_args(Keys))}, got {keys!r}")
        self.keys = keys
        self.needs = ("styles", "quality") if "quality" in keys else ("styles",)
        self.embedding = embedding
        width = 2 * styles + extra_inputs(keys) + (dimension if embedding else 0)
        self.norm = nn.BatchNorm1d(width, eps=EPSILON)
        self.drop = nn.Dropout(dropout)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        start_at_zero(self.fc2)

    def score(self, sets: FaceSets) -> Tensor:
        """The network's score (B, N) of every face, 0 in the padding.

        Raises RecordError when `sets` does not fit.
        """
        return self._score(self._prepare(sets))

    def _weigh(self, sets: FaceSets) -> Tensor:
        return softmax_over_set(self._score(sets), sets.mask)

    def _score(self, sets: FaceSets) -> Tensor:
        faces = sets.mask.flatten().nonzero().squeeze(1)  # padding must not enter the statistics
        rows = self._inputs(sets).flatten(0, 1)[faces]
        scores = widen(self.fc2(F.relu(self.fc1(self.drop(self.norm(rows))))))
        placed = scores.new_zeros(sets.mask.numel()).index_copy(0, faces, scores.squeeze(1))
        return placed.reshape(sets.mask.shape)

    def _inputs(self, sets: FaceSets) -> Tensor:
        assert sets.styles is not None  # check_sets saw to it
        parts = [widen(sets.styles).flatten(2)]
        if "norm" in self.keys:
            norms = torch.linalg.vector_norm(widen(sets.features), dim=2)
            parts.append(norms.clamp(min=SMALLEST_NORM).log()[..., None])
        if "quality" in self.keys:
            assert sets.quality is not None  # check_sets saw to it
            quality = widen(sets.quality).clamp(min=0.0)
            parts.append(torch.stack([quality, (quality + QUALITY_FLOOR).log()], dim=2))
        if self.embedding:
            parts.append(unit_features(sets))
        return torch.cat(parts, dim=2).to(self.fc1.weight.dtype)


def scalar_head(network: ScalarWeighted | StyleWeighted) -> ScalarHead:
    """The head that runs the network's weights live; `save_scalar_head` writes it.

    Raises CorruptModelFile when a weight is not finite.
    """
    keys: Keys = network.keys if isinstance(network, ScalarWeighted) else "style"
    arrays = {
        name: tensor.detach().cpu().numpy().astype(np.float64)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return ScalarHead(keys, network.dimension, arrays)
