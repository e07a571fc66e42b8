"""The room that rendered clips are set in: perspective, background and light.

A lobby seen by a camera above head height: side walls up to a cross passage, a far wall with a
door. World coordinates in metres: x right of the camera's axis, y above the floor, z away from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..stream.records import Floats, Image

HALF_WIDTH = 2.6
CEILING = 2.75
CORNER = 8.2
"""Depth at which the side walls end; behind it people come round the corner."""
FAR_WALL = 11.0
NEAR = 1.2
"""Depth from which floor, ceiling and side walls are drawn."""
WIDE = 7.0
"""Half width of the cross passage behind the corner."""
SKIRTING = 0.12
DARK = (96, 106, 112)

Span = tuple[float, float]
Colour = tuple[int, int, int]


class View(NamedTuple):
    """A pinhole camera without distortion: size in px, focal length in px, horizon row in px."""

    width: int
    height: int
    focal: float
    horizon: float
    up: float = 2.05

    def project(self, points: npt.NDArray[np.float64]) -> Floats:
        """World (..., 3) metres to picture (..., 2) px."""
        depth = points[..., 2]
        across = self.width / 2 + self.focal * points[..., 0] / depth
        down = self.horizon + self.focal * (self.up - points[..., 1]) / depth
        return np.stack([across, down], axis=-1).astype(np.float32)


def view_of(width: int, height: int) -> View:
    """The demo's camera: about 52 degrees wide, so a face of 20 cm is 24 px at 8.3 m."""
    return View(width, height, 1.03 * width, 0.15 * height)


def light_at(x: float, z: float) -> float:
    """Relative brightness at a place: two ceiling lamps and a window on the left."""
    lamps = np.exp(-(((z - 3.0) / 1.3) ** 2)) + np.exp(-(((z - 7.4) / 1.3) ** 2))
    return float(0.78 + 0.26 * lamps + 0.10 * np.clip(-x / HALF_WIDTH, 0, 1))


def draw_room(view: View, generator: np.random.Generator) -> Image:
    """The empty room, (H, W, 3) uint8 BGR."""
    room = np.empty((view.height, view.width, 3), np.uint8)
    room[:] = (186, 202, 208)
    _draw_shell(room, view)
    _draw_furniture(room, view)
    return _shade(room, view, generator)


