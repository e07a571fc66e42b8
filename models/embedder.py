"""Embedders: networks that turn aligned crops into embeddings, and style statistics beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import CorruptModelFile, ModelError, RecordError
from .inference import AlignTemplate, Embedded, Floats, Session
from .onnx_surgery import STYLE
from .pixels import PixelFormat


class OnnxEmbedder:
    """An embedding network on any Session; thread-safe as the session is."""

    template: AlignTemplate
    dimension: int
    style_channels: int
    """K of Embedded.styles: channels over all tensors of the style output, 0 without one."""

    def __init__(
        self,
        session: Session,
        *,
        template: AlignTemplate,
        dimension: int,
        pixels: PixelFormat,
        batch: int = 32,
    ) -> None:
        """session: one input of aligned crops; outputs: the embedding and, where wanted, "style".

        The embedding is the only output besides "style" (`add_style_outputs`); its shape is
        (N, C), or (N, C, 1, 1) as some exporters leave it. batch: crops per run at most.
        A black crop goes through once, so a file that is not the network of its card is refused
        here: CorruptModelFile for another input size, number of outputs or dimension.
        """
        names = [name for name in session.outputs if name != STYLE]
        if len(session.inputs) != 1 or len(names) != 1:
            raise CorruptModelFile(
                "an embedder must have one input and one output besides style, "
                f"got inputs {', '.join(session.inputs)} and outputs {', '.join(session.outputs)}"
            )
        self.template = template
        self.dimension = dimension
        self._session = session
        self._pixels = pixels
        self._batch = batch
        self._output = names[0]
        self._styled = STYLE in session.outputs
        self.style_channels = 0
        size = template.size
        try:
            probe = self._run(np.zeros((1, size, size, 3), dtype=np.uint8))
        except CorruptModelFile:
            raise
        except ModelError as error:
            raise CorruptModelFile(
                f"expected an embedder of {size} x {size} crops in {pixels.layout}: {error}"
            ) from error
        self.style_channels = probe.styles.shape[1]

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        """crops (N, S, S, 3) uint8 BGR, S = template.size -> Embedded; N may be 0.

        Raises RecordError on another shape or dtype.
        """
        size = self.template.size
        expect_crops(crops, size)
        parts = [
            self._run(crops[start : start + self._batch])
            for start in range(0, len(crops), self._batch)
        ]
        if not parts:
            return Embedded(
                np.zeros((0, self.dimension), np.float32),
                np.zeros(0, np.float32),
                np.zeros((0, self.style_channels, 2), np.float32),
            )
        return Embedded(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _run(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        outputs = self._session.run({self._session.inputs[0]: self._pixels.tensor(crops)})
        count = len(crops)
        raw = outputs[self._output]
        if raw.shape[:2] != (count, self.dimension) or raw.size != count * self.dimension:
            raise CorruptModelFile(
                f"expected embeddings ({count}, {self.dimension}), the network gives {raw.shape}"
            )
        embeddings = raw.reshape(count, self.dimension).astype(np.float32, copy=False)
        styles: Floats = outputs[STYLE] if self._styled else np.zeros((count, 0, 2), np.float32)
        if styles.ndim != 3 or styles.shape[0] != count or styles.shape[2] != 2:
            raise CorruptModelFile(
                f"expected style ({count}, K, 2), the network gives {styles.shape}"
            )
        norms = np.linalg.norm(embeddings, axis=1).astype(np.float32)
        return Embedded(embeddings, norms, styles.astype(np.float32, copy=False))


def expect_crops(crops: npt.NDArray[np.uint8], size: int) -> None:
    """Raise RecordError unless crops is (N, size, size, 3) uint8."""
    if crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
        raise RecordError(
            f"crops must be (N, {size}, {size}, 3) uint8 BGR, got {crops.shape} {crops.dtype.name}"
        )
