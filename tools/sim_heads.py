"""Heads for simulated video: cut out of a still with the neck, turned as a rounded surface.

A turn moves the picture over a bump that is as wide and as high as the head, so that the nose
moves more than the ears and the outline stays. It is a mild warp: what the still does not show is
not invented, and beyond about 25 degrees it would fold.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..stream.records import Floats, Image
from .figures import blend

CUT_HEIGHT = 160
"""Faces are kept at no more than this many pixels."""
_OUTLINE_HEIGHT = 80
"""Faces are this many pixels tall when their outline is searched: GrabCut takes its time."""
MOST_YAW, MOST_PITCH = 0.44, 0.30
"""Largest turns in radians; the warp is one to one within them."""
_DEPTH = np.array([0.6, 0.4], np.float32)
"""How far the face stands out, in half axes: across for yaw, up and down for pitch."""
_FIXED_POINT = 14
"""Steps of the inverse of the warp: each takes the error to 0.6 of it or less."""


class Bust(NamedTuple):
    """A head with its neck.

    levels: premultiplied BGRA uint8, each half as large as the one before; face: (4,) x0 y0 x1 y1
    and points: (5, 2) landmarks, float32 px of the first level; skin: mean BGR of the cheeks.
    """

    levels: tuple[Image, ...]
    face: Floats
    points: Floats
    skin: tuple[float, float, float]


class Pose(NamedTuple):
    """How a head is held, in radians: yaw to its left, pitch down, roll clockwise, in the picture.

    light: gain; side: how much brighter the right side is than the middle, -1..1.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    light: float = 1.0
    side: float = 0.0


