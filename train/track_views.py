"""What a camera sees of one still picture while its person walks by: runs of degraded views.

Frames of a real track are not independent. A face is small and blurred for a second, then near and
sharp, then turned away. So views come in runs: a run draws how far each kind of damage goes, in
which direction things move and to which side the face turns, and its frames drift from there.
Damage goes from 0 (none) to 1 (detectors lose most faces).

A view is a small frame with the face in the middle, at the resolution at which a camera would have
it. Embedder and quality both see that same frame, through crops by the landmarks that a detector
finds in it: its noise and its misses are part of what is learned and measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from ..models.inference import Image
from ..models.photo import PhotoFace
from .degrade_steps import add_noise, blur_gauss, blur_motion, code_jpeg

VIEWS_VERSION = 1
"""Part of the key of whatever is made of views. Raise it by hand whenever a view changes: with this
file, with what it uses of degrade_steps, or with how feature_bank draws runs and shows frames."""
HEIGHTS = (96.0, 12.0)
"""Height of a face's box, px, without damage and at the most."""
ROOM = 2.0
"""Side of a view by the height of its face."""
DRIFT = 0.25
"""Largest change of each damage from the first frame of a run to its last."""
TREMBLE = 0.06
"""Standard deviation of each damage from frame to frame."""
TURN = 45.0
"""Degrees by which a face looks aside at the most."""


class Damage(NamedTuple):
    """How far each kind of damage goes, 0..1."""

    distance: float
    defocus: float
    motion: float
    noise: float
    compression: float
    light: float
    turn: float


class Run(NamedTuple):
    """Frames that follow each other: the damage of each, and what all of them share.

    angle: of motion, degrees. side: 1 or -1, where the face turns. seed: of the frames' grain.
    """

    frames: list[Damage]
    angle: float
    side: int
    seed: int


def draw_run(
    draw: np.random.Generator, frames: int, strength: float, *, turned: bool = False
) -> Run:
    """A run whose worst one or two kinds of damage begin at `strength`, the others below half.

    turned: the face looks aside in all of the run, whatever else.
    """
    kinds = len(Damage._fields)
    start = strength * draw.uniform(0.0, 0.5, kinds)
    start[draw.choice(kinds - 1, draw.integers(1, 3), replace=False)] = strength
    start[-1] = draw.uniform(0.5, 1.0) if turned else draw.uniform(0.0, 0.4)
    slope = draw.uniform(-DRIFT, DRIFT, kinds)
    times = np.linspace(0.0, 1.0, frames)[:, None]
    levels = start + slope * times + TREMBLE * draw.standard_normal((frames, kinds))
    return Run(
        [Damage(*map(float, row)) for row in np.clip(levels, 0.0, 1.0)],
        float(draw.uniform(0.0, 180.0)),
        int(draw.choice((-1, 1))),
        int(draw.integers(1 << 31)),
    )


def show_frame(image: Image, face: PhotoFace, run: Run, frame: int) -> Image:
    """One frame of a run made of a photo (H, W, 3): (S, S, 3), S a multiple of 32. uint8 BGR."""
    draw = np.random.default_rng((run.seed, frame))
    damage = run.frames[frame]
    height = HEIGHTS[0] * (HEIGHTS[1] / HEIGHTS[0]) ** damage.distance
    seen = _place(image, face, height, run.side * TURN * damage.turn, draw)
    seen = blur_motion(seen, round(0.2 * height * damage.motion), run.angle)
    seen = blur_gauss(seen, 0.3 + 0.06 * height * damage.defocus)
    seen = _darken(seen, damage.light)
    seen = add_noise(seen, draw, 1.0 + 24.0 * damage.noise)
    return code_jpeg(seen, round(92 - 80 * damage.compression))


def _darken(image: Image, light: float) -> Image:
    """Less light, down to 0.3 of it, and less contrast about the mean, down to half."""
    gain, contrast = 1.0 - 0.7 * light, 1.0 - 0.5 * light
    lift = (1.0 - contrast) * gain * float(image.mean())
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain * contrast, beta=lift), np.uint8)


def _place(
    image: Image, face: PhotoFace, height: float, degrees: float, draw: np.random.Generator
) -> Image:
    """The face at this height, tilted a little, squeezed as if it looked aside."""
    scale = height / face.height
    shrunk = min(1.0, scale)
    size = (max(1, round(image.shape[1] * shrunk)), max(1, round(image.shape[0] * shrunk)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    side = 32 * math.ceil(ROOM * height / 32)
    centre = (face.box[:2] + face.box[2:]).astype(np.float64) / 2 * shrunk
    tilt, yaw = math.radians(draw.normal(0.0, 5.0)), math.radians(degrees)
    rotation = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    turned = scale / shrunk * rotation @ np.diag([math.cos(yaw), 1.0])
    offset = draw.uniform(-0.1, 0.1, 2) * height - turned @ centre
    plane = np.vstack([np.column_stack([turned, offset]), [0.0, 0.0, 1.0]])
    # The far half of a turned face is smaller: a plane, seen from twelve face heights away.
    far = np.array([[1, 0, 0], [0, 1, 0], [math.sin(yaw) / (12 * height), 0, 1.0]])
    middle = np.array([[1, 0, side / 2], [0, 1, side / 2], [0, 0, 1.0]])
    placed = cv2.warpPerspective(
        small,
        middle @ far @ plane,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(placed, np.uint8)