def _quad(
    room: Image,
    view: View,
    corners: Sequence[tuple[float, float, float]],
    colour: Colour,
) -> None:
    points = view.project(np.array(corners, np.float64))
    cv2.fillPoly(room, [(16 * points).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _facing(room: Image, view: View, z: float, x: Span, y: Span, colour: Colour) -> None:
    """A rectangle that faces the camera, at depth z."""
    (x0, x1), (y0, y1) = x, y
    _quad(room, view, [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)


def _level(room: Image, view: View, y: float, x: Span, z: Span, colour: Colour) -> None:
    """A rectangle as on floor or ceiling, at height y; z from far to near."""
    (x0, x1), (z0, z1) = x, z
    _quad(room, view, [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], colour)


def _along(room: Image, view: View, x: float, z: Span, y: Span, colour: Colour) -> None:
    """A rectangle as on a side wall, at x."""
    (z0, z1), (y0, y1) = z, y
    _quad(room, view, [(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], colour)


def _draw_shell(room: Image, view: View) -> None:
    """Far wall, floor with tiles, ceiling with lamps, side walls."""
    across = (-WIDE, WIDE)
    _facing(room, view, FAR_WALL, across, (0, CEILING), (176, 190, 196))
    _level(room, view, 0, across, (FAR_WALL, NEAR), (118, 130, 138))
    for i, z in enumerate(np.arange(NEAR, FAR_WALL, 0.6).tolist()):
        for j, x in enumerate(np.arange(-WIDE, WIDE, 0.6).tolist()):
            tone = 4 * ((7 * i + 13 * j + i * j) % 5) - 8 + (10 if (i + j) % 2 else 0)
            far = min(z + 0.59, FAR_WALL)
            _level(room, view, 0, (x, x + 0.59), (z, far), (120 + tone, 132 + tone, 141 + tone))
    _level(room, view, CEILING, across, (FAR_WALL, NEAR), (206, 212, 214))
    for z in (3.0, 7.4):
        _level(room, view, CEILING, (-0.7, 0.7), (z - 0.3, z + 0.3), (246, 250, 250))
    _facing(room, view, FAR_WALL, across, (0, SKIRTING), DARK)
    for side in (-1, 1):
        _draw_side(room, view, side)


def _draw_side(room: Image, view: View, side: int) -> None:
    """One side wall up to the corner, with skirting and rail, and the wall behind the corner."""
    x, along = side * HALF_WIDTH, (NEAR, CORNER)
    # Behind the corner, a little nearer at its edge: it hides the end of the far skirting.
    behind = [
        (x, 0, CORNER - 0.01),
        (side * WIDE, 0, CORNER),
        (side * WIDE, CEILING, CORNER),
        (x, CEILING, CORNER - 0.01),
    ]
    _quad(room, view, behind, (150, 166, 174))
    wall = (168, 186, 194) if side < 0 else (156, 172, 180)
    _along(room, view, x, along, (0, CEILING), wall)
    _along(room, view, x, along, (0, SKIRTING), DARK)
    _along(room, view, x, along, (0.92, 1.0), (122, 138, 148))


def _draw_furniture(room: Image, view: View) -> None:
    """A door and a notice board on the far wall, a window and a door in the side walls."""
    z = FAR_WALL - 0.02
    _facing(room, view, z, (0.35, 1.45), (0, 2.15), (92, 104, 112))
    _facing(room, view, z, (0.42, 1.38), (0, 2.08), (70, 96, 124))
    _facing(room, view, z, (0.75, 1.05), (1.3, 1.9), (178, 190, 186))
    _facing(room, view, z, (0.5, 0.6), (1.0, 1.04), (190, 196, 200))
    _facing(room, view, z, (-2.0, -0.7), (1.2, 2.0), (98, 110, 118))
    _facing(room, view, z, (-1.95, -0.75), (1.24, 1.96), (108, 136, 160))
    for i, (x, y) in enumerate([(-1.85, 1.5), (-1.5, 1.35), (-1.2, 1.6), (-1.0, 1.3)]):
        tone = (210 - 12 * i, 222 - 5 * i, 226 - 20 * (i % 2))
        _facing(room, view, z, (x, x + 0.2), (y, y + 0.28), tone)
    left, right = -HALF_WIDTH + 0.01, HALF_WIDTH - 0.01
    _along(room, view, left, (4.4, 7.0), (1.1, 2.35), (150, 160, 164))
    for pane in ((4.5, 5.65), (5.75, 6.9)):
        _along(room, view, left, pane, (1.18, 2.28), (244, 240, 228))
    _along(room, view, right, (5.2, 6.4), (0, 2.15), (84, 96, 104))
    _along(room, view, right, (5.28, 6.32), (0, 2.08), (72, 92, 112))


def _shade(room: Image, view: View, generator: np.random.Generator) -> Image:
    """Light falling off from lamps and window, plaster texture, blurred a little."""
    rows, columns = np.mgrid[0 : view.height, 0 : view.width].astype(np.float32)
    u, v = columns / view.width, rows / view.height
    light = 0.80 + 0.22 * np.exp(-(((u - 0.5) / 0.5) ** 2 + ((v - 0.25) / 0.5) ** 2))
    light += 0.10 * np.exp(-(((u - 0.12) / 0.18) ** 2 + ((v - 0.72) / 0.30) ** 2))
    coarse = generator.normal(0, 1, (view.height // 24 + 2, view.width // 24 + 2)).astype(
        np.float32
    )
    stains = cv2.resize(coarse, (view.width, view.height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(generator.normal(0, 1, rows.shape).astype(np.float32), (0, 0), 1.2)
    lit = room * (light + 0.012 * stains + 0.03 * grain)[..., None]
    return np.asarray(cv2.GaussianBlur(np.clip(lit, 0, 255), (0, 0), 0.7), np.uint8)


def draw_shadow(picture: Image, view: View, x: float, z: float) -> None:
    """Darken the floor under somebody, in place."""
    (across, down) = view.project(np.array([x, 0.0, z]))
    if not down < picture.shape[0] + 40:
        return
    scale = view.focal / z
    half_width, half_height = 0.42 * scale, max(2.0, 0.42 * scale * view.up / z)
    x0, x1 = int(max(0, across - half_width)), int(min(view.width, across + half_width))
    y0, y1 = int(max(0, down - half_height)), int(min(view.height, down + half_height))
    if x0 >= x1 or y0 >= y1:
        return
    columns = (np.arange(x0, x1, dtype=np.float32) - across) / half_width
    rows = (np.arange(y0, y1, dtype=np.float32) - down) / half_height
    reach = np.clip(1 - columns[None] ** 2 - rows[:, None] ** 2, 0, 1)
    gain = (255 * (1 - 0.5 * reach)).astype(np.uint8)
    patch = picture[y0:y1, x0:x1]
    picture[y0:y1, x0:x1] = cv2.multiply(patch, cv2.merge([gain] * 3), None, 1 / 255)
