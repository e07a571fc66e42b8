"""Faces as surveillance cameras see them: seeded chains of geometry, light, blur and camera.

The first three are CAFace's augmentation (Kim et al., NeurIPS 2022, supplement): a strong chain of
all of them, and weak ones of a single operation on top. They have no sensor: what a camera adds
(few pixels, noise, compression, in this order) is the fourth.

Pictures are (H, W, 3) uint8 BGR, H and W at least 2, in and out. Lengths in px (blurs) are those of
a picture whose shorter side is 112, and are scaled for others. What a function draws comes from the
generator alone: the same generator state gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np

from .. import ConfigError, RecordError
from ..models.inference import Image
from .degrade_steps import (
    Camera,
    blur_box,
    blur_gauss,
    blur_motion,
    change_light,
    crop_in_place,
    film,
    move,
    resize_down_up,
    rotate,
)

Operation = Literal["geometry", "light", "blur", "camera"]
Interval = tuple[float, float]

SIDE = 112
"""The side, px, for which blurs are given."""
RESAMPLINGS = (
    cv2.INTER_NEAREST,
    cv2.INTER_LINEAR,
    cv2.INTER_AREA,
    cv2.INTER_CUBIC,
    cv2.INTER_LANCZOS4,
)


@dataclass(frozen=True)
class Degradation:
    """What a chain draws its numbers from; intervals are uniform unless said."""

    operations: tuple[Operation, ...] = ("geometry", "light", "blur", "camera")
    """Applied in this order."""
    single: bool = False
    """Apply one of the operations, each as likely, instead of all."""
    flip: float = 0.5
    """Probability of a mirror image."""
    crop_area: Interval = (0.2, 1.0)
    """Share of the picture that a crop keeps."""
    crop_aspect: Interval = (3 / 4, 4 / 3)
    """Width by height of a crop relative to the picture's; uniform in its logarithm."""
    zoom: Interval = (0.5, 1.5)
    shift: float = 0.2
    """Largest shift, as a share of each side."""
    turn: float = 25.0
    """Largest rotation, degrees."""
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    """Largest change of the three factors around 1."""
    box: tuple[int, int] = (1, 9)
    """Side of a box blur, px."""
    gauss: Interval = (0.0, 4.0)
    """Sigma of a Gaussian blur, px."""
    motion: tuple[int, int] = (5, 19)
    """Length of motion blur, px."""
    motion_angle: float = 45.0
    """Largest angle of motion with the horizontal, degrees: people walk across the picture."""
    resize: Interval = (0.2, 1.0)
    """Share of the side that survives resizing down and up."""
    camera_resize: Interval = (0.25, 1.0)
    """Share of the side that the camera resolves; uniform in its logarithm."""
    noise: Interval = (0.0, 10.0)
    """Standard deviation of sensor noise at full white, grey levels."""
    quality: tuple[int, int] = (30, 95)
    """JPEG quality, 0 to 100."""

    def __post_init__(self) -> None:
        """Raises ConfigError for no or unknown operations and for intervals out of range."""
        unknown = [name for name in self.operations if name not in get_args(Operation)]
        if unknown or not self.operations:
            raise ConfigError(
                f"operations must be some of {', '.join(get_args(Operation))}, got "
                f"{', '.join(unknown) or 'none'}"
            )
        for name, low, high in (
            ("crop_area", 0, 1),
            ("crop_aspect", 0, math.inf),
            ("zoom", 0, math.inf),
            ("box", 0, math.inf),
            ("motion", 0, math.inf),
            ("resize", 0, 1),
            ("camera_resize", 0, 1),
            ("quality", -1, 100),
            ("noise", -1e-9, math.inf),
            ("gauss", -1e-9, math.inf),
        ):
            first, last = getattr(self, name)
            if not low < first <= last <= high:
                raise ConfigError(f"{name} must be an interval above {low:g}, got {first}, {last}")
        for name in ("flip", "shift", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in 0 .. 1, got {getattr(self, name)}")


STRONG = Degradation()
"""All four in sequence."""
PAPER_STRONG = Degradation(("geometry", "light", "blur"))
"""CAFace's own strong chain, without a camera."""
WEAK = replace(STRONG, single=True)
"""One of the four."""
PAPER_WEAK = replace(PAPER_STRONG, single=True)
"""CAFace's own weak chain."""
SURVEILLANCE = replace(
    STRONG,
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    zoom=(0.9, 1.15),
    shift=0.05,
    turn=10.0,
    box=(1, 5),
    gauss=(0.0, 2.0),
    motion=(3, 11),
)
"""What aligned faces of live video go through: small errors of a detector, milder blur."""


def degrade(image: Image, generator: np.random.Generator, settings: Degradation = STRONG) -> Image:
    """One degraded view of a picture (H, W, 3), of the same size.

    Raises RecordError for another shape or dtype.
    """
    _check(image)
    if generator.random() < settings.flip:
        image = np.ascontiguousarray(image[:, ::-1])
    chosen = settings.operations
    if settings.single:
        chosen = (chosen[int(generator.integers(len(chosen)))],)
    for name in chosen:
        image = _OPERATIONS[name](image, generator, settings)
    return image


def camera_of(strength: float) -> Camera:
    """A camera by how much it takes away: strength 0, nothing one could see, to 1, a face of 11 px.

    Resolution falls geometrically, the rest in a straight line. For measuring whether a quality
    orders what is known. Raises ConfigError outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength must be in 0 .. 1, got {strength}")
    return Camera(0.1**strength, 0.8 * strength, 14 * strength, round(95 - 65 * strength))


def _geometry(image: Image, generator: np.random.Generator, settings: Degradation) -> Image:
    chosen = int(generator.integers(3))
    if chosen == 0:
        return crop_in_place(image, _draw_box(image, generator, settings))
    if chosen == 1:
        shift = generator.uniform(-settings.shift, settings.shift, 2)
        zoom = generator.uniform(*settings.zoom)
        return move(image, zoom=zoom, across=float(shift[0]), down=float(shift[1]))
    return rotate(image, generator.uniform(-settings.turn, settings.turn))


def _draw_box(
    image: Image, generator: np.random.Generator, settings: Degradation
) -> tuple[int, int, int, int]:
    """A box of some area and aspect that lies in the picture; all of it after ten misses."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = generator.uniform(*settings.crop_area)
        aspect = _draw_logarithmic(generator, settings.crop_aspect)
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= 1 and down <= 1:
            w, h = max(1, round(width * across)), max(1, round(height * down))
            x, y = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return x, y, x + w, y + h
    return 0, 0, width, height


def _light(image: Image, generator: np.random.Generator, settings: Degradation) -> Image:
    ranges = np.array([settings.brightness, settings.contrast, settings.saturation])
    brightness, contrast, saturation = 1 + generator.uniform(-ranges, ranges)
    return change_light(image, brightness=brightness, contrast=contrast, saturation=saturation)


def _blur(image: Image, generator: np.random.Generator, settings: Degradation) -> Image:
    chosen, unit = int(generator.integers(4)), _unit(image)
    if chosen == 0:
        return blur_box(image, round(unit * generator.integers(*settings.box, endpoint=True)))
    if chosen == 1:
        return blur_gauss(image, unit * generator.uniform(*settings.gauss))
    if chosen == 2:
        length = round(unit * generator.integers(*settings.motion, endpoint=True))
        angle = generator.uniform(-settings.motion_angle, settings.motion_angle)
        return blur_motion(image, length, angle)
    down, up = (int(method) for method in generator.choice(RESAMPLINGS, 2))
    return resize_down_up(image, generator.uniform(*settings.resize), down, up)


def _camera(image: Image, generator: np.random.Generator, settings: Degradation) -> Image:
    camera = Camera(
        _draw_logarithmic(generator, settings.camera_resize),
        generator.uniform(0.0, 0.8),
        generator.uniform(*settings.noise),
        int(generator.integers(*settings.quality, endpoint=True)),
    )
    return film(image, generator, camera)


def _draw_logarithmic(generator: np.random.Generator, interval: Interval) -> float:
    """Uniform in the logarithm."""
    low, high = (math.log(end) for end in interval)
    return math.exp(generator.uniform(low, high))


def _unit(image: Image) -> float:
    """Px of this picture for one px of a picture of SIDE px."""
    return float(min(image.shape[:2])) / SIDE


_OPERATIONS = {"geometry": _geometry, "light": _light, "blur": _blur, "camera": _camera}


def _check(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 2:
        raise RecordError(f"a picture must be (H, W, 3) of 2 px at least, got {image.shape}")
    if image.dtype != np.uint8:
        raise RecordError(f"a picture must be uint8, got {image.dtype}")
