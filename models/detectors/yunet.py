"""YuNet (Wu, Peng and Yu, 2023): one anchor point per cell at strides 8, 16 and 32."""

from __future__ import annotations

import numpy as np

from ... import CorruptModelFile
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

_STRIDES = (8, 16, 32)
_CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


class YuNet(BatchDetector):
    """Detector for the YuNet network, BGR 0..255.

    At cell (x, y) of stride s: score = sqrt(cls obj); centre = s ((x, y) + bbox[:2]);
    width, height = s exp(bbox[2:]); landmark = s ((x, y) + kps).
    """

    PIXELS = PixelFormat(channel_order="BGR")
    OVERLAP = 0.3

    def __init__(self, session: Session, *, score: float = 0.6, batch: int | None = None) -> None:
        """session: the network with free batch, height and width.

        Its outputs are cls_S (N, cells, 1), obj_S, bbox_S (.., 4) and kps_S (.., 10) for S in
        8, 16, 32, cells row by row. score: smallest score by default; batch: pictures per run at
        most (see `choose_batch`). Raises CorruptModelFile for another network.
        """
        wanted = {f"{kind}_{stride}" for kind in _CHANNELS for stride in _STRIDES}
        if not wanted <= set(session.outputs):
            missing = ", ".join(sorted(wanted - set(session.outputs)))
            raise CorruptModelFile(f"YuNet: the network has no outputs {missing}")
        outputs = probe(session, "YuNet")
        expect_shapes(
            "YuNet",
            [outputs[f"{kind}_{stride}"].shape for stride in _STRIDES for kind in _CHANNELS],
            [
                (1, probe_cells(s) ** 2, channels)
                for s in _STRIDES
                for channels in _CHANNELS.values()
            ],
        )
        super().__init__(session, score, choose_batch(session, batch))

    def forward(self, batch: Floats, least: float) -> Candidates:
        """Candidates of a batch (N, 3, H, W)."""
        outputs = self._session.run({self._session.inputs[0]: batch})
        width = batch.shape[3]
        levels = [self._decode(outputs, stride, width // stride, least) for stride in _STRIDES]
        return Candidates(*(np.concatenate(parts) for parts in zip(*levels, strict=True)))

    @staticmethod
    def _decode(
        outputs: dict[str, np.ndarray], stride: int, columns: int, least: float
    ) -> Candidates:
        classes, objects = outputs[f"cls_{stride}"][..., 0], outputs[f"obj_{stride}"][..., 0]
        scores = np.sqrt(np.clip(classes, 0, 1) * np.clip(objects, 0, 1))  # (N, cells)
        picture, cell = np.nonzero(scores >= least)
        anchor = np.stack([cell % columns, cell // columns], axis=-1).astype(np.float32)  # x y
        box = outputs[f"bbox_{stride}"][picture, cell]
        centre = (anchor + box[:, :2]) * stride
        half = np.exp(box[:, 2:]) * (stride / 2)
        shares = outputs[f"kps_{stride}"][picture, cell].reshape(-1, 5, 2)
        return Candidates(
            picture,
            np.concatenate([centre - half, centre + half], axis=1),
            (shares + anchor[:, None]) * stride,
            scores[picture, cell],
        )
