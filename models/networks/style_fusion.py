"""CFAN and PFE for packs that give no feature maps: they read the style statistics instead.

Both papers learn what each dimension of an embedding is worth from the last feature map. A pack's
style, mean and deviation of every channel of a few layers, is what is left of such maps when their
places are averaged out. So these are the published fusers on a map of one place, not the papers'.
"""

from __future__ import annotations

from torch import Tensor, nn

from .set_fusion import CFAN, PFE, WeightedFuser, widen
from .sets import FaceSets


class OnStyles(WeightedFuser):
    """CFAN or PFE on a map (2 K, 1, 1), the style of each face; a SetFuser.

    Statistics of different channels are of different size, so a batch normalisation without
    parameters comes first.
    """

    needs = ("styles",)

    def __init__(self, inner: CFAN | PFE, styles: int) -> None:
        """inner: for maps of 2 K = 2 styles channels and side 1."""
        super().__init__(inner.dimension, styles=styles)
        self.norm = nn.BatchNorm1d(2 * styles, affine=False)
        self.inner = inner

    def log_variances(self, sets: FaceSets) -> Tensor:
        """PFE's log variances (B, N, C), 0 in the padding. Raises RecordError as `weigh` does."""
        assert isinstance(self.inner, PFE)
        return self.inner.log_variances(self._as_maps(self._prepare(sets)))

    def _weigh(self, sets: FaceSets) -> Tensor:
        return self.inner.weigh(self._as_maps(sets))

    def _as_maps(self, sets: FaceSets) -> FaceSets:
        assert sets.styles is not None  # check_sets saw to it
        faces = sets.mask.flatten().nonzero().squeeze(1)  # padding must not enter the statistics
        rows = widen(sets.styles).flatten(2).flatten(0, 1)
        placed = rows.new_zeros(rows.shape).index_copy(0, faces, self.norm(rows[faces]))
        return sets._replace(maps=placed.reshape(*sets.mask.shape, -1, 1, 1))


def style_cfan(dimension: int, styles: int) -> OnStyles:
    """CFAN for C = `dimension` on K = `styles` channels. Untrained, it is the plain mean."""
    return OnStyles(CFAN(dimension, 2 * styles, side=1), styles)


def style_pfe(dimension: int, styles: int) -> OnStyles:
    """PFE, in its paper's layout, for C = `dimension` on K = `styles` channels."""
    return OnStyles(PFE(dimension, 2 * styles, side=1), styles)
