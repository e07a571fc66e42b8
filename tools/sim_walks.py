"""Ways through a simulated room, and who enters when."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..configs.simulation import Simulation
from .sim_rooms import Room

_STEPS = 40
"""Points of the curve between two corner points of a way."""
_ABREAST = 0.62
"""How far apart, in m, two people walk who walk together."""


class Place(NamedTuple):
    """Where a walker is: x and z in m, velocity in m/s, way gone in m, time on the way in s."""

    x: float
    z: float
    vx: float
    vz: float
    gone: float
    time: float


class Way:
    """A rounded way through corner points (x, z) in m at one speed, entered at one time."""

    def __init__(self, enters: float, speed: float, corners: npt.NDArray[np.float64]) -> None:
        """enters: s; speed: m/s; corners: (N, 2), joined by a cubic through them (Catmull-Rom)."""
        self.enters = enters
        self._speed = speed
        self._curve = _round(corners)
        steps = np.hypot(*np.diff(self._curve, axis=0).T)
        self._gone = np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def leaves(self) -> float:
        """When the way is done, in s."""
        return self.enters + float(self._gone[-1]) / self._speed

    def locate(self, now: float) -> Place | None:
        """The place at a time in s; None before and after."""
        time = now - self.enters
        gone = self._speed * time
        if time < 0 or gone >= self._gone[-1]:
            return None
        i = int(np.searchsorted(self._gone, gone, side="right")) - 1
        direction = (self._curve[i + 1] - self._curve[i]) / (self._gone[i + 1] - self._gone[i])
        x, z = self._curve[i] + (gone - self._gone[i]) * direction
        vx, vz = self._speed * direction
        return Place(float(x), float(z), float(vx), float(vz), gone, time)


def plan_ways(
    people: int, preset: Simulation, room: Room, generator: np.random.Generator
) -> list[Way]:
    """One way each, so that everybody has come and gone within the preset's seconds.

    Some walk beside the one before them, as often as `preset.together` says.
    """
    ways: list[Way] = []
    corners, speed = _corners(room, generator), 1.2
    starts = np.sort(generator.uniform(0, 1, people))
    for start in starts:
        joins = bool(ways) and generator.uniform() < preset.together
        if joins:
            aside = _ABREAST * (1 if generator.uniform() < 0.5 else -1)
            beside = corners + np.array([aside, generator.uniform(-0.3, 0.3)])
            beside[:, 0] = np.clip(beside[:, 0], -room.wide, room.wide)
            entered = ways[-1].enters + generator.uniform(-0.3, 0.5)
            ways.append(Way(max(-1.0, entered), speed, beside))
            continue
        corners, speed = _corners(room, generator), float(generator.uniform(0.95, 1.5))
        way = Way(0.0, speed, corners)
        # The first may be on their way when the video begins: rooms are not empty then.
        entered = -0.4 * way.leaves + start * max(0.4, preset.seconds - 0.7 * way.leaves)
        ways.append(Way(float(entered), speed, corners))
    return ways


def _corners(room: Room, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """From behind the far corner to past the camera."""
    side = 1.0 if generator.uniform() < 0.5 else -1.0
    out = 1.0 if generator.uniform() < 0.5 else -1.0
    lane = 0.75 * room.half_width
    near = 0.55 * room.half_view(room.near)
    far = room.corner + 0.45 * (room.far_wall - room.corner)
    depths = np.linspace(room.corner - 0.6, 1.35 * room.near, 4)
    middle = [(float(generator.uniform(-lane, lane)), float(z)) for z in depths[:-1]]
    edge = min(lane, 0.7 * room.half_view(float(depths[-1])))
    middle.append((float(generator.uniform(-edge, edge)), float(depths[-1])))
    last = float(generator.uniform(-near, near))
    points = [
        (side * (room.half_width + 1.0), far),
        (side * 0.7 * room.half_width, room.corner + 0.2),
        *middle,
        (last, 1.08 * room.near),
        (out * (room.half_view(room.near) + 0.55), room.near),
    ]
    return np.array(points)


def _round(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ends = np.vstack([2 * corners[0] - corners[1], corners, 2 * corners[-1] - corners[-2]])
    t = np.linspace(0, 1, _STEPS, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        cubic = (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3
        pieces.append(0.5 * (2 * b + (c - a) * t + cubic))
    return np.vstack(pieces)
