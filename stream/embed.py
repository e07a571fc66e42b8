"""Turning tracked faces into observations: embedding, norm, style and quality.

Faces of many frames and cameras share the networks' batches; which face shared a batch with which
does not change what comes out, nor does it change the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import RecordError
from ..models.inference import Embedder, Floats, QualitySource
from .records import Observation, Observed, Tracked, TrackedFace, TrackKey

EMBEDDER, QUALITY = "embedder", "quality"


class Measured(NamedTuple):
    """What the networks say of one face; the fields are those of Observation."""

    embedding: Floats
    norm: float
    style: Floats
    quality: float


class EmbedStage:
    """Embeds faces in batches; keeps no state."""

    def __init__(
        self,
        embedder: Embedder,
        quality: QualitySource,
        *,
        epoch: str,
        batch: int,
        keep_crops: bool,
    ) -> None:
        """epoch: the one the tracks were numbered in; batch: most faces per call of a network."""
        self._embedder = embedder
        self._quality = quality
        self._epoch = epoch
        self._batch = batch
        self._keep_crops = keep_crops

    def process(self, items: Sequence[Tracked]) -> list[Observed]:
        """One Observed per item, in the order given, with an observation per face that has crops.

        A face whose embedding, norm, style or quality is not finite, or whose embedding is zero,
        gives no observation and is counted in `rejected` as "not_finite". Raises RecordError when
        a face has crops, but not the ones that this pack's networks need.
        """
        wanted = [face for item in items for face in item.faces if face.face.crops]
        measured: list[Measured] = []
        for first in range(0, len(wanted), self._batch):
            measured += self._measure(wanted[first : first + self._batch])
        answers = iter(measured)
        return [self._observe(item, answers) for item in items]

    def _measure(self, faces: Sequence[TrackedFace]) -> list[Measured]:
        """Run the networks on one batch of faces."""
        embedded = self._embedder.embed(_crops(faces, EMBEDDER))
        source = EMBEDDER if self._quality.template is None else QUALITY
        qualities = self._quality.score(
            crops=_crops(faces, source),
            embedded=embedded,
            boxes=np.stack([face.face.box for face in faces]),
            scores=np.array([face.face.score for face in faces], dtype=np.float32),
        )
        return [
            Measured(
                embedded.embeddings[i],
                float(embedded.norms[i]),
                embedded.styles[i],
                float(qualities[i]),
            )
            for i in range(len(faces))
        ]

    def _observe(self, item: Tracked, answers: Iterator[Measured]) -> Observed:
        """Take the item's share of the answers, which come in the order of the faces."""
        observations: list[Observation] = []
        refused = 0
        for face in item.faces:
            if not face.face.crops:
                continue
            measured = next(answers)
            if not usable(measured):
                refused += 1
                continue
            observations.append(
                Observation(
                    key=TrackKey(item.frame.camera, self._epoch, face.track),
                    frame=item.frame,
                    ordinal=face.ordinal,
                    box=face.face.box,
                    crop=face.face.crops[EMBEDDER] if self._keep_crops else None,
                    **measured._asdict(),
                )
            )
        return Observed(item, tuple(observations), {"not_finite": refused} if refused else {})


def usable(measured: Measured) -> bool:
    """Whether all numbers are finite and the embedding has a direction."""
    return bool(
        np.isfinite(measured.embedding).all()
        and np.isfinite(measured.style).all()
        and np.isfinite(measured.quality)
        and np.isfinite(measured.norm)
        and measured.norm > 0.0
    )


def _crops(faces: Sequence[TrackedFace], consumer: str) -> npt.NDArray[np.uint8]:
    """The faces' crops for one consumer: (N, S, S, 3) uint8 BGR."""
    for face in faces:
        if consumer not in face.face.crops:
            raise RecordError(
                f"a face needs a crop for {consumer!r}, got {sorted(face.face.crops)}: "
                "detection must be given the consumers of the same model pack"
            )
    return np.stack([face.face.crops[consumer] for face in faces])
