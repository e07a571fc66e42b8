"""Bodies below the heads of simulated video: jointed walkers in clothes with folds and cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..stream.records import Floats, Image
from . import figures
from .scene import View

Doubles = npt.NDArray[np.float64]
Cut = Literal["pullover", "jacket", "stripes"]
Colour = tuple[int, int, int]

_TOPS: tuple[Colour, ...] = (
    (52, 46, 44), (78, 60, 52), (44, 44, 46), (96, 92, 88), (150, 148, 142), (188, 186, 180),
    (92, 66, 48), (60, 74, 100), (58, 52, 104), (70, 88, 70), (120, 108, 90), (40, 52, 66),
    (74, 104, 138), (112, 92, 128), (60, 60, 72), (134, 122, 112),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (52, 46, 44), (74, 56, 44), (96, 72, 54), (46, 46, 50), (84, 90, 98), (70, 76, 84),
)  # fmt: skip
_INNER: tuple[Colour, ...] = ((190, 190, 186), (150, 146, 140), (60, 58, 58), (128, 104, 92))
_CUTS: tuple[Cut, ...] = ("pullover", "jacket", "stripes")
_TILE = 256
"""Side in px of the tile of folds, which spans two metres."""
_UNCHANGED = 128
"""The grey of a tile of folds that leaves a colour as it is."""


class Look(NamedTuple):
    """What somebody wears; folds: (256, 256, 4) uint8 gain, 128 for 1, over two metres."""

    outfit: figures.Outfit
    inner: Colour
    cut: Cut
    folds: Image


def dress(generator: np.random.Generator) -> Look:
    """Clothes and stature for one person."""
    outfit = figures.Outfit(
        _TOPS[generator.integers(len(_TOPS))],
        _TROUSERS[generator.integers(len(_TROUSERS))],
        (36, 36, 38),
        float(generator.uniform(0.94, 1.07)),
    )
    inner = _INNER[generator.integers(len(_INNER))]
    cut = _CUTS[generator.choice(len(_CUTS), p=(0.5, 0.4, 0.1))]
    folds = np.ones((_TILE, _TILE), np.float32)
    for cells, strength in ((12, 0.05), (36, 0.05), (100, 0.04)):
        # More change up and down than across: cloth hangs in slanted creases.
        coarse = generator.normal(0, strength, (cells, max(4, cells * 2 // 3))).astype(np.float32)
        folds += cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    gain = (_UNCHANGED * folds.clip(0.55, 1.4)).astype(np.uint8)
    return Look(outfit, inner, cut, np.asarray(cv2.merge([gain] * 4), np.uint8))


class Stand(NamedTuple):
    """Where and how a body stands: x and z in m, heading in radians, phase of the gait, light."""

    x: float
    z: float
    heading: float
    stride: float
    light: float


def draw_body(
    layer: Image,
    corner: tuple[int, int],
    view: View,
    stand: Stand,
    look: Look,
    skin: tuple[float, float, float],
) -> None:
    """Draw a body without its head into a premultiplied layer (H, W, 4), in place.

    corner: x and y px of the layer's first pixel in the picture.
    """
    outfit = look.outfit
    body = figures.pose_body(outfit, skin, stand.stride, swing=0.8)
    scale = view.focal / stand.z
    where = (stand.x, 0.02 * np.cos(2 * stand.stride), stand.z)
    c, s = np.cos(stand.heading), np.sin(stand.heading)
    turned = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T

    def project(points: Doubles) -> Floats:
        placed: Floats = view.project(points @ turned + where) - np.array(corner, np.float32)
        return placed

    def limbs(some: list[figures.Capsule]) -> None:
        joints = np.array([(limb.start, limb.end) for limb in some])
        radii = np.array([limb.radii for limb in some]) * scale
        ends = project(joints)
        figures.draw_limbs(layer, some, ends, radii.astype(np.float32), stand.light)

    neck, *arms = body.arms
    limbs(body.legs)
    limbs([neck])
    figures.draw_trunk(layer, project(body.trunk), outfit.top, stand.light)
    _draw_cut(layer, look, stand, project)
    limbs(arms)
    _round_off(layer, scale)
    _fold(layer, corner, view, stand, look.folds, scale)


def _draw_cut(layer: Image, look: Look, stand: Stand, project: Callable[[Doubles], Floats]) -> None:
    """What tells one top from another: an open front, a seam, stripes."""
    tall = look.outfit.stature

    def fill(corners: list[tuple[float, float]], colour: Colour, gain: float) -> None:
        points = project(np.array([(x * tall, y * tall, -0.01) for x, y in corners]))
        tint = [min(255.0, gain * stand.light * v) for v in colour]
        paint = (*tint, 255.0)
        cv2.fillPoly(layer, [(16 * points).astype(np.int32)], paint, cv2.LINE_AA, 4)

    if look.cut == "jacket":
        fill([(-0.06, 1.475), (0.06, 1.475), (0.01, 1.16), (-0.01, 1.16)], look.inner, 0.85)
        for side in (-1, 1):  # lapels
            fill(
                [(side * 0.062, 1.485), (side * 0.105, 1.40), (side * 0.012, 1.15)],
                look.outfit.top,
                1.18,
            )
        fill([(-0.006, 1.17), (0.006, 1.17), (0.006, 0.86), (-0.006, 0.86)], look.outfit.top, 0.6)
    elif look.cut == "stripes":
        for y in np.arange(0.92, 1.40, 0.09).tolist():
            fill([(-0.15, y), (0.15, y), (0.15, y + 0.035), (-0.15, y + 0.035)], look.inner, 0.9)
    else:  # a collar
        fill([(-0.075, 1.475), (0.075, 1.475), (0.05, 1.435), (-0.05, 1.435)], look.outfit.top, 0.7)


def _round_off(layer: Image, scale: float) -> None:
    """Melt the bands of shading into each other and darken towards the outline, in place."""
    sigma = 0.012 * scale
    if sigma < 0.4:
        return
    soft = cv2.GaussianBlur(layer, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    cv2.addWeighted(layer, 0.4, soft, 0.6, 0, soft)
    _recolour(layer, np.asarray(soft, np.uint8))


def _recolour(layer: Image, colours: Image) -> None:
    """Take colours (H, W, 4) into a premultiplied layer, whose alpha stays, in place."""
    alpha = cv2.extractChannel(layer, 3)
    cv2.insertChannel(alpha, colours, 3)
    cv2.min(colours, cv2.merge([alpha] * 4), layer)


def _fold(
    layer: Image,
    corner: tuple[int, int],
    view: View,
    stand: Stand,
    folds: Image,
    scale: float,
) -> None:
    """Darken and lighten cloth by its folds, which stay where they are on the body."""
    foot = view.project(np.array([stand.x, 0.0, stand.z])) - np.array(corner)
    zoom = scale * 2.0 / _TILE
    matrix = np.array(
        [[zoom, 0, foot[0] - zoom * _TILE / 2], [0, zoom, foot[1] - zoom * _TILE]], np.float64
    )
    size = (layer.shape[1], layer.shape[0])
    gain = cv2.warpAffine(folds, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    cv2.multiply(layer, gain, gain, 1 / _UNCHANGED)
    _recolour(layer, np.asarray(gain, np.uint8))
