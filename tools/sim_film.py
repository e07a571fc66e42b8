"""Films one simulated camera: clean pictures with people, and the exact truth about their faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..configs.simulation import Simulation
from ..stream.records import Image
from . import scene, sim_bodies, sim_heads, sim_rooms, sim_walks
from .figures import FACE_METRES, HEAD_UP, blend
from .sim_heads import Bust, Pose
from .sim_rooms import Room, Thing
from .sim_sensor import Sensor
from .truth import FaceTruth

_LEAST_VISIBLE = 0.05
"""A face of which less is seen is not in the truth."""


class Person(NamedTuple):
    """Who walks: an identity, the head as this camera sees it, the clothes of this scene."""

    identity: str
    bust: Bust
    look: sim_bodies.Look


class _Seen(NamedTuple):
    """A face drawn in this frame: its truth, and which pixels of its box show it.

    corner: x, y of the first pixel; shown: (h, w) bool; area: pixels of the whole ellipse.
    """

    truth: FaceTruth
    corner: tuple[int, int]
    shown: np.ndarray
    area: int


def film(
    people: Sequence[Person],
    preset: Simulation,
    kind: sim_rooms.Kind,
    generator: np.random.Generator,
) -> Iterator[tuple[Image, list[FaceTruth]]]:
    """Yield each frame, (H, W, 3) uint8 BGR as the camera gives it, and its faces, farthest first.

    Track ids count from 1 in the order of `people`; frames count from 0.
    """
    room = sim_rooms.build_room(preset, kind, generator)
    empty = sim_rooms.draw_room(room, generator)
    things = sim_rooms.draw_things(room, preset.objects, generator)
    ways = sim_walks.plan_ways(len(people), preset, room, generator)
    order = generator.permutation(len(people))  # who takes which way
    gaits = [_Gait(preset, generator) for _ in people]
    sensor = Sensor(preset, generator)
    stage = _Stage(room, preset, things)
    for number in range(round(preset.seconds * preset.fps)):
        now = number / preset.fps
        present = []
        for who, way in zip(order.tolist(), ways, strict=True):
            place = way.locate(now)
            if place is not None:
                present.append(_Walker(people[who], who + 1, place, gaits[who]))
        picture = empty.copy()
        faces = stage.draw(picture, present, number)
        yield sensor.expose(picture, now), faces


class _Gait:
    """How one person walks and looks around: phases and reaches."""

    def __init__(self, preset: Simulation, generator: np.random.Generator) -> None:
        self._phase = generator.uniform(0, 2 * np.pi, 4)
        self._rate = generator.uniform(0.6, 1.5, 2)
        self._turn = np.radians(preset.turn) * generator.uniform(0.4, 1.0)
        self._nod = np.radians(preset.nod) * generator.uniform(0.3, 1.0)

    def stride(self, place: sim_walks.Place) -> float:
        """Phase of the steps, radians."""
        return float(2 * np.pi * place.gone / 1.42 + self._phase[0])

    def pose(self, place: sim_walks.Place, heading: float, room: Room, light: float) -> Pose:
        """How the head is held: it looks around, follows the way, and is seen from above."""
        look = self._turn * np.sin(self._rate[0] * place.time + self._phase[1])
        # Who turns aside turns the head less than the body; a slow glance leads it.
        yaw = np.clip(look + 0.45 * heading, -sim_heads.MOST_YAW, sim_heads.MOST_YAW)
        above = np.arctan2(room.view.up - HEAD_UP, place.z)
        nod = self._nod * np.sin(self._rate[1] * place.time + self._phase[2])
        pitch = np.clip(nod + 0.5 * above, -sim_heads.MOST_PITCH, sim_heads.MOST_PITCH)
        roll = 0.03 * np.sin(self.stride(place)) + 0.05 * np.sin(0.8 * place.time + self._phase[3])
        return Pose(float(yaw), float(pitch), float(roll), light, -0.10 - 0.5 * room.window)


class _Walker(NamedTuple):
    person: Person
    track: int
    place: sim_walks.Place
    gait: _Gait


class _Stage:
    """Draws people and things into one camera's pictures, far to near."""

    def __init__(self, room: Room, preset: Simulation, things: list[Thing]) -> None:
        self._room = room
        self._preset = preset
        self._things = things
        # People behind the corner are cut off where the side walls end.
        reach = room.view.focal * room.half_width / room.corner
        middle = room.view.width / 2
        self._opening = (round(middle - reach), round(middle + reach))
        self._focus = 1.6 * room.near

    def draw(self, picture: Image, walkers: list[_Walker], frame: int) -> list[FaceTruth]:
        """Draw one frame in place and return the faces seen in it."""
        for walker in walkers:
            if walker.place.z < self._room.corner:
                scene.draw_shadow(picture, self._room.view, walker.place.x, walker.place.z)
        seen: list[_Seen] = []
        parts: list[_Walker | Thing] = [*walkers, *self._things]
        parts.sort(key=lambda part: -(part.z if isinstance(part, Thing) else part.place.z))
        for part in parts:
            if isinstance(part, Thing):
                layer, corner = part.layer, part.corner
                _hide(seen, layer, corner)
            else:
                drawn = self._draw_walker(part, frame)
                if drawn is None:
                    continue
                layer, corner, face = drawn
                _hide(seen, layer, corner)
                seen.append(face)
            x, y = corner
            blend(picture[y : y + layer.shape[0], x : x + layer.shape[1]], layer)
        faces = []
        for face in seen:
            visible = float(face.shown.sum()) / face.area
            if visible >= _LEAST_VISIBLE:
                faces.append(face.truth._replace(visible=visible))
        return faces

    def _draw_walker(
        self, walker: _Walker, frame: int
    ) -> tuple[Image, tuple[int, int], _Seen] | None:
        """A layer around one walker, its corner in px, and the face in it."""
        view, place, person = self._room.view, walker.place, walker.person
        scale = view.focal / place.z
        tall = person.look.outfit.stature
        heading = float(np.arctan2(place.vx, -place.vz))
        stride = walker.gait.stride(place)
        sway, bob = 0.018 * np.sin(stride), 0.02 * np.cos(2 * stride)
        head = view.project(np.array([place.x + sway, HEAD_UP * tall + bob, place.z]))
        x0, x1 = (int(np.clip(head[0] + s * 0.8 * scale, 0, view.width)) for s in (-1, 1))
        y0 = int(np.clip(head[1] - 0.45 * scale, 0, view.height))
        y1 = int(np.clip(head[1] + 1.9 * scale, 0, view.height))
        if x1 - x0 < 8 or y1 - y0 < 8:
            return None
        layer = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
        light = float(self._room.light_at(place.x, place.z))
        # Bodies are drawn flat: turned further than this they would look like boards.
        flat = float(np.clip(0.8 * heading, -0.5, 0.5))
        stand = sim_bodies.Stand(place.x + sway, place.z, flat, stride, light)
        sim_bodies.draw_body(layer, (x0, y0), view, stand, person.look, person.bust.skin)
        pose = walker.gait.pose(place, heading, self._room, 0.86 * light)
        centre = (head - (x0, y0)).astype(np.float32)
        height = FACE_METRES * tall * scale
        sim_heads.draw_bust(person.bust, pose, layer, centre, height)
        layer = self._smear(layer, place)
        opening = (0, view.width) if place.z <= self._room.corner else self._opening
        layer[:, : max(0, opening[0] - x0)] = 0
        layer[:, max(0, opening[1] - x0) :] = 0
        box, points = sim_heads.locate_face(person.bust, pose, head, height)
        truth = FaceTruth(frame, walker.track, person.identity, box, points, 1.0)
        return layer, (x0, y0), _see(truth, (opening[0], 0, opening[1], view.height))

    def _smear(self, layer: Image, place: sim_walks.Place) -> Image:
        """Motion during the exposure, and defocus by depth."""
        scale = self._room.view.focal / place.z
        across = (place.vx - place.vz * place.x / place.z) * scale * self._preset.exposure_ms / 1000
        length = abs(across)
        if length > 0.8:
            # A box of fractional length: whole pixels inside, the rest at its two ends.
            half = int(np.ceil(length / 2))
            kernel = np.clip(length / 2 + 0.5 - np.abs(np.arange(-half, half + 1)), 0, 1)
            row = (kernel / kernel.sum())[None].astype(np.float32)
            layer = np.asarray(
                cv2.filter2D(layer, -1, row, borderType=cv2.BORDER_CONSTANT), np.uint8
            )
        apart = abs(1 / place.z - 1 / self._focus)
        sigma = 0.0025 * self._preset.defocus * self._room.view.focal * apart
        if sigma > 0.3:
            layer = np.asarray(
                cv2.GaussianBlur(layer, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT), np.uint8
            )
        return layer