def cut_bust(photo: Image, box: Floats, points: Floats) -> Bust:
    """Cut one head with hair and neck out of a still, with a soft edge.

    photo: (H, W, 3) uint8; box: (4,) and points: (5, 2) px. The outline comes from GrabCut, which
    knows face and neck for head and the picture's margins for background.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    left, top = max(0, round(box[0] - 1.0 * width)), max(0, round(box[1] - 0.85 * height))
    patch = photo[top : round(box[3] + 0.7 * height), left : round(box[2] + 1.0 * width)]
    shrink = min(1.0, CUT_HEIGHT / height)
    patch = np.asarray(
        cv2.resize(patch, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8
    )
    face = ((box - (left, top, left, top)) * shrink).astype(np.float32)
    marks = ((points - (left, top)) * shrink).astype(np.float32)
    # A clear border: a head that touches the edge of its still must not be smeared by the warp.
    margin = 8
    patch = np.asarray(
        cv2.copyMakeBorder(patch, margin, margin, margin, margin, cv2.BORDER_REPLICATE), np.uint8
    )
    face, marks = face + np.float32(margin), marks + np.float32(margin)
    alpha = _find_outline(patch, face, marks)
    levels = [_premultiply(patch, alpha)]
    while min(levels[-1].shape[:2]) >= 24:
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.uint8))
    return Bust(tuple(levels), face, marks, _skin_tone(patch, marks))


def _premultiply(patch: Image, alpha: Image) -> Image:
    colours = cv2.multiply(patch, cv2.merge([alpha] * 3), None, 1 / 255)
    return np.asarray(cv2.merge([*cv2.split(colours), alpha]), np.uint8)


def _find_outline(patch: Image, face: Floats, points: Floats) -> Image:
    """Alpha (H, W) uint8 of head and neck in a patch."""
    shrink = min(1.0, _OUTLINE_HEIGHT / float(face[3] - face[1]))
    small = cv2.resize(patch, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    alpha = _outline(np.asarray(small, np.uint8), face * shrink, points * shrink)
    size = (patch.shape[1], patch.shape[0])
    return np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _outline(patch: Image, face: Floats, points: Floats) -> Image:
    """Alpha (H, W) uint8 of head and neck in a patch that is small enough for GrabCut."""
    x0, y0, x1, y1 = (float(v) for v in face)
    width, height = x1 - x0, y1 - y0
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    lean = float(np.degrees(np.arctan2(mouth[0] - eyes[0], mouth[1] - eyes[1])))
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])

    mask = np.full(patch.shape[:2], cv2.GC_BGD, np.uint8)

    def ellipse(dx: float, dy: float, rx: float, ry: float, value: int) -> None:
        centre = (round(middle[0] + dx * width), round(middle[1] + dy * height))
        axes = (max(1, round(rx * width)), max(1, round(ry * height)))
        cv2.ellipse(mask, centre, axes, -lean, 0, 360, value, -1)

    ellipse(0, -0.05, 1.10, 0.98, cv2.GC_PR_BGD)
    ellipse(0, -0.10, 0.78, 0.80, cv2.GC_PR_FGD)
    ellipse(0, -0.05, 0.44, 0.55, cv2.GC_FGD)
    chin = y1 + 0.02 * height
    neck = round(0.30 * width)
    centre = round(float(mouth[0]))
    bottom = round(chin + 0.36 * height)
    mask[round(chin - 0.1 * height) : bottom, max(0, centre - neck) : centre + neck] = cv2.GC_PR_FGD
    core = round(0.20 * width)
    mask[
        round(chin - 0.1 * height) : round(chin + 0.18 * height), centre - core : centre + core
    ] = cv2.GC_FGD
    mask[bottom:] = cv2.GC_BGD
    mask[:2], mask[:, :2], mask[:, -2:] = cv2.GC_BGD, cv2.GC_BGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(patch, mask, (0, 0, 0, 0), *models, 4, cv2.GC_INIT_WITH_MASK)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    side = max(3, 2 * round(height / 45) + 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, disc), np.uint8)
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_CLOSE, disc), np.uint8)
    _, parts = cv2.connectedComponents(found)
    inside = (parts == parts[round(middle[1]), round(middle[0])]).astype(np.float32)
    soft = cv2.GaussianBlur(inside, (0, 0), height / 50)
    # Keep the inner half of the blurred step: the outer half is the still's own background.
    alpha = np.clip(2.0 * soft - 1.0, 0.0, 1.0)
    return np.asarray(255 * alpha * _neckline(patch.shape, centre, chin, width, height), np.uint8)


def _neckline(
    shape: tuple[int, ...], centre: float, chin: float, width: float, height: float
) -> Floats:
    """1 above a round neckline, 0 below it: lowest under the chin, rising to the sides.

    Where the still ends before, so does the neck, as round.
    """
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape[1], dtype=np.float32)[None]
    aside = np.clip(np.abs(columns - centre) / (0.75 * width), 0, 1)
    lowest = min(chin + 0.34 * height, shape[0] - 0.02 * height) - 0.16 * height * aside**2
    return np.asarray(np.clip((lowest - rows) / (0.06 * height), 0.0, 1.0), np.float32)


def _skin_tone(patch: Image, points: Floats) -> tuple[float, float, float]:
    """Colour of the skin between eyes and mouth, a little into the shade."""
    x, y = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    reach = max(2, round(0.4 * float(np.linalg.norm(points[1] - points[0]))))
    region = patch[max(0, int(y) - reach) : int(y) + reach, max(0, int(x) - reach) : int(x) + reach]
    blue, green, red = (float(c) for c in np.percentile(region.reshape(-1, 3), 35, axis=0))
    return blue, green, red


class _Shape(NamedTuple):
    """The rounded surface: its middle (2,) and half axes (2,), px of the first level."""

    middle: Floats
    axes: Floats


def _shape(bust: Bust) -> _Shape:
    size = bust.face[2:] - bust.face[:2]
    middle = (bust.face[:2] + bust.face[2:]) / 2 - np.array([0, 0.06 * size[1]])
    return _Shape(middle.astype(np.float32), (size * (0.95, 1.05)).astype(np.float32))


def _unturn(where: Floats, yaw: float, pitch: float) -> Floats:
    """Where in the still a turned head's point comes from; (..., 2) in half axes, both ways."""
    r = np.sqrt((where**2).sum(axis=-1, keepdims=True))
    bump = 0.5 * (1 + np.cos(np.pi * np.minimum(r, 1)))
    inside = np.clip((1.3 - r) / 0.6, 0, 1)
    squeeze = inside * inside * (3 - 2 * inside)
    turns = np.array([yaw, pitch], np.float32)
    moved = where * (1 - squeeze * (1 - np.cos(turns))) - bump * _DEPTH * np.sin(turns)
    return np.asarray(moved, np.float32)


