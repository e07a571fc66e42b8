"""Places that simulated cameras look at: lobbies, corridors and passages between houses.

A room is a straight passage to a corner, behind which people come from the sides. World
coordinates in metres as in `scene`: x right of the camera's axis, y above the floor, z away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..configs.simulation import Simulation
from ..stream.records import Image
from .figures import FACE_METRES, HEAD_UP
from .scene import View

Doubles = npt.NDArray[np.float64]
Kind = Literal["lobby", "corridor", "street"]
KINDS: tuple[Kind, ...] = ("lobby", "corridor", "street")
_BEHIND = 2.6
"""Depth in m of the cross passage behind the corner."""
_SKY = 12.0
"""Height in m up to which houses are drawn."""


class Room(NamedTuple):
    """One place and the camera in it; lengths in m.

    near: depth at which faces are largest; wide: half width of the cross passage; lamps: depths of
    the lamps; ambient: brightness between them; window: brightness that comes from the left.
    """

    kind: Kind
    view: View
    half_width: float
    ceiling: float
    near: float
    corner: float
    far_wall: float
    wide: float
    lamps: tuple[float, ...]
    ambient: float
    window: float

    def half_view(self, z: float) -> float:
        """Half the width of what the camera sees at a depth, m."""
        return self.view.width / 2 / self.view.focal * z

    def light_at(self, x: npt.ArrayLike, z: npt.ArrayLike) -> Doubles:
        """Relative brightness at places; x and z of one shape."""
        x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
        light = np.full(x.shape, self.ambient)
        for lamp in self.lamps:
            light = light + 0.35 * np.exp(-(((z - lamp) / 1.5) ** 2) - (x / 3.5) ** 2)
        return light + self.window * np.clip(-x / self.half_width, 0, 1)


def build_room(preset: Simulation, kind: Kind, generator: np.random.Generator) -> Room:
    """A room in which faces reach from one of the preset's heights to the other."""
    width, height = preset.size
    low, high = preset.face_height
    focal = float(generator.uniform(0.95, 1.4)) * width
    far, near = FACE_METRES * focal / low, FACE_METRES * focal / high
    # As high as the nearest face still leaves room for a pair of shoulders below it.
    highest = HEAD_UP + 0.5 * height * FACE_METRES / high
    up = min(float(generator.uniform(2.1, 3.0)), highest)
    view = View(width, height, focal, float(generator.uniform(0.08, 0.16)) * height, up)
    corner = max(1.8 * near, far - 0.45 * _BEHIND)
    lamps = np.arange(generator.uniform(1.5, 3.0), corner + 2, generator.uniform(3.0, 4.5))
    half_width = float(
        generator.uniform(1.7, 2.3) if kind == "corridor" else generator.uniform(2.3, 3.4)
    )
    night = preset.light < 0.7
    return Room(
        kind=kind,
        view=view,
        half_width=half_width,
        ceiling=max(2.7, up + 0.35),
        near=near,
        corner=corner,
        far_wall=corner + _BEHIND,
        wide=half_width + 4.0,
        lamps=tuple(float(z) for z in lamps) if night or kind != "street" else (),
        ambient=0.82 * preset.light if kind != "street" or night else 0.98,
        window=0.0 if night else float(generator.uniform(0.0, 0.16)),
    )