def _see(truth: FaceTruth, area: tuple[int, int, int, int]) -> _Seen:
    """A face whose ellipse counts as far as it lies in an area x0 y0 x1 y1 px of the picture."""
    x0, y0, x1, y1 = (int(v) for v in (*np.floor(truth.box[:2]), *np.ceil(truth.box[2:])))
    shown = np.zeros((max(1, y1 - y0), max(1, x1 - x0)), np.uint8)
    middle = (shown.shape[1] // 2, shown.shape[0] // 2)
    cv2.ellipse(shown, middle, middle, 0, 0, 360, 1, -1)
    whole = int(shown.sum())
    shown[:, : max(0, area[0] - x0)] = 0
    shown[:, max(0, area[2] - x0) :] = 0
    shown[: max(0, area[1] - y0)] = 0
    shown[max(0, area[3] - y0) :] = 0
    return _Seen(truth, (x0, y0), shown, max(1, whole))


def _hide(seen: list[_Seen], layer: Image, corner: tuple[int, int]) -> None:
    """Take from the faces so far what a nearer layer covers, in place."""
    for face in seen:
        x, y = face.corner[0] - corner[0], face.corner[1] - corner[1]
        height, width = face.shown.shape
        x0, y0 = max(0, x), max(0, y)
        x1, y1 = min(layer.shape[1], x + width), min(layer.shape[0], y + height)
        if x0 < x1 and y0 < y1:
            covered = layer[y0:y1, x0:x1, 3] > 127
            face.shown[y0 - y : y1 - y, x0 - x : x1 - x][covered] = 0
