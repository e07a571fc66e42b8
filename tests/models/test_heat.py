"""Maps drawn over a face: where the colours are, and that the numbers are there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facestream import ConfigError, RecordError
from facestream.models.heat import TILE, draw_strip, overlay_heat, quality_captions

YELLOW = np.array([37, 231, 253])  # Viridis' brightest, BGR
VIOLET = np.array([84, 1, 68])  # and its darkest


def glyph_face() -> np.ndarray:
    face = np.full((112, 112, 3), (170, 190, 215), np.uint8)
    for x in (38, 74):
        cv2.circle(face, (x, 50), 6, (40, 40, 40), -1)
    cv2.line(face, (42, 90), (70, 90), (60, 60, 170), 2)
    return face


def one_hot(row: int, column: int) -> np.ndarray:
    heat = np.zeros((7, 7), np.float32)
    heat[row, column] = 1
    return heat


def yellowness(picture: np.ndarray) -> np.ndarray:
    """Green minus blue, which grows along the scale: (H, W) int."""
    return picture[..., 1].astype(int) - picture[..., 0]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 3), (5, 1)])
def test_the_heat_lies_where_the_map_is_high(row: int, column: int) -> None:
    """Place (row, column) of a 7 x 7 map covers 16 x 16 px of a 112 px face."""
    picture = overlay_heat(np.full((112, 112, 3), 128, np.uint8), one_hot(row, column), (0, 1))
    assert picture.shape == (112, 112, 3) and picture.dtype == np.uint8
    warm = np.argwhere(yellowness(picture) > yellowness(picture).max() - 5)
    assert np.abs(warm.mean(axis=0) - (16 * row + 7.5, 16 * column + 7.5)).max() < 6


def test_limits_set_the_ends_of_the_scale_and_clip() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    low, high, beyond = (
        overlay_heat(black, np.full((7, 7), value), (2.0, 3.0))[16, 16] for value in (2, 3, 40)
    )
    assert np.abs(low / 0.55 - VIOLET).max() < 3
    assert np.abs(high / 0.55 - YELLOW).max() < 3
    assert np.array_equal(high, beyond)


def test_the_face_shines_through() -> None:
    face = glyph_face()
    picture = overlay_heat(face, np.full((7, 7), 0.5), (0, 1))
    eye, skin = picture[50, 38].astype(int), picture[20, 56].astype(int)
    assert (skin - eye).min() > 40
    assert np.array_equal(face, glyph_face())


def test_strip_has_a_tile_and_a_number_for_every_branch() -> None:
    face = glyph_face()
    heats = np.stack([one_hot(1, 1), one_hot(1, 5), one_hot(5, 3)])
    captions = quality_captions(np.array([0.91, 0.5, 0.074]))
    assert captions == ["1: S = 0.91", "2: S = 0.50", "3: S = 0.07"]
    strip = draw_strip(face, heats, captions, legend="attention")
    gap = 12
    assert strip.shape[0] > TILE + 2 * gap and strip.shape[1] > 4 * (TILE + gap)
    large = cv2.resize(face, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(strip[gap : gap + TILE, gap : gap + TILE], large)
    for index, heat in enumerate(heats, start=1):
        left = gap + index * (TILE + gap)
        tile = strip[gap : gap + TILE, left : left + TILE]
        assert np.array_equal(tile, overlay_heat(large, heat, (0, 1)))
        below = strip[gap + TILE : -gap, left : left + TILE]
        assert (below.min(axis=2) < 100).sum() > 50, "no caption"
    scale = strip[gap : gap + TILE, gap + 4 * (TILE + gap) + 4]
    assert np.abs(scale[0] - YELLOW).max() < 3 and np.abs(scale[-1] - VIOLET).max() < 3


def test_captions_change_the_picture_and_maps_share_one_scale() -> None:
    heats = np.stack([np.full((7, 7), 0.2), np.full((7, 7), 0.4)])
    first = draw_strip(glyph_face(), heats, ["a", "b"])
    assert not np.array_equal(first, draw_strip(glyph_face(), heats, ["a", "c"]))
    assert np.array_equal(first, draw_strip(glyph_face(), heats, ["a", "b"], limits=(0.2, 0.4)))


def test_wide_words_widen_their_column_and_nothing_is_cut() -> None:
    heats = np.zeros((1, 7, 7))
    short = draw_strip(glyph_face(), heats, ["1"])
    long = draw_strip(glyph_face(), heats, ["a caption that is much wider than the tile above it"])
    assert long.shape[0] == short.shape[0] and long.shape[1] > short.shape[1]


def test_constant_maps_and_faces_that_are_not_square() -> None:
    strip = draw_strip(np.zeros((40, 20, 3), np.uint8), np.full((2, 1, 1), 0.3), ["1", "2"])
    tile = strip[12 : 12 + TILE, 12 * 2 + TILE // 2 :][:, : TILE // 2]
    assert np.abs(tile / 0.55 - VIOLET).max() < 3


def test_refusals() -> None:
    face, heat = glyph_face(), np.zeros((7, 7))
    with pytest.raises(RecordError, match=r"a face must be \(H, W, 3\) uint8, got .* float64"):
        overlay_heat(face / 255, heat, (0, 1))
    for bad in (heat[0], np.full((7, 7), np.nan)):
        with pytest.raises(RecordError, match=r"a heat map must be \(h, w\) and finite"):
            overlay_heat(face, bad, (0, 1))
    for limits in ((1.0, 1.0), (0.0, np.inf)):
        with pytest.raises(ConfigError, match="limits must be finite and rise"):
            overlay_heat(face, heat, limits)
    with pytest.raises(RecordError, match=r"heat maps must be \(n, h, w\)"):
        draw_strip(face, heat, ["1"])
    with pytest.raises(RecordError, match="every map needs a caption, got 1 for 2 maps"):
        draw_strip(face, np.zeros((2, 7, 7)), ["1"])
    with pytest.raises(RecordError, match=r"the qualities of one face must be \(n,\)"):
        quality_captions(np.zeros((2, 4)))
