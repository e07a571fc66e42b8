"""Networks that give a face and its quality: heads of CR-FIQA, SDD-FIQA, PCNet and LightQNet.

CR-FIQA and PCNet read the embedding, SDD-FIQA and LightQNet's teacher the last map. Losses are in
`quality_losses`, the small network that LightQNet distils into in `lightqnet`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ... import ConfigError, RecordError
from .backbone import MAP_SIDE, Backbone

SDD_DROPOUT = 0.5
TEACHER_WIDTH = 256
_TEACHER_EPS, _TEACHER_MOMENTUM = 1e-3, 5e-3


def score_rows(linear: nn.Linear, values: Tensor) -> Tensor:
    """(B, F) -> (B,) through a linear layer of one output, in the precision of its weights.

    Autocast would run the layer in half precision, which has steps of 1e-3 below 1 and could not
    tell faces of similar quality apart.
    """
    weight = linear.weight[0]
    products = (values.to(weight.dtype) * weight).sum(dim=1)
    return products if linear.bias is None else products + linear.bias


class EmbeddingHead(nn.Module):
    """Raw embeddings (B, C) -> one number per face (B,), not clamped; C + 1 parameters.

    CR-FIQA (Boutros et al., CVPR 2023): the certainty ratio. PCNet: the logit of the confidence.
    """

    def __init__(self, dimension: int) -> None:
        """dimension: C, else ConfigError."""
        super().__init__()
        if dimension < 1:
            raise ConfigError(f"the dimension of an embedding must be 1 or more, got {dimension}")
        self.linear = nn.Linear(dimension, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, C) -> (B,) in the precision of the weights, also under autocast."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.linear.in_features:
            raise RecordError(
                f"the head takes embeddings (B, {self.linear.in_features}), got "
                f"{tuple(embeddings.shape)}"
            )
        return score_rows(self.linear, embeddings)


class SddHead(nn.Module):
    """Last maps (B, D, 7, 7) -> quality (B,), trained on 0..100, not clamped.

    Ou et al., "SDD-FIQA", CVPR 2021, released network: a PReLU with a slope per element, dropout
    0.5 and a linear layer: 2 * 49 D + 1 parameters, 50,177 at D = 512.
    """

    def __init__(self, map_channels: int) -> None:
        """map_channels: D."""
        super().__init__()
        elements = _count_elements(map_channels)
        self.prelu = nn.PReLU(elements)
        self.dropout = nn.Dropout(SDD_DROPOUT)
        self.linear = nn.Linear(elements, 1)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_in", nonlinearity="linear")
        nn.init.zeros_(self.linear.bias)

    def forward(self, last_map: Tensor) -> Tensor:
        """(B, D, 7, 7) -> (B,) in the precision of the weights, also under autocast."""
        flat = _flatten(last_map, self.linear.in_features)
        return score_rows(self.linear, self.dropout(self.prelu(flat)))


class TeacherHead(nn.Module):
    """LightQNet's teacher: last maps (B, D, 7, 7) of a frozen recogniser -> logits (B,).

    Linear 49 D -> 256, BN, ReLU; linear 256 -> 1, BN without scale and shift. No biases. The
    confidence is the sigmoid. 6,423,296 parameters at D = 512.
    """

    def __init__(self, map_channels: int) -> None:
        """map_channels: D."""
        super().__init__()
        self.hidden = nn.Linear(_count_elements(map_channels), TEACHER_WIDTH, bias=False)
        self.norm = nn.BatchNorm1d(TEACHER_WIDTH, eps=_TEACHER_EPS, momentum=_TEACHER_MOMENTUM)
        self.linear = nn.Linear(TEACHER_WIDTH, 1, bias=False)
        self.last_norm = nn.BatchNorm1d(
            1, eps=_TEACHER_EPS, momentum=_TEACHER_MOMENTUM, affine=False
        )
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, last_map: Tensor) -> Tensor:
        """(B, D, 7, 7) -> (B,); in training B >= 2, for the statistics."""
        flat = _flatten(last_map, self.hidden.in_features)
        active = torch.relu(self.norm(self.hidden(flat)))
        logits: Tensor = self.last_norm(score_rows(self.linear, active)[:, None])
        return logits[:, 0]


class Scored(NamedTuple):
    """embeddings (B, C), raw; quality (B,) in the unit of the head."""

    embeddings: Tensor
    quality: Tensor


class EmbeddingQuality(nn.Module):
    """CR-FIQA's network: a backbone whose embedding is recognised and scored at once.

    Nothing is detached: what the quality is trained on also trains the backbone, as published. For
    the paper's "on top" variant freeze the backbone and keep it in eval mode.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Put an `EmbeddingHead` on the backbone."""
        super().__init__()
        self.backbone = backbone
        self.head = EmbeddingHead(backbone.dimension)

    def forward(self, images: Tensor) -> Scored:
        """images (B, 3, 112, 112), as the backbone takes them; RecordError as it raises them."""
        embeddings = self.backbone(images)
        return Scored(embeddings, self.head(embeddings))


class MapQuality(nn.Module):
    """The stem of a backbone and an `SddHead` or `TeacherHead`: images -> (B,).

    The backbone's own head is not used and gets no gradient.
    """

    def __init__(self, backbone: Backbone, head: SddHead | TeacherHead) -> None:
        """head: made for the backbone's map_channels."""
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, 112, 112), as the backbone takes them; RecordError as it raises them."""
        scores: Tensor = self.head(self.backbone.feature_map(images))
        return scores


def _count_elements(map_channels: int) -> int:
    if map_channels < 1:
        raise ConfigError(f"a map must have 1 or more channels, got {map_channels}")
    return map_channels * MAP_SIDE * MAP_SIDE


def _flatten(last_map: Tensor, elements: int) -> Tensor:
    expected = (elements // MAP_SIDE**2, MAP_SIDE, MAP_SIDE)
    if last_map.ndim != 4 or tuple(last_map.shape[1:]) != expected:
        raise RecordError(
            f"the head takes maps (B, {', '.join(map(str, expected))}), got {tuple(last_map.shape)}"
        )
    return last_map.flatten(1)
