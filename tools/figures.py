"""Walking people for rendered clips: heads cut out of a photograph, on jointed, drawn bodies.

Lengths are metres (x right, y up, z away from the camera), angles radians, pictures BGR.
A layer is a (H, W, 4) uint8 picture with colours premultiplied by its alpha.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..stream.records import Floats, Image

FACE_METRES = 0.20
"""Height of a detected face box (hairline to chin)."""
HEAD_UP = 1.60
"""Height of the middle of the face above the floor."""
_CUT_HEIGHT = 120
"""Faces are cut out at no more than this many pixels: nearer than any camera here comes."""


class Head(NamedTuple):
    """One cut-out head.

    layer: premultiplied; face: (4,) float32 x0 y0 x1 y1 of the detected box in the layer;
    skin: (3,) mean BGR of the cheeks, for neck and hands.
    """

    layer: Image
    face: Floats
    skin: tuple[float, float, float]


class Outfit(NamedTuple):
    """Colours (BGR) of what somebody wears, and how tall they are relative to 1.72 m."""

    top: tuple[int, int, int]
    trousers: tuple[int, int, int]
    shoes: tuple[int, int, int]
    stature: float


class Capsule(NamedTuple):
    """A limb: from one joint to another, (3,) metres each, with a radius at either end."""

    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    radii: tuple[float, float]
    colour: tuple[float, float, float]


OUTFITS = (
    Outfit((92, 62, 48), (58, 52, 50), (38, 36, 34), 0.98),
    Outfit((64, 84, 132), (84, 62, 46), (30, 34, 44), 0.97),
    Outfit((86, 98, 74), (54, 60, 70), (36, 36, 40), 1.03),
    Outfit((70, 62, 110), (60, 50, 44), (28, 28, 30), 1.02),
    Outfit((128, 122, 112), (56, 44, 38), (40, 38, 36), 1.05),
    Outfit((66, 116, 138), (74, 72, 70), (44, 44, 46), 0.96),
)


def cut_head(photo: Image, box: Floats, landmarks: Floats) -> Head:
    """Cut one head with its hair out of a photograph, with a soft edge and no neighbours.

    photo: (H, W, 3) uint8; box: (4,) px; landmarks: (5, 2) px. The outline is found by GrabCut
    from an ellipse that leans with the face and sits behind it when it is turned.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    width, height = x1 - x0, y1 - y0
    left, top = max(0, round(x0 - 0.9 * width)), max(0, round(y0 - 0.75 * height))
    patch = photo[top : round(y1 + 0.5 * height), left : round(x1 + 0.9 * width)]
    shrink = min(1.0, _CUT_HEIGHT / height)
    small = cv2.resize(patch, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    patch = np.ascontiguousarray(small, np.uint8)
    face = ((np.asarray(box) - (left, top, left, top)) * shrink).astype(np.float32)
    points = ((landmarks - (left, top)) * shrink).astype(np.float32)
    alpha = _outline(patch, face, points)
    layer = np.dstack([patch * (alpha[..., None] / 255.0), alpha]).round().astype(np.uint8)
    return Head(layer, face, _skin_tone(patch, points))


def _skin_tone(patch: Image, points: Floats) -> tuple[float, float, float]:
    """Colour of the shaded skin around the cheeks, on the far side of the nose of a turned face."""
    middle = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    x, y = middle - (0.6 * (points[2, 0] - middle[0]), 0)
    reach = max(2, round(0.4 * float(np.linalg.norm(points[1] - points[0]))))
    region = patch[max(0, int(y) - reach) : int(y) + reach, max(0, int(x) - reach) : int(x) + reach]
    return _triple(float(c) for c in np.percentile(region.reshape(-1, 3), 35, axis=0))


def _outline(patch: Image, face: Floats, points: Floats) -> Image:
    """Alpha (H, W) uint8 of the head in a patch."""
    height = float(face[3] - face[1])
    width = float(face[2] - face[0])
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    lean = float(np.degrees(np.arctan2(mouth[0] - eyes[0], mouth[1] - eyes[1])))
    centre = (face[:2] + face[2:]) / 2
    turned = float(points[2, 0] - (eyes[0] + mouth[0]) / 2)
    behind = centre - (0.9 * turned, 0.10 * height)

    mask = np.full(patch.shape[:2], cv2.GC_BGD, np.uint8)

    def fill(
        middle: npt.NDArray[np.floating], half_width: float, half_height: float, value: int
    ) -> None:
        axes = (round(half_width), round(half_height))
        place = (round(float(middle[0])), round(float(middle[1])))
        cv2.ellipse(mask, place, axes, -lean, 0, 360, value, -1)

    fill(behind, 0.98 * width, 0.90 * height, cv2.GC_PR_BGD)
    fill(behind - (0, 0.04 * height), 0.74 * width, 0.76 * height, cv2.GC_PR_FGD)
    fill(behind - (0, 0.10 * height), 0.42 * width, 0.54 * height, cv2.GC_FGD)
    fill(centre - (0.45 * turned, 0), 0.36 * width, 0.47 * height, cv2.GC_FGD)
    chin = round(float(face[3] + 0.12 * height))
    mask[chin:] = cv2.GC_BGD
    if turned < -0.1 * width:  # nothing of a head lies in front of a turned face
        mask[:, : max(0, round(float(face[0] - 0.04 * width)))] = cv2.GC_BGD
    elif turned > 0.1 * width:
        mask[:, round(float(face[2] + 0.04 * width)) :] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(patch, mask, (0, 0, 0, 0), background, foreground, 4, cv2.GC_INIT_WITH_MASK)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    tidy = cv2.morphologyEx(cv2.morphologyEx(found, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    _, parts = cv2.connectedComponents(tidy)
    inside = (parts == parts[round(float(centre[1])), round(float(centre[0]))]).astype(np.float32)
    soft = cv2.GaussianBlur(inside, (0, 0), height / 45)
    # Keep the inner half of the blurred step: the outer half is the photograph's own background.
    alpha = np.clip(2.2 * soft - 1.1, 0.0, 1.0)
    rows = np.arange(len(patch), dtype=np.float32)[:, None]
    alpha *= np.clip((chin - rows) / (0.10 * height), 0.0, 1.0)
    return np.asarray(255 * alpha, np.uint8)


_TORSO = np.array(
    [
        (1.490, 0.060), (1.465, 0.095), (1.435, 0.155), (1.405, 0.190), (1.330, 0.186),
        (1.200, 0.172), (1.060, 0.155), (0.950, 0.163), (0.870, 0.168), (0.850, 0.150),
    ]
)  # fmt: skip
"""Outline of the trunk: height and half width in metres, from the neck down."""


class Body(NamedTuple):
    """A pose, drawn in this order: legs, trunk (N, 3) metres, then neck and arms."""

    legs: list[Capsule]
    trunk: npt.NDArray[np.float64]
    arms: list[Capsule]


def pose_body(
    outfit: Outfit, skin: tuple[float, float, float], stride: float, swing: float = 1.0
) -> Body:
    """A walker in its own frame: x lateral, y up, z backward, feet on y = 0.

    stride: phase of the gait in radians (a full turn is two steps); swing: 0 stands still.
    """
    tall = outfit.stature

    def joint(lateral: float, up: float, ahead: float) -> npt.NDArray[np.float64]:
        return np.array([lateral * tall, up * tall, -ahead * tall])

    legs: list[Capsule] = []
    neck = _triple(0.80 * c for c in skin)
    arms = [Capsule(joint(0, 1.462, 0), joint(0, 1.58, 0), (0.056, 0.052), neck)]
    sleeve = _triple(0.92 * c for c in outfit.top)
    for side in (-1, 1):
        phase = swing * side * np.sin(stride)
        lift = swing * max(0.0, side * np.cos(stride))
        hip = joint(0.085 * side, 0.93, 0)
        knee = joint(0.095 * side, 0.51 + 0.03 * lift, 0.20 * phase + 0.10 * lift)
        ankle = joint(0.095 * side, 0.09 + 0.09 * lift, 0.30 * phase - 0.12 * lift)
        toe = joint(0.115 * side, 0.04 + 0.07 * lift, 0.30 * phase - 0.12 * lift + 0.16)
        legs += [
            Capsule(ankle, toe, (0.045, 0.04), outfit.shoes),
            Capsule(knee, ankle, (0.068, 0.055), outfit.trousers),
            Capsule(hip, knee, (0.090, 0.07), outfit.trousers),
        ]
        shoulder = joint(0.160 * side, 1.370, 0)
        elbow = joint(0.215 * side, 1.11, -0.12 * phase)
        wrist = joint(0.215 * side, 0.88, -0.24 * phase + 0.06)
        arms += [
            Capsule(wrist, wrist - (0, 0.07, 0), (0.036, 0.032), neck),
            Capsule(elbow, wrist, (0.046, 0.038), sleeve),
            Capsule(shoulder, elbow, (0.054, 0.048), sleeve),
        ]
    up, half = _TORSO.T * tall
    both = np.concatenate([half, -half[::-1]])
    trunk = np.stack([both, np.concatenate([up, up[::-1]]), np.zeros(len(both))], axis=1)
    return Body(legs, trunk, arms)


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third


_SHADES = (
    (0.70, 1.0, 0.0),
    (0.80, 0.88, -0.06),
    (0.90, 0.74, -0.12),
    (1.0, 0.56, -0.18),
    (1.06, 0.34, -0.24),
)
"""Roundness as nested bands: brightness, width, and shift towards the light on the left."""


def draw_limbs(
    layer: Image, limbs: list[Capsule], ends: Floats, radii: Floats, light: float
) -> None:
    """Draw projected limbs into a layer. ends: (N, 2, 2) px; radii: (N, 2) px; light: gain."""
    for limb, (start, end), (r0, r1) in zip(limbs, ends, radii, strict=True):
        for shade, grow, shift in _SHADES:
            hull = _hull(start, end, grow * r0, grow * r1, shift * (r0 + r1) / 2)
            cv2.fillConvexPoly(layer, hull, _paint(limb.colour, light * shade), cv2.LINE_AA, 4)


def draw_trunk(
    layer: Image, outline: Floats, colour: tuple[float, float, float], light: float
) -> None:
    """Draw a projected trunk (N, 2) px into a layer, shaded like a cylinder."""
    middle = float(outline[:, 0].mean())
    reach = float(np.ptp(outline[:, 0])) / 2
    for shade, grow, shift in _SHADES:
        band = outline.copy()
        band[:, 0] = middle + grow * (band[:, 0] - middle) + shift * reach
        points = [(16 * band).astype(np.int32)]
        cv2.fillPoly(layer, points, _paint(colour, light * shade), cv2.LINE_AA, 4)


def _paint(colour: tuple[float, float, float], gain: float) -> tuple[float, float, float, float]:
    blue, green, red = (min(255.0, gain * c) for c in colour)
    return blue, green, red, 255.0


def mute(head: Head, saturation: float) -> Head:
    """The head with weaker colours, as cheap cameras give them; saturation 0..1."""
    colours = head.layer[..., :3].astype(np.float32)
    grey = colours @ np.array([0.114, 0.587, 0.299], np.float32)
    colours = grey[..., None] + saturation * (colours - grey[..., None])
    layer = np.dstack([np.minimum(colours, head.layer[..., 3:]), head.layer[..., 3]])
    tone = float(np.dot(head.skin, (0.114, 0.587, 0.299)))
    skin = _triple(tone + saturation * (c - tone) for c in head.skin)
    return Head(layer.clip(0, 255).astype(np.uint8), head.face, skin)


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 24, endpoint=False)) for f in (np.cos, np.sin)], 1)