def _turn(points: Floats, yaw: float, pitch: float) -> Floats:
    """The inverse of `_unturn`, by fixed-point iteration."""
    where = points.astype(np.float32)
    for _ in range(_FIXED_POINT):
        where = where - (_unturn(where, yaw, pitch) - points)
    return where


def locate_face(bust: Bust, pose: Pose, centre: Floats, height: float) -> tuple[Floats, Floats]:
    """Box (4,) and landmarks (5, 2) float32 px of a head whose face stands at `centre` (2,).

    height: px of the face box when it is not turned. The box holds the ellipse that fills the
    still's box, turned with the face.
    """
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    middle, half = (bust.face[:2] + bust.face[2:]) / 2, (bust.face[2:] - bust.face[:2]) / 2
    outline = middle + half * np.stack([np.cos(angles), np.sin(angles)], 1)
    shape = _shape(bust)
    both = np.concatenate([bust.points, outline]).astype(np.float32)
    turned = _turn((both - shape.middle) / shape.axes, pose.yaw, pose.pitch)
    scale = height / float(bust.face[3] - bust.face[1])
    offset = (shape.middle - middle + turned * shape.axes) * scale
    placed = (centre + offset @ _rotation(pose.roll).T).astype(np.float32)
    outline = placed[5:]
    box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
    return box.astype(np.float32), placed[:5]


def draw_bust(bust: Bust, pose: Pose, layer: Image, centre: Floats, height: float) -> None:
    """Draw a head over a premultiplied layer (H, W, 4), in place; arguments as `locate_face`."""
    scale = height / float(bust.face[3] - bust.face[1])
    reach = 0.5 * float(np.hypot(*bust.levels[0].shape[:2])) * scale + 2
    x0, y0 = (int(max(0, c - reach)) for c in centre)
    x1, y1 = (int(max(0, c + reach)) for c in centre)
    part = layer[y0:y1, x0:x1]
    if not part.size:
        return
    # The finest level that is not shrunk by more than two: a bilinear warp would skip pixels.
    level = min(max(0, int(np.ceil(np.log2(0.75 / scale)))), len(bust.levels) - 1)
    shape = _shape(bust)
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]].astype(np.float32)
    away = np.stack([columns + (x0 - centre[0]), rows + (y0 - centre[1])], axis=-1)
    middle = (bust.face[:2] + bust.face[2:]) / 2
    where = ((away @ _rotation(pose.roll)) / scale + middle - shape.middle) / shape.axes
    source = _unturn(where.astype(np.float32), pose.yaw, pose.pitch) * shape.axes + shape.middle
    source = ((source + 0.5) / 2**level - 0.5).astype(np.float32)
    across, down = np.ascontiguousarray(source[..., 0]), np.ascontiguousarray(source[..., 1])
    over = cv2.remap(bust.levels[level], across, down, cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0))
    gain = pose.light * (1 + pose.side * np.clip(where[..., :1], -1, 1))
    colours = np.minimum(over[..., :3] * gain, over[..., 3:])  # premultiplied: never above alpha
    blend(part, np.dstack([colours, over[..., 3]]).astype(np.uint8))


def _rotation(roll: float) -> Floats:
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s], [s, c]], np.float32)
