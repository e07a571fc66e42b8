"""A source that needs no camera and no file: drawn faces that move over a textured background.

synthetic:?seed=1&faces=3&seconds=5&fps=25&size=640x360&live=0. The same address gives the same
pixels on every machine with the same OpenCV. The faces are drawings: they exercise detection and
tracking, and stand for nobody. Their proportions are those at which CenterFace and YuNet find them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from .. import ConfigError
from ..configs.schema import CameraConfig
from .records import Floats, Frame, Image
from .timing import Timeline
from .watcher import SourceInfo

_SPRITE = 256  # px; faces are drawn once at this size and scaled down into the frame
_BORDER = 64  # px of background on each side that the pan moves over


@dataclass(frozen=True)
class Scene:
    """What a synthetic: address asks for; seconds 0 never ends; size is (width, height) px."""

    seed: int = 1
    faces: int = 3
    seconds: float = 10.0
    fps: float = 25.0
    size: tuple[int, int] = (640, 360)
    live: bool = False


def parse_scene(url: str) -> Scene:
    """Read a synthetic: address; raises ConfigError that names a wrong parameter.

    >>> parse_scene("synthetic:?faces=2&size=320x240").size
    (320, 240)
    """
    parts = urlsplit(url)
    if parts.netloc or parts.path or parts.fragment:
        raise ConfigError(f"{url}: expected synthetic:?name=value&name=value")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"seed", "faces", "seconds", "fps", "size", "live"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(f"{url}: expected {', '.join(sorted(known))}, got {unknown[0]!r}")
    try:
        width, height = given.get("size", "640x360").split("x")
        scene = Scene(
            seed=int(given.get("seed", 1)),
            faces=int(given.get("faces", 3)),
            seconds=float(given.get("seconds", 10)),
            fps=float(given.get("fps", 25)),
            size=(int(width), int(height)),
            live=bool(int(given.get("live", 0))),
        )
    except ValueError as error:
        raise ConfigError(f"{url}: expected numbers, as in size=640x360&fps=25 ({error})") from None
    in_range = 0 < scene.fps <= 1000 and 0 <= scene.seconds <= 1e6 and scene.seed >= 0
    fits = 0 <= scene.faces <= 32 and all(64 <= side <= 4096 for side in scene.size)
    if not (in_range and fits):
        raise ConfigError(
            f"{url}: expected fps above 0 up to 1000, 0..32 faces, 0..1000000 seconds, "
            "sides of 64..4096, a seed of 0 or more"
        )
    return scene


class SyntheticSource:
    """The moving scene of a synthetic: address; a live one must be paced by its reader.

    Frames before `first` are not painted.
    """

    def __init__(
        self, config: CameraConfig, *, live: bool, timeline: Timeline, dropped: Counter[str]
    ) -> None:
        """Draw the faces and the background; raises ConfigError for a wrong address."""
        self.paced = live
        self.dropped = dropped
        self.first = 0
        self._config = config
        self._timeline = timeline
        self._scene = scene = parse_scene(config.url)
        self._painter = Painter(scene)
        frames = max(1, round(scene.seconds * scene.fps)) if scene.seconds else None
        self.info = SourceInfo(
            camera=config.name,
            url=config.url,
            live=live,
            width=scene.size[0],
            height=scene.size[1],
            fps=scene.fps,
            frames=frames,
            duration=None if frames is None else frames / scene.fps,
        )
        timeline.begin(1.0 / scene.fps, origin=0.0)

    def __iter__(self) -> Iterator[Frame]:
        """Yield every `stride`-th frame of the scene."""
        frames = self.info.frames
        for index in count() if frames is None else range(frames):
            pts = index / self._scene.fps
            stamp = self._timeline.stamp(pts)
            if stamp.sequence >= self.first and stamp.sequence % self._config.stride == 0:
                yield Frame(self._config.name, *stamp, self._painter.paint(pts))

    def close(self) -> None:
        """Nothing is open."""


class _Actor(NamedTuple):
    """One face: sprite (S, S, 3), mask (S, S), size in px, and its way in shares of the frame."""

    sprite: Floats
    mask: Floats
    size: float
    centre: tuple[float, float]
    reach: tuple[float, float]
    rate: tuple[float, float]
    phase: float


class Painter:
    """Paints the scene at any moment."""

    def __init__(self, scene: Scene) -> None:
        """Draw what does not change: background and faces."""
        self._width, self._height = scene.size
        rng = np.random.default_rng(scene.seed)
        self._background = _texture(rng, self._height + 2 * _BORDER, self._width + 2 * _BORDER)
        self._actors = [self._cast(rng, i, scene.faces) for i in range(scene.faces)]

    def _cast(self, rng: np.random.Generator, index: int, faces: int) -> _Actor:
        """Give each face a column of its own, so that faces meet but do not hide each other."""
        sprite, mask = _draw_face(rng)
        column = self._width / faces
        size = float(min(0.36 * self._height, 0.9 * column) * rng.uniform(0.6, 1.0))
        centre = ((index + 0.5) / faces, float(rng.uniform(0.42, 0.58)))
        reach = (float(rng.uniform(0.15, 0.3)) / faces, float(rng.uniform(0.05, 0.15)))
        rate = (float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.4, 0.9)))
        return _Actor(sprite, mask, size, centre, reach, rate, float(rng.uniform(0, 2 * math.pi)))

    def boxes(self, pts: float) -> Floats:
        """Return where the faces are: (N, 4) float32 x0 y0 x1 y1 px, forehead to chin."""
        out = np.empty((len(self._actors), 4), np.float32)
        for row, actor in zip(out, self._actors, strict=True):
            x, y = self._place(actor, pts)
            half_width, half_height = 0.26 * actor.size, 0.38 * actor.size
            row[:] = (x - half_width, y - half_height, x + half_width, y + half_height)
        return out

    def paint(self, pts: float) -> Image:
        """Return the scene at `pts` seconds, (H, W, 3) uint8 BGR."""
        dx = round(_BORDER * (1 + math.sin(0.4 * pts)))
        dy = round(_BORDER * (1 + math.sin(0.3 * pts + 1)))
        view = self._background[dy : dy + self._height, dx : dx + self._width]
        image = np.array(view, dtype=np.uint8)
        for actor in self._actors:
            self._blend(image, actor, pts)
        return image

    def _place(self, actor: _Actor, pts: float) -> tuple[float, float]:
        x = actor.centre[0] + actor.reach[0] * math.sin(actor.rate[0] * pts + actor.phase)
        y = actor.centre[1] + actor.reach[1] * math.sin(actor.rate[1] * pts + 2 * actor.phase)
        return x * self._width, y * self._height

    def _blend(self, image: Image, actor: _Actor, pts: float) -> None:
        x, y = self._place(actor, pts)
        half = math.ceil(0.75 * actor.size)
        x0, y0 = max(0, int(x) - half), max(0, int(y) - half)
        patch = image[y0 : int(y) + half, x0 : int(x) + half]
        roll = 8.0 * math.sin(0.7 * pts + actor.phase)
        middle = (_SPRITE / 2, _SPRITE / 2)
        warp = cv2.getRotationMatrix2D(middle, roll, actor.size / _SPRITE)
        warp[:, 2] += np.array([x - x0 - middle[0], y - y0 - middle[1]])
        size = (patch.shape[1], patch.shape[0])
        face = cv2.warpAffine(actor.sprite, warp, size, flags=cv2.INTER_AREA)
        mask = cv2.warpAffine(actor.mask, warp, size, flags=cv2.INTER_AREA)[:, :, None]
        patch[:] = np.clip(patch * (1 - mask) + face * mask, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> Image:
    """Return noise of three grain sizes over a soft gradient, like a wall with posters."""
    image = np.full((height, width, 3), (125, 118, 110), np.float32)
    for grain, strength in ((96, 30.0), (24, 12.0), (4, 5.0)):
        rows, columns = height // grain + 2, width // grain + 2
        noise = rng.normal(0, strength, (rows, columns, 1)) * [1.0, 1.0, 1.0]
        noise += rng.normal(0, 0.25 * strength, (rows, columns, 3))
        image += cv2.resize(noise.astype(np.float32), (width, height))
    return np.clip(image, 20, 210).astype(np.uint8)


def _draw_face(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw a face of random proportions and colours; returns sprite and mask, float32."""
    s = _SPRITE
    skin = np.array([135, 165, 215], np.float64) * rng.uniform(0.55, 1.1)
    hair = np.array([30, 45, 70], np.float64) * rng.uniform(0.3, 2.0)
    wide, eye_dx = rng.uniform(0.25, 0.28), rng.uniform(0.115, 0.135)
    eye_y, nose_y, mouth_y = 0.47, rng.uniform(0.60, 0.62), rng.uniform(0.715, 0.74)
    image = np.zeros((s, s, 3), np.float32)
    mask = np.zeros((s, s), np.float32)

    def ellipse(
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: np.ndarray,
        arc: tuple[int, int] = (0, 360),
    ) -> None:
        where, axes = (round(x * s), round(y * s)), (max(1, round(rx * s)), max(1, round(ry * s)))
        cv2.ellipse(image, where, axes, 0, *arc, colour.tolist(), -1, cv2.LINE_AA)

    for target in (image, mask):
        full = hair.tolist() if target is image else (1.0,)
        cv2.ellipse(target, (s // 2, round(0.42 * s)), (round((wide + 0.05) * s), round(0.40 * s)),
                    0, 0, 360, full, -1, cv2.LINE_AA)  # fmt: skip
    neck = (round(0.40 * s), round(0.75 * s)), (round(0.60 * s), s - 2)
    cv2.rectangle(image, *neck, (0.8 * skin).tolist(), -1)
    cv2.rectangle(mask, *neck, (1.0,), -1)
    cv2.ellipse(mask, (s // 2, round(0.53 * s)), (round(wide * s), round(0.38 * s)),
                0, 0, 360, (1.0,), -1, cv2.LINE_AA)  # fmt: skip
    ellipse(0.5, 0.53, wide, 0.38, skin)
    ellipse(0.5, 0.24, wide * 0.92, 0.12, hair)
    for side in (-1, 1):
        x = 0.5 + side * eye_dx
        ellipse(x, eye_y, 0.075, 0.05, 0.78 * skin)  # socket
        ellipse(x, eye_y - 0.065, 0.075, 0.016, 0.7 * hair)  # brow
        ellipse(x, eye_y, 0.052, 0.026, 0.8 * skin + 30)
        ellipse(x, eye_y, 0.024, 0.026, np.array([45.0, 40, 35]))
        ellipse(x + side * 0.05, nose_y + 0.02, 0.05, 0.03, 1.04 * skin)  # cheek
        ellipse(0.5 + side * 0.026, nose_y + 0.012, 0.014, 0.009, 0.45 * skin)  # nostril
    ellipse(0.5, (eye_y + nose_y) / 2, 0.022, 0.09, 1.1 * skin)  # bridge
    lips = skin * np.array([0.62, 0.55, 0.82])
    ellipse(0.5, mouth_y, 0.085, 0.026, lips)
    ellipse(0.5, mouth_y, 0.075, 0.006, 0.45 * lips)
    ellipse(0.5, mouth_y + 0.055, 0.06, 0.012, 0.85 * skin)  # shade under the lip

    shade = np.linspace(1.12, 0.82, s, dtype=np.float32)[None, :, None]  # light from the left
    sprite = np.clip(cv2.GaussianBlur(image, (0, 0), 2.2) * shade, 0, 255)
    return sprite.astype(np.float32), cv2.GaussianBlur(mask, (0, 0), 1.5).astype(np.float32)
