"""CQA-Face: branches that look at different parts of a face and weigh what they see.

Wang and Guo, "CQA-Face: Contrastive Quality-Aware Attentions for Face Recognition", AAAI 2022. For
B faces, b branches and the last map X (B, D, H, W) of a stem:

    attention    M_i (B, 1, H, W), one LANet per branch             (Fig. 2b)
    parts        P_i = GAP(X o M_i)                     (B, b, D)   (Eq. 1)
    qualities    S^_i = sigmoid(QAN(P)_i), in (0, 1)    (B, b)      (Eq. 4 to 6)
    embedding    BN(FC(concat of S^_i P_i))             (B, C)      (Eq. 7)

Training adds a loss on the attention maps (cqa_losses.py) to a margin head on the embedding, which
is CosFace in the paper. Ours where the paper is silent: the stem's map is taken after its last
batch norm and without dropout; LANet's convolutions have biases and r = 16, as in LS-CNN (Wang and
Guo, TIFS 2019); the relation block's have none, as in the block it repeats (Zhang et al.,
"Relation-Aware Global Attention", CVPR 2020); the embedding ends in a batch norm, as ArcFace's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ConfigError, RecordError
from .backbone import Backbone, Stages, project

HEAD_MODULES = ("pool", "dropout", "fc", "features")
"""The modules of a stem between its last map and its embedding, which CQA-Face replaces."""


class Branches(NamedTuple):
    """What the branches of CQA-Face made of a last map."""

    maps: Tensor
    """M_i, (B, b, H, W), in (0, 1), before dropout."""
    parts: Tensor
    """P_i, (B, b, D): not yet weighed."""
    qualities: Tensor
    """S^_i, (B, b), in (0, 1), higher is better; 1 without a quality network."""


class LANet(nn.Module):
    """Spatial attention of one branch: conv 1x1, ReLU, conv 1x1, sigmoid (Fig. 2b).

    D D' + 2 D' + 1 parameters with D' = D // reduction: 16,449 for D = 512.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        """Freshly initialised, as torch initialises convolutions. See CQAFace for ConfigError."""
        super().__init__()
        inner = _reduce(channels, reduction)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.score = nn.Conv2d(inner, 1, 1)

    def forward(self, last_map: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, 1, H, W) in (0, 1)."""
        return torch.sigmoid(self.score(F.relu(self.squeeze(last_map))))


class Attention(nn.Module):
    """b LANets on one map. Each is drawn anew: copies would never part, L_CAL's gradient is 0."""

    def __init__(
        self, channels: int, branches: int = 4, *, reduction: int = 16, dropout: float = 0.0
    ) -> None:
        """Freshly initialised. See CQAFace for the arguments and for ConfigError."""
        super().__init__()
        if branches < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                "attention needs 1 branch or more and dropout in [0, 1), got "
                f"{branches} and {dropout}"
            )
        self.dropout = dropout
        self.lanets = nn.ModuleList(LANet(channels, reduction) for _ in range(branches))

    def forward(self, last_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, H, W) -> maps (B, b, H, W) in (0, 1), parts (B, b, D). Eq. 1 and the GAP."""
        maps = torch.cat([lanet(last_map) for lanet in self.lanets], dim=1)
        return maps, pool_parts(last_map, F.dropout(maps, self.dropout, self.training))


def pool_parts(last_map: Tensor, maps: Tensor) -> Tensor:
    """X (B, D, H, W) and M (B, b, H, W) -> P (B, b, D): the mean over places of X o M_i (Eq. 1).

    The products O_i (B, b, D, H, W) are never stored.
    """
    places = last_map.shape[2] * last_map.shape[3]
    weights = maps.flatten(2) / places  # (B, b, H * W)
    return weights @ last_map.flatten(2).transpose(1, 2)


class QualityNetwork(nn.Module):
    """QAN: the quality of each part from itself and from its relations to all (Eq. 4 to 6).

    With D' = D // reduction and every layer a 1x1 convolution over the parts, without bias,
    followed by a batch norm whose statistics are over faces and parts:

        phi, psi   D -> D', ReLU        A_ij = phi(P_i) . psi(P_j), (B, b, b), not symmetric
        mu         D -> D', ReLU        of P_i; with channel_mean then their mean, 1 number
        nu         2b -> 2b, ReLU       of the relation vector [A(i, :), A(:, i)]
        theta      E -> ceil(E / 8), ReLU, -> 1      E = D' + 2b, or 1 + 2b with channel_mean

    The order of the branches counts: relation vectors are stacked in it. Parameters, with
    h = ceil(E / 8): 3 (D D' + 2 D') + 4 b^2 + 4b + E h + 3h + 2, which is 49,641 for D = 512, b = 4
    and 49,450 with channel_mean. The paper gives no widths; channel_mean is the form of the
    relation-aware block.
    """

    def __init__(
        self, channels: int, branches: int = 4, *, reduction: int = 16, channel_mean: bool = False
    ) -> None:
        """Freshly initialised. See CQAFace for the arguments and for ConfigError."""
        super().__init__()
        self.channels = channels
        self.branches = branches
        self.channel_mean = channel_mean
        inner = _reduce(channels, reduction)
        self.phi = _layer(channels, inner)
        self.psi = _layer(channels, inner)
        self.mu = _layer(channels, inner)
        self.nu = _layer(2 * branches, 2 * branches)
        joint = (1 if channel_mean else inner) + 2 * branches
        hidden = -(-joint // 8)
        self.theta = nn.Sequential(
            *_layer(joint, hidden), nn.Conv1d(hidden, 1, 1, bias=False), nn.BatchNorm1d(1)
        )

    def forward(self, parts: Tensor) -> Tensor:
        """Parts (B, b, D) -> qualities S^ (B, b) in (0, 1). Raises RecordError on other shapes.

        In training mode B b must be 2 or more, and the qualities depend on the whole batch.
        """
        if parts.ndim != 3 or tuple(parts.shape[1:]) != (self.branches, self.channels):
            raise RecordError(
                f"the quality network takes parts (B, {self.branches}, {self.channels}), got "
                f"{tuple(parts.shape)}"
            )
        nodes = parts.transpose(1, 2)  # (B, D, b): convolutions run over the nodes
        relations: Tensor = self.phi(nodes).transpose(1, 2) @ self.psi(nodes)  # (B, b, b)
        related = self.nu(relation_vectors(relations).transpose(1, 2))  # (B, 2b, b)
        own = self.mu(nodes)  # (B, D', b)
        if self.channel_mean:
            own = own.mean(dim=1, keepdim=True)
        scores: Tensor = self.theta(torch.cat([own, related], dim=1))  # (B, 1, b)
        return torch.sigmoid(scores.squeeze(1))


def relation_vectors(relations: Tensor) -> Tensor:
    """A (B, b, b) -> (B, b, 2b): for node i its row A(i, :), then its column A(:, i)."""
    return torch.cat([relations, relations.transpose(1, 2)], dim=2)


class CQAFace(Backbone):
    """CQA-Face on any stem, itself a backbone; see the module's text for shapes.

    map_channels and style_channels are the stem's; styles are those of the stem.
    """

    def __init__(
        self,
        stem: Backbone,
        *,
        branches: int = 4,
        reduction: int = 16,
        channel_mean: bool = False,
        weigh: bool = True,
        dropout: float = 0.0,
        dimension: int = 512,
    ) -> None:
        """Freshly initialised on `stem`, in training mode.

        stem: taken over. Its own head (HEAD_MODULES) is removed, nothing would train it; load
        published weights into it before. branches: b. reduction: r of the LANets and of the QAN.
        channel_mean: see QualityNetwork. weigh: False leaves out the QAN (table 1). dropout:
        probability in [0, 1) that a place of an attention map is dropped in training, for each
        branch on its own; the paper's weaker alternative to L_CAL, which does not say where it
        drops. dimension: C.

        Raises ConfigError for a number out of its range, and for a stem that is a CQAFace.
        """
        super().__init__()
        if isinstance(stem, CQAFace):
            raise ConfigError("the stem of a CQAFace must be a plain backbone, got a CQAFace")
        if dimension < 1:
            raise ConfigError(f"the dimension of an embedding must be 1 or more, got {dimension}")
        self.dimension = dimension
        self.map_channels = channels = stem.map_channels
        self.style_channels = stem.style_channels
        self.attention = Attention(channels, branches, reduction=reduction, dropout=dropout)
        self.quality = (
            QualityNetwork(channels, branches, reduction=reduction, channel_mean=channel_mean)
            if weigh
            else None
        )
        self.fc = nn.Linear(branches * channels, dimension)
        self.features = nn.BatchNorm1d(dimension)
        self.stem = stem
        for name, _ in list(stem.named_children()):
            if name in HEAD_MODULES:
                delattr(stem, name)

    def branches(self, last_map: Tensor) -> Branches:
        """The last map (B, D, H, W) -> what the branches made of it."""
        maps, parts = self.attention(last_map)
        qualities = parts.new_ones(parts.shape[:2]) if self.quality is None else self.quality(parts)
        return Branches(maps, parts, qualities)

    def join(self, branches: Branches) -> Tensor:
        """Branches of B faces -> raw embeddings (B, C): the parts by quality, side by side, FC."""
        weighed = branches.qualities[:, :, None] * branches.parts  # (B, b, D)
        return project(self.fc, self.features, weighed.flatten(1))

    def with_branches(self, images: Tensor) -> tuple[Tensor, Branches]:
        """images (B, 3, 112, 112) -> raw embeddings (B, C) and the branches, as training needs.

        Raises RecordError as `stages` does.
        """
        branches = self.branches(self.feature_map(images))
        return self.join(branches), branches

    def _stages(self, images: Tensor) -> Stages:
        return self.stem.stages(images)

    def _embed(self, last_map: Tensor) -> Tensor:
        return self.join(self.branches(last_map))


def _reduce(channels: int, reduction: int) -> int:
    if not 1 <= reduction <= channels:
        raise ConfigError(f"reduction must be from 1 to the {channels} channels, got {reduction}")
    return channels // reduction


def _layer(into: int, out: int) -> nn.Sequential:
    """(B, into, b) -> (B, out, b): convolution 1x1 without bias, BN, ReLU."""
    return nn.Sequential(nn.Conv1d(into, out, 1, bias=False), nn.BatchNorm1d(out), nn.ReLU())
