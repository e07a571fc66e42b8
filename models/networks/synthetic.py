"""Face sets without faces: embeddings and styles of made-up people, to test and rehearse training.

A face of quality u has the embedding a(u) * unit(centre + (1 - u) * (own noise + the set's error)).
All faces of a set share the direction of the error, as those of one blurred camera do, so that more
faces do not average it away: a fuser has to find the good ones. Quality shows in the style, among
nuisances, and in the length a(u).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sets import FaceSets, full_sets

NOISE = 1.6  # length of a face's own error at quality 0, the centre's being 1
SHARED = 1.6  # the same of the set's error
LENGTHS = (8.0, 24.0)  # of the embeddings at quality 0 and 1
NUISANCES = 4  # directions in which styles vary for other reasons than quality


class SyntheticSets:
    """Draws batches of sets; the same seed draws the same ones on the same version of torch."""

    def __init__(self, seed: int, *, dimension: int = 64, styles: int = 32) -> None:
        """dimension: C. styles: K."""
        self._draw = torch.Generator().manual_seed(seed)
        self.dimension = dimension
        self.styles = styles
        self._quality_style = self._normal(styles, 2)
        self._nuisance_style = self._normal(NUISANCES, styles, 2)

    def make(self, count: int, faces: int) -> tuple[FaceSets, Tensor]:
        """B = `count` sets of N = `faces`, each of a person of its own, and the centres (B, C).

        The sets have styles and, as quality (B, N), the u they were made with, in [0, 1]. Half of
        the faces of a set are below its own level of quality, which is uniform, half above.
        """
        centres = F.normalize(self._normal(count, self.dimension), dim=1)
        level = torch.rand(count, 1, generator=self._draw)
        spread = torch.rand(count, faces, generator=self._draw)
        quality = torch.where(
            spread < 0.5, 2 * spread * level, level + (2 * spread - 1) * (1 - level)
        )
        error = SHARED * F.normalize(self._normal(count, 1, self.dimension), dim=2)
        noise = NOISE * F.normalize(self._normal(count, faces, self.dimension), dim=2)
        units = F.normalize(centres[:, None] + (1 - quality)[..., None] * (error + noise), dim=2)
        low, high = LENGTHS
        lengths = low + (high - low) * quality + self._normal(count, faces)
        nuisance = self._normal(count, faces, NUISANCES)
        styles = (quality - 0.5)[..., None, None] * self._quality_style
        styles = styles + 0.3 * torch.einsum("bnj,jkt->bnkt", nuisance, self._nuisance_style)
        return full_sets(units * lengths[..., None], styles, quality), centres

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._draw)
