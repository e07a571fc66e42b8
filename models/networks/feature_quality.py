"""The trainable side of models/quality_head: quality from embedding, norm and style."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ... import ConfigError, RecordError
from ..fusion import Doubles
from ..quality_head import QualityHead
from .quality_heads import score_rows

DROPOUT = 0.2
SMALLEST_DEVIATION = 1e-4
"""An input that hardly moves is not blown up: channels that are never active are 0 throughout."""


class FeatureQuality(nn.Module):
    """Standardise, FC(W -> H), ReLU, dropout, FC(H -> 1), sigmoid."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dimension: int, styles: int, *, hidden: int = 64) -> None:
        """dimension: C. styles: K. Raises ConfigError for numbers that are too small."""
        super().__init__()
        if min(dimension, hidden) < 1 or styles < 0:
            raise ConfigError(
                f"dimension and hidden must be 1 or more and styles 0 or more, got {dimension}, "
                f"{hidden} and {styles}"
            )
        self.dimension, self.styles = dimension, styles
        width = dimension + 1 + 2 * styles
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.fc1 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(DROPOUT)
        self.fc2 = nn.Linear(hidden, 1)

    def fit_scale(self, inputs: Doubles) -> None:
        """Take mean and deviation of the inputs (N, W) over the training faces."""
        self.mean.copy_(torch.from_numpy(inputs.mean(axis=0)))
        spread = np.maximum(inputs.std(axis=0), SMALLEST_DEVIATION)
        self.deviation.copy_(torch.from_numpy(spread))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, W) as `quality_head.head_inputs` makes them -> quality (B,) in 0..1."""
        if inputs.ndim != 2 or inputs.shape[1] != len(self.mean):
            raise RecordError(
                f"the head takes inputs (B, {len(self.mean)}), got {tuple(inputs.shape)}"
            )
        hidden = torch.relu(self.fc1((inputs - self.mean) / self.deviation))
        return torch.sigmoid(score_rows(self.fc2, self.dropout(hidden)))

    def export(self) -> QualityHead:
        """The same network without torch."""
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        arrays = {
            name: value.detach().cpu().float().numpy().copy() for name, value in named.items()
        }
        return QualityHead(arrays, self.dimension, self.styles)
