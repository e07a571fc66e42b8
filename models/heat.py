"""Pictures of what a network looks at: maps drawn over a face, side by side, with their numbers.

The maps come from models/networks/activation.py, or are any numbers on a grid over the face.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import ConfigError, RecordError
from .inference import Image

Floats = NDArray[np.floating]

TILE = 224
"""Side of a face in a strip, px: twice an aligned crop, so that words below it can be read."""
PAPER, INK = (255, 255, 255), (24, 24, 24)
_GAP, _LINE, _TEXT, _BAR = 12, 26, 0.55, 18
_HEAT = 0.55


def overlay_heat(face: Image, heat: Floats, limits: tuple[float, float]) -> Image:
    """A map over a face: the face in grey, the map in colours from dark violet to yellow.

    face: (H, W, 3) uint8 BGR. heat: (h, w) finite, h and w >= 1, stretched over the whole face and
    smoothed between its places. limits: the values that get the darkest and the brightest colour;
    values beyond are clipped. Returns (H, W, 3) uint8 BGR.

    Raises RecordError for other shapes or values, ConfigError when limits do not rise.
    """
    _check_face(face)
    if heat.ndim != 2 or 0 in heat.shape or not np.isfinite(heat).all():
        raise RecordError(f"a heat map must be (h, w) and finite, got {heat.shape}")
    lowest, highest = _check_limits(limits)
    share = (np.clip(heat.astype(np.float64), lowest, highest) - lowest) / (highest - lowest)
    size = (face.shape[1], face.shape[0])
    # Cubic: linear leaves a star around every peak. It overshoots, so it is clipped again.
    smooth = np.asarray(cv2.resize(share, size, interpolation=cv2.INTER_CUBIC), np.float64)
    colours = _colours(smooth.clip(0, 1))
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.addWeighted(grey, 1 - _HEAT, colours, _HEAT, 0), dtype=np.uint8)


def draw_strip(
    face: Image,
    heats: Floats,
    captions: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    legend: str = "",
) -> Image:
    """One row: the face, then one tile per map with its caption below, then the scale of colours.

    face: (H, W, 3) uint8 BGR, scaled to a height of TILE px. heats: (n, h, w) finite, n >= 1; all
    have the same colours, so they can be compared. captions: n short ASCII texts, see
    `quality_captions`. limits: as `overlay_heat`; None is the smallest and the largest value of
    all maps. legend: what the colours mean, below the scale. Returns (height, width, 3) uint8 BGR.

    Raises RecordError and ConfigError as `overlay_heat`, and RecordError when captions do not
    match the maps.
    """
    _check_face(face)
    if heats.ndim != 3 or 0 in heats.shape or not np.isfinite(heats).all():
        raise RecordError(f"heat maps must be (n, h, w), not empty and finite, got {heats.shape}")
    if len(captions) != len(heats):
        raise RecordError(f"every map needs a caption, got {len(captions)} for {len(heats)} maps")
    lowest, highest = limits or _span(heats)
    width = max(1, round(face.shape[1] * TILE / face.shape[0]))
    large = np.asarray(cv2.resize(face, (width, TILE), interpolation=cv2.INTER_CUBIC), np.uint8)
    tiles = [large] + [overlay_heat(large, heat, (lowest, highest)) for heat in heats]
    columns = [
        _captioned(tile, caption) for tile, caption in zip(tiles, ["face", *captions], strict=True)
    ]
    return _in_a_row([*columns, _scale(lowest, highest, legend)])


def quality_captions(qualities: Floats) -> list[str]:
    """ "1: S = 0.83" and so on for the qualities (n,) of CQA-Face's branches.

    Raises RecordError when they are not a row of numbers.
    """
    if qualities.ndim != 1:
        raise RecordError(f"the qualities of one face must be (n,), got {qualities.shape}")
    return [f"{index}: S = {quality:.2f}" for index, quality in enumerate(qualities, start=1)]


def _span(heats: Floats) -> tuple[float, float]:
    """The smallest and the largest value; constant maps get the darkest colour."""
    lowest, highest = float(heats.min()), float(heats.max())
    return lowest, highest if highest > lowest else lowest + 1.0


def _colours(share: NDArray[np.floating]) -> Image:
    """(H, W) in [0, 1] -> (H, W, 3) uint8 BGR. Viridis: even steps, also without colour vision."""
    levels = np.rint(share * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), dtype=np.uint8)


def _captioned(tile: Image, caption: str) -> Image:
    """The tile with a line of text below it, widened where the text is wider."""
    (wide, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, _TEXT, 1)
    height, width = tile.shape[0], max(tile.shape[1], wide)
    column = np.full((height + _LINE, width, 3), PAPER, np.uint8)
    start = (width - tile.shape[1]) // 2
    column[:height, start : start + tile.shape[1]] = tile
    return _write(column, caption, ((width - wide) // 2, height + _LINE - 8))


def _scale(lowest: float, highest: float, legend: str) -> Image:
    """The bar of colours, brightest on top, with the two limits beside it and the legend below."""
    texts = [f"{highest:.3g}", f"{lowest:.3g}", legend]
    widths = [cv2.getTextSize(t, cv2.FONT_HERSHEY_SIMPLEX, _TEXT, 1)[0][0] for t in texts]
    width = max(_BAR + 6 + widths[0], _BAR + 6 + widths[1], widths[2])
    column = np.full((TILE + _LINE, width, 3), PAPER, np.uint8)
    ramp = np.repeat(np.linspace(1, 0, TILE)[:, None], _BAR, axis=1)
    column[:TILE, :_BAR] = _colours(ramp)
    column = _write(column, texts[0], (_BAR + 6, 14))
    column = _write(column, texts[1], (_BAR + 6, TILE - 2))
    return _write(column, legend, (0, TILE + _LINE - 8))


def _write(picture: Image, text: str, place: tuple[int, int]) -> Image:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, _TEXT, INK, 1, cv2.LINE_AA)
    return picture


def _in_a_row(columns: Sequence[Image]) -> Image:
    """Columns of one height beside each other on white paper, with gaps."""
    height = columns[0].shape[0]
    gap = np.full((height, _GAP, 3), PAPER, np.uint8)
    row = np.concatenate([part for column in columns for part in (gap, column)] + [gap], axis=1)
    edge = np.full((_GAP, row.shape[1], 3), PAPER, np.uint8)
    return np.concatenate([edge, row, edge], axis=0)


def _check_face(face: Image) -> None:
    if face.ndim != 3 or face.shape[2] != 3 or 0 in face.shape or face.dtype != np.uint8:
        raise RecordError(f"a face must be (H, W, 3) uint8, got {face.shape} {face.dtype}")


def _check_limits(limits: tuple[float, float]) -> tuple[float, float]:
    lowest, highest = limits
    if not (np.isfinite(lowest) and np.isfinite(highest) and lowest < highest):
        raise ConfigError(f"limits must be finite and rise, got {lowest} and {highest}")
    return lowest, highest
