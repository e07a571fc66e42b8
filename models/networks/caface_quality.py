"""Two CAFaces that also read the quality, to compare with the published one. Neither runs live.

The published network knows of quality what style and norm tell. The learned mean reads the pack's
quality as well, so comparing these two says little about what looking at the whole set is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..caface_head import HeadSize
from ..scalar_fusion import QUALITY_FLOOR, SCORE_LIMIT, Keys
from .caface import CAFace, Encoded, Sums
from .caface_layers import Assignment
from .scalar_fusion import ScalarWeighted
from .set_fusion import widen
from .sets import FaceSets, check_sets


class QualityCAFace(CAFace):
    """CAFace with the quality and its logarithm as one more style channel."""

    def __init__(self, size: HeadSize, *, style_mix: float = 0.5) -> None:
        """size: K is the pack's, without the channel that is added here."""
        super().__init__(size._replace(styles=size.styles + 1), style_mix=style_mix)

    def encode(self, sets: FaceSets) -> Encoded:
        """SIM for every face, as CAFace's; `sets` needs quality as well."""
        check_sets(sets, styles=self.size.styles - 1, needs=("styles", "quality"))
        assert sets.styles is not None and sets.quality is not None  # check_sets saw to it
        quality = widen(sets.quality).clamp(min=0.0)
        channel = torch.stack([quality, (quality + QUALITY_FLOOR).log()], dim=2)[:, :, None]
        return super().encode(sets._replace(styles=torch.cat([widen(sets.styles), channel], dim=2)))


class GuidedCAFace(CAFace):
    """CAFace on top of the learned mean: a face counts exp(score) times in every centre.

    The score is the learned mean's and trained along. Where CAFace treats all centres and faces
    alike, as it nearly does untrained, this is the learned mean; what is learned beyond it comes
    from the set.
    """

    def __init__(
        self, size: HeadSize, *, keys: Keys = "style+norm+quality", style_mix: float = 0.5
    ) -> None:
        """keys: what the score is made of."""
        super().__init__(size, style_mix=style_mix)
        self.guide = ScalarWeighted(size.dimension, size.styles, keys=keys)

    def encode(self, sets: FaceSets) -> Encoded:
        """As CAFace's; the last number of a token is the score of the face."""
        encoded = super().encode(sets)
        scores = self.guide.score(sets).clamp(-SCORE_LIMIT, SCORE_LIMIT)
        tokens = torch.cat([encoded.tokens, scores[..., None].to(encoded.tokens)], dim=2)
        return encoded._replace(tokens=tokens)

    def cluster(self, encoded: Encoded) -> Sums:
        """The sums of one chunk of every set, each face times exp(score)."""
        tokens, scores = encoded.tokens[..., :-1], encoded.tokens[..., -1]
        weights, keys = self.cn(tokens, encoded.mask)
        guided: Tensor = weights * scores.double().exp()[:, None]
        return self.add_up(encoded.values, Assignment(guided, keys))
