"""CenterFace (Xu et al., 2019): faces as the peaks of a heat map at stride 4."""

from __future__ import annotations

import numpy as np

from ..inference import Floats, Session
from ..pixels import PixelFormat
from .batching import (
    BatchDetector,
    Candidates,
    choose_batch,
    expect_shapes,
    probe,
    probe_cells,
)

_STRIDE = 4


class CenterFace(BatchDetector):
    """Detector for the CenterFace network, RGB 0..255.

    At cell (y, x) of the stride-4 maps: score = heat map; centre = 4 (cell + offset + 0.5);
    height, width = 4 exp(scale); landmark = box corner + share * (height, width).
    The network's pairs are ordered (y, x), (h, w).
    """

    PIXELS = PixelFormat(channel_order="RGB")
    OVERLAP = 0.3

    def __init__(self, session: Session, *, score: float = 0.35, batch: int | None = None) -> None:
        """session: the network with free batch, height and width (`free_shapes(spatial=True)`).

        Its outputs come in the order heat map (N, 1, H/4, W/4), scale and offset (N, 2, ...),
        landmarks (N, 10, ...). score: smallest score by default; batch: pictures per run at most
        (see `choose_batch`). Raises CorruptModelFile for another network.
        """
        side = probe_cells(_STRIDE)
        expect_shapes(
            "CenterFace",
            [output.shape for output in probe(session, "CenterFace").values()],
            [(1, channels, side, side) for channels in (1, 2, 2, 10)],
        )
        super().__init__(session, score, choose_batch(session, batch))

    def forward(self, batch: Floats, least: float) -> Candidates:
        """Candidates of a batch (N, 3, H, W)."""
        outputs = self._session.run({self._session.inputs[0]: batch})
        heat, scale, offset, shares = (outputs[name] for name in self._session.outputs)
        picture, y, x = np.nonzero(heat[:, 0] >= least)
        cell = np.stack([y, x], axis=-1).astype(np.float32)
        centre = (cell + offset[picture, :, y, x] + 0.5) * _STRIDE  # (M, 2) y x
        extent = np.exp(scale[picture, :, y, x]) * _STRIDE  # (M, 2) h w
        corner = centre - extent / 2
        points = shares[picture, :, y, x].reshape(-1, 5, 2)  # (M, 5, 2) y x
        points = points * extent[:, None] + corner[:, None]
        return Candidates(
            picture,
            np.concatenate([corner[:, ::-1], (corner + extent)[:, ::-1]], axis=1),
            points[..., ::-1],
            heat[picture, 0, y, x],
        )