def _hull(start: Floats, end: Floats, r0: float, r1: float, shift: float) -> npt.NDArray[np.int32]:
    """Outline of a capsule in sixteenths of a pixel (cv2's shift of 4)."""
    aside = np.array([shift, 0.0])
    rounds = np.concatenate([start + aside + r0 * _CIRCLE, end + aside + r1 * _CIRCLE])
    return np.asarray(cv2.convexHull((16 * rounds).astype(np.int32)), np.int32)


def place_head(
    head: Head,
    layer: Image,
    centre: Floats,
    height: float,
    *,
    roll: float,
    yaw: float,
    light: float,
) -> Floats:
    """Draw a head over a layer so that its face is `height` px tall around `centre` (2,) px.

    roll: radians, clockwise; yaw: mild turn, -1..1, drawn as a squeeze and a slant; light: gain.
    Returns the box (4,) float32 of the face in the layer.
    """
    scale = height / float(head.face[3] - head.face[1])
    half = (head.face[2:] - head.face[:2]) / 2 * scale
    if layer.size:
        _warp_head(head, layer, centre, scale, roll=roll, yaw=yaw, light=light)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def _warp_head(
    head: Head,
    layer: Image,
    centre: Floats,
    scale: float,
    *,
    roll: float,
    yaw: float,
    light: float,
) -> None:
    """Blend the head, scaled and turned about the middle of its face, over a layer."""
    picture, middle = head.layer, (head.face[:2] + head.face[2:]) / 2
    while scale < 0.6:  # halve first: a single bilinear warp would skip pixels
        picture = np.asarray(cv2.pyrDown(picture), np.uint8)
        middle, scale = middle / np.float32(2), scale * 2
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    slant = np.array([[1 - 0.06 * yaw * yaw, 0.0], [0.05 * yaw, 1.0]])
    linear = scale * turn @ slant
    matrix = np.column_stack([linear, centre - linear @ middle])
    size = (layer.shape[1], layer.shape[0])
    over = np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    colours = cv2.convertScaleAbs(over[..., :3], alpha=light)
    over[..., :3] = np.minimum(colours, over[..., 3:])  # premultiplied: never above alpha
    blend(layer, over)


def blend(below: Image, over: Image) -> None:
    """Lay a premultiplied layer over a picture or layer of the same size, in place."""
    rest = cv2.merge([255 - over[..., 3]] * below.shape[2])
    cv2.multiply(below, rest, below, 1 / 255)
    cv2.add(below, over[..., : below.shape[2]] if below.shape[2] == 3 else over, below)
