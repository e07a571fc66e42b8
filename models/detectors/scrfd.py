"""SCRFD (Guo et al., 2021): two anchors per cell at strides 8, 16 and 32."""

from __future__ import annotations

import numpy as np

from ... import CorruptModelFile
from ..inference import Floats, Session
from ..pixels import PixelFormat
from .batching import BatchDetector, Candidates, choose_batch, probe, probe_cells

_STRIDES = (8, 16, 32)
_ANCHORS = 2
_CHANNELS = {"score": 1, "box": 4, "landmarks": 10}


class Scrfd(BatchDetector):
    """Detector for SCRFD networks with landmarks (InsightFace's buffalo_l, antelopev2).

    RGB, (value - 127.5) / 128. For an anchor at pixel a = s (x, y) of stride s:
    box = a - s d[:2], a + s d[2:]; landmark = a + s k.

    Exports come in two kinds: with outputs (N, cells * 2, C), which run in batches, and with
    outputs (cells * 2, C), which do not tell pictures apart and are run one picture at a time.
    """

    PIXELS = PixelFormat(channel_order="RGB", mean=(127.5,) * 3, std=(128.0,) * 3)
    OVERLAP = 0.4

    def __init__(self, session: Session, *, score: float = 0.5, batch: int | None = None) -> None:
        """session: the network with free height and width; the nine outputs may have any order.

        score: smallest score by default; batch: pictures per run at most (see `choose_batch`),
        where the export allows it. Raises CorruptModelFile for another network.
        """
        outputs = probe(session, "SCRFD")
        self._names: dict[tuple[int, str], str] = {}
        for stride in _STRIDES:
            rows = probe_cells(stride) ** 2 * _ANCHORS
            for kind, channels in _CHANNELS.items():
                fitting = [n for n, o in outputs.items() if o.shape[-2:] == (rows, channels)]
                if len(fitting) != 1:
                    raise CorruptModelFile(
                        f"SCRFD: expected one output (..., {rows}, {channels}) for a 64 x 64 "
                        f"picture, got {[output.shape for output in outputs.values()]}"
                    )
                self._names[stride, kind] = fitting[0]
        batched = all(outputs[name].ndim == 3 for name in self._names.values())
        super().__init__(session, score, choose_batch(session, batch) if batched else 1)

    def forward(self, batch: Floats, least: float) -> Candidates:
        """Candidates of a batch (N, 3, H, W)."""
        outputs = self._session.run({self._session.inputs[0]: batch})
        levels = []
        for stride in _STRIDES:
            rows = batch.shape[2] * batch.shape[3] // stride**2 * _ANCHORS
            scores, boxes, shares = (
                outputs[self._names[stride, kind]].reshape(len(batch), rows, channels)
                for kind, channels in _CHANNELS.items()
            )
            levels.append(_decode(scores, boxes, shares, stride, batch.shape[3] // stride, least))
        return Candidates(*(np.concatenate(parts) for parts in zip(*levels, strict=True)))


def _decode(
    scores: Floats, boxes: Floats, shares: Floats, stride: int, columns: int, least: float
) -> Candidates:
    """scores (N, cells * 2, 1), boxes (.., 4), shares (.., 10), ordered by row, column, anchor."""
    picture, row = np.nonzero(scores[..., 0] >= least)
    cell = row // _ANCHORS
    anchor = np.stack([cell % columns, cell // columns], axis=-1).astype(np.float32) * stride
    reach = boxes[picture, row] * stride  # left, top, right, bottom
    points = shares[picture, row].reshape(-1, 5, 2) * stride
    return Candidates(
        picture,
        np.concatenate([anchor - reach[:, :2], anchor + reach[:, 2:]], axis=1),
        points + anchor[:, None],
        scores[picture, row, 0],
    )