class _Painter:
    """Draws flat patches in perspective; colours BGR."""

    def __init__(self, picture: Image, view: View) -> None:
        self._picture = picture
        self._view = view

    def quad(self, corners: Sequence[tuple[float, float, float]], colour: npt.ArrayLike) -> None:
        points = self._view.project(np.array(corners, np.float64)).clip(-8000, 8000)
        paint = tuple(float(c) for c in np.asarray(colour))
        cv2.fillPoly(self._picture, [(16 * points).astype(np.int32)], paint, cv2.LINE_AA, 4)

    def facing(
        self, z: float, x: tuple[float, float], y: tuple[float, float], colour: npt.ArrayLike
    ) -> None:
        (x0, x1), (y0, y1) = x, y
        self.quad([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def level(
        self, y: float, x: tuple[float, float], z: tuple[float, float], colour: npt.ArrayLike
    ) -> None:
        (x0, x1), (z0, z1) = x, z
        self.quad([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], colour)

    def along(
        self, x: float, z: tuple[float, float], y: tuple[float, float], colour: npt.ArrayLike
    ) -> None:
        (z0, z1), (y0, y1) = z, y
        self.quad([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], colour)


def draw_room(room: Room, generator: np.random.Generator) -> Image:
    """The empty room, lit, (H, W, 3) uint8 BGR."""
    picture = np.empty((room.view.height, room.view.width, 3), np.uint8)
    painter = _Painter(picture, room.view)
    if room.kind == "street":
        _draw_street(painter, room, picture, generator)
    else:
        _draw_inside(painter, room, generator)
    return _light(picture, room, generator)


def _tint(generator: np.random.Generator, least: float, most: float, spread: float) -> Doubles:
    """A colour between two greys, off grey by a spread, rather warm than cold."""
    grey = generator.uniform(least, most)
    warm = generator.normal(0.5, 0.6) * spread
    return np.clip(grey + generator.normal(0, 0.4 * spread, 3) + (-warm, 0, warm), 10, 245)


def _draw_inside(painter: _Painter, room: Room, generator: np.random.Generator) -> None:
    near, far, hw, top = 0.6, room.far_wall, room.half_width, room.ceiling
    wall, floor = _tint(generator, 140, 205, 7), _tint(generator, 70, 140, 9)
    door, trim = _tint(generator, 60, 120, 16), wall * 0.62
    across = (-room.wide, room.wide)
    painter.facing(far, across, (0, top), wall * 0.96)
    tile = float(generator.uniform(0.5, 0.9))
    painter.level(0, across, (far, near), floor)
    for z in np.arange(near, far, tile).tolist():
        for x in np.arange(-room.wide, room.wide, tile).tolist():
            tone = float(generator.normal(1, 0.035))
            area = (x, x + 0.985 * tile), (z, min(far, z + 0.985 * tile))
            painter.level(0, *area, (floor * tone).clip(0, 255))
    painter.level(top, across, (far, near), np.minimum(wall * 1.12, 245))
    for z in room.lamps:
        painter.level(top, (-0.6, 0.6), (z + 0.2, z - 0.2), (250, 252, 252))
    painter.facing(far, across, (0, 0.1), trim)
    x = float(generator.uniform(-0.6 * hw, 0.2 * hw))
    painter.facing(far - 0.02, (x, x + 0.95), (0, 2.1), door)
    painter.facing(far - 0.03, (x + 0.3, x + 0.65), (1.2, 1.8), wall * 0.8)
    painter.facing(far - 0.02, (x + 0.8, x + 0.86), (1.0, 1.04), wall)
    for start in np.arange(x + 1.3, hw - 0.4, 0.7).tolist():
        low = float(generator.uniform(1.1, 1.4))
        painter.facing(far - 0.02, (start, start + 0.45), (low, low + 0.55), trim)
        picture = _tint(generator, 90, 235, 25)
        painter.facing(far - 0.03, (start + 0.02, start + 0.43), (low + 0.02, low + 0.53), picture)
    for start in np.arange(-hw + 0.4, x - 1.0, 1.2).tolist():
        painter.facing(far - 0.02, (start, start + 0.9), (0, 0.8), trim * 1.25)
        painter.facing(far - 0.03, (start - 0.02, start + 0.92), (0.8, 0.84), trim * 0.8)
    for side in (-1, 1):
        edge = side * hw
        behind = [(edge, 0.0, room.corner), (side * room.wide, 0.0, room.corner)]
        behind += [(side * room.wide, top, room.corner), (edge, top, room.corner)]
        painter.quad(behind, wall * 0.82)
        shade = 1.0 if side < 0 else 0.9
        painter.along(edge, (near, room.corner), (0, top), wall * shade)
        painter.along(edge, (near, room.corner), (0, 0.1), trim)
        _furnish_side(painter, room, side, (wall * shade, door, trim), generator)


def _furnish_side(
    painter: _Painter,
    room: Room,
    side: int,
    colours: tuple[Doubles, Doubles, Doubles],
    generator: np.random.Generator,
) -> None:
    """Doors, windows, notices along one wall."""
    wall, door, trim = colours
    x = side * (room.half_width - 0.01)
    z = float(generator.uniform(1.0, 2.0))
    while z + 1.6 < room.corner:
        what = generator.choice(4)
        if what == 0:
            painter.along(x, (z, z + 1.1), (0, 2.15), trim)
            painter.along(x, (z + 0.07, z + 1.03), (0, 2.08), door)
        elif what == 1:
            painter.along(x, (z, z + 1.5), (0.95, 2.3), trim * 1.2)
            glass = np.array((235, 228, 215)) if room.window else np.array((60, 48, 40))
            for pane in (z + 0.06, z + 0.78):
                painter.along(x, (pane, pane + 0.66), (1.02, 2.23), glass)
        elif what == 2:
            for i in range(3):
                low = float(generator.uniform(1.15, 1.5))
                start = z + 0.4 * i
                painter.along(
                    x, (start, start + 0.3), (low, low + 0.42), _tint(generator, 90, 235, 25)
                )
        else:
            painter.along(x, (z, z + 1.2), (0.2, 0.75), np.minimum(wall * 1.08, 250))
        z += float(generator.uniform(1.9, 3.2))


def _draw_street(
    painter: _Painter, room: Room, picture: Image, generator: np.random.Generator
) -> None:
    """A passage between two houses, a house across its end, sky above."""
    near, far, hw = 0.6, room.far_wall + 6.0, room.half_width
    rows = np.linspace(0, 1, picture.shape[0])[:, None, None]
    picture[:] = ((225, 216, 204) - 25 * rows * np.array((1, 1, 1))).astype(np.uint8)
    paving, house = _tint(generator, 95, 140, 4), _tint(generator, 105, 165, 7)
    painter.facing(far, (-30, 30), (0, float(generator.uniform(5, 9))), house * 0.92)
    for x in np.arange(-9, 9, 1.9).tolist():
        for y in (0.9, 3.6):
            painter.facing(far - 0.05, (x, x + 1.0), (y, y + 1.5), house * 0.45)
    painter.level(0, (-30, 30), (far, near), paving * 0.9)
    stone = float(generator.uniform(0.4, 0.8))
    for z in np.arange(near, room.far_wall, stone).tolist():
        for x in np.arange(-room.wide, room.wide, stone).tolist():
            tone = float(generator.normal(1, 0.05))
            area = (x, x + 0.97 * stone), (z, z + 0.97 * stone)
            painter.level(0, *area, (paving * tone).clip(0, 255))
    for side in (-1, 1):
        wall = _tint(generator, 95, 170, 8) * (1.0 if side < 0 else 0.85)
        edge = side * hw
        behind = [(edge, 0.0, room.corner), (side * 30.0, 0.0, room.corner)]
        behind += [(side * 30.0, _SKY, room.corner), (edge, _SKY, room.corner)]
        painter.quad(behind, wall * 0.8)
        painter.along(edge, (near, room.corner), (0, _SKY), wall)
        painter.along(edge, (near, room.corner), (0, 0.5), wall * 0.7)
        z = float(generator.uniform(1.0, 2.0))
        while z + 1.4 < room.corner:
            low, high = (0.0, 2.3) if generator.uniform() < 0.35 else (0.9, 2.5)
            painter.along(edge - side * 0.01, (z, z + 1.3), (low, high), wall * 0.55)
            inner = (z + 0.1, z + 1.2), (low + 0.1 * (low > 0), high - 0.1)
            painter.along(edge - side * 0.02, *inner, _tint(generator, 40, 110, 12))
            z += float(generator.uniform(1.8, 2.8))


def _light(picture: Image, room: Room, generator: np.random.Generator) -> Image:
    """Light by the place that each pixel shows, stains and grain of the surfaces, a little blur."""
    view = room.view
    rows, columns = np.mgrid[0 : view.height, 0 : view.width].astype(np.float32)
    below = np.maximum(rows - view.horizon, 1e-3)
    above = np.maximum(view.horizon - rows, 1e-3)
    aside = np.maximum(np.abs(columns - view.width / 2), 1e-3)
    z = np.minimum(view.focal * view.up / below, view.focal * room.half_width / aside)
    if room.kind != "street":
        z = np.minimum(z, view.focal * (room.ceiling - view.up) / above)
    z = np.minimum(z, room.far_wall)
    x = (columns - view.width / 2) * z / view.focal
    light = room.light_at(x, z)
    for cells, strength in ((14, 0.012), (60, 0.012)):
        shape = (cells * view.height // view.width + 2, cells)
        stains = generator.normal(0, strength, shape).astype(np.float32)
        light = light + cv2.resize(stains, (view.width, view.height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(generator.normal(0, 1, rows.shape).astype(np.float32), (0, 0), 1.0)
    lit = picture * (light + 0.02 * grain)[..., None]
    return np.asarray(cv2.GaussianBlur(np.clip(lit, 0, 255), (0, 0), 0.6), np.uint8)


class Thing(NamedTuple):
    """Something people pass behind: a premultiplied layer, its corner x, y px, its depth m."""

    layer: Image
    corner: tuple[int, int]
    z: float


def draw_things(room: Room, count: int, generator: np.random.Generator) -> list[Thing]:
    """Pillars, plants and signs beside the middle of the way, farthest first."""
    drawn = []
    for _ in range(count):
        z = float(generator.uniform(0.45, 0.9) * room.corner)
        reach = min(0.7 * room.half_width, 0.75 * room.half_view(z))
        x = float(generator.uniform(0.25, 1.0) * reach * (1 if generator.uniform() < 0.5 else -1))
        light = float(room.light_at(x, z))
        layer = np.zeros((room.view.height, room.view.width, 4), np.uint8)
        what = generator.choice(3)
        if what == 0:
            _draw_pillar(layer, room, (x, z), light, generator)
        elif what == 1:
            _draw_plant(layer, room, (x, z), light, generator)
        else:
            _draw_sign(layer, room, (x, z), light, generator)
        left, top, width, height = cv2.boundingRect(layer[..., 3])
        if width and height:
            part = layer[top : top + height, left : left + width].copy()
            cv2.GaussianBlur(part, (0, 0), 0.7, part, borderType=cv2.BORDER_REPLICATE)
            drawn.append(Thing(part, (left, top), z))
    return sorted(drawn, key=lambda thing: -thing.z)


def _draw_pillar(
    layer: Image,
    room: Room,
    place: tuple[float, float],
    light: float,
    generator: np.random.Generator,
) -> None:
    painter = _Painter(layer, room.view)
    (x, z), half = place, float(generator.uniform(0.1, 0.18))
    colour = _tint(generator, 110, 190, 6) * light
    top = _SKY if room.kind == "street" else room.ceiling
    for i in range(8):
        edges = x - half + np.array([i, i + 1]) * half / 4
        round_off = 1.05 - 0.5 * ((i + 0.5) / 8 - 0.35) ** 2 / 0.2
        paint = (*(colour * round_off).clip(0, 255), 255.0)
        painter.facing(z, (float(edges[0]), float(edges[1]) + 0.004), (0, top), paint)


def _draw_plant(
    layer: Image,
    room: Room,
    place: tuple[float, float],
    light: float,
    generator: np.random.Generator,
) -> None:
    (x, z), scale = place, room.view.focal / place[1]
    painter = _Painter(layer, room.view)
    painter.facing(z, (x - 0.2, x + 0.2), (0, 0.45), (70 * light, 78 * light, 92 * light, 255.0))
    for _ in range(70):
        turn, far = generator.uniform(0, np.pi), generator.uniform(0, 0.42)
        where = np.array([x + far * np.cos(2 * turn), generator.uniform(0.55, 1.85), z])
        px, py = (int(v) for v in room.view.project(where))
        shade = light * generator.uniform(0.45, 1.05)
        paint = (58 * shade, 104 * shade, 76 * shade, 255.0)
        axes = (max(1, int(0.14 * scale)), max(1, int(0.035 * scale)))
        cv2.ellipse(layer, (px, py), axes, float(np.degrees(turn)), 0, 360, paint, -1, cv2.LINE_AA)


def _draw_sign(
    layer: Image,
    room: Room,
    place: tuple[float, float],
    light: float,
    generator: np.random.Generator,
) -> None:
    (x, z), half = place, float(generator.uniform(0.25, 0.4))
    painter = _Painter(layer, room.view)
    frame = (62 * light, 62 * light, 64 * light, 255.0)
    painter.facing(z, (x - 0.03, x + 0.03), (0, 1.2), frame)
    painter.facing(z, (x - half - 0.02, x + half + 0.02), (1.0, 1.92), frame)
    board = np.append((_tint(generator, 130, 235, 30) * light).clip(0, 255), 255.0)
    painter.facing(z - 0.01, (x - half, x + half), (1.03, 1.89), board)
    ink = np.append(board[:3] * 0.4, 255.0)
    for y in (1.74, 1.58, 1.42, 1.26):
        reach = half * float(generator.uniform(0.4, 0.85))
        painter.facing(
            z - 0.02, (x - 0.85 * half, x - 0.85 * half + reach * 1.7), (y, y + 0.05), ink
        )
