"""What a simulated camera makes of a clean picture, and how a recorder encodes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np

from ..configs.simulation import Simulation
from ..stream.records import Image

_SPARE = 64
"""Px by which the noise fields are larger than the picture: each frame takes another part."""


class Sensor:
    """Lens, colour and noise of one camera; drawn once, so that a frame costs a few passes."""

    def __init__(self, preset: Simulation, generator: np.random.Generator) -> None:
        """Draw this camera's own cast, contrast, noise and changes of light."""
        width, height = preset.size
        rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
        shade = 255 * (1 - generator.uniform(0.08, 0.25) * (rows**2 + columns**2) / 2)
        self._vignette = cv2.merge([shade.astype(np.uint8)] * 3)
        self._blur = preset.blur
        self._infrared = bool(generator.uniform() < preset.infrared)
        self._flicker = preset.flicker
        self._phases = generator.uniform(0, 2 * np.pi, 3)
        self._step = float(generator.uniform(0.2, 0.8)) * preset.seconds
        self._generator = generator
        # Cameras turn little light up; what they cannot make up for stays dark.
        gain = preset.light**-0.6
        self._gain = gain * float(generator.uniform(0.92, 1.04))
        self._haze = 255 * preset.haze * float(generator.uniform(0.5, 1.3))
        self._cast = np.clip(generator.normal(1, 0.035, 3), 0.9, 1.1)
        self._saturation = 0.0 if self._infrared else float(generator.uniform(0.62, 0.92))
        self._noise = self._draw_noise(width, height, preset.noise)

    def _draw_noise(self, width: int, height: int, sigma: float) -> Image:
        """Noise x 8 around 128: fine grey and coarser colour, (H + 64, W + 64, 3)."""
        size = (width + _SPARE, height + _SPARE)
        grains = self._generator.normal(0, sigma, (size[1], size[0]))
        grey = cv2.GaussianBlur(grains, (0, 0), 0.6)[..., None] * 1.6
        coarse = self._generator.normal(
            0, 0.0 if self._infrared else 0.8 * sigma, (size[1] // 3, size[0] // 3, 3)
        )
        colour = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.clip(8 * (grey + colour) + 128, 0, 255), np.uint8)

    def expose(self, picture: Image, now: float) -> Image:
        """The clean (H, W, 3) uint8 picture at a time in s, as this camera gives it."""
        out = cv2.multiply(picture, self._vignette, None, self._exposure(now) / 255)
        out = np.asarray(out, np.uint8)
        grey = cv2.cvtColor(out, cv2.COLOR_BGR2GRAY)
        if self._infrared:
            out = np.asarray(cv2.merge([grey] * 3), np.uint8)
        else:
            flat = cv2.merge([grey] * 3)
            out = np.asarray(
                cv2.addWeighted(out, self._saturation, flat, 1 - self._saturation, 0), np.uint8
            )
            out = np.asarray(cv2.LUT(out, self._curve()), np.uint8)
        if self._blur > 0:
            out = np.asarray(cv2.GaussianBlur(out, (0, 0), self._blur), np.uint8)
        y, x = self._generator.integers(0, _SPARE, 2)
        noise = self._noise[y : y + picture.shape[0], x : x + picture.shape[1]]
        return np.asarray(cv2.addWeighted(out, 1.0, noise, 1 / 8, -16), np.uint8)

    def _exposure(self, now: float) -> float:
        """Gain at a time: slow drift, a quick ripple, and one step as of a door or a lamp."""
        slow, quick, _ = self._phases
        drift = 0.5 * np.sin(0.6 * now + slow) + 0.12 * np.sin(7.0 * now + quick)
        step = 0.6 / (1 + np.exp(-6 * (now - self._step))) * np.sign(np.sin(self._phases[2]))
        return float(self._gain * np.clip(1 + 0.6 * self._flicker * (drift + step), 0.3, 1.8))

    def _curve(self) -> Image:
        """Colour cast and lifted blacks as a table (1, 256, 3)."""
        tones = np.arange(256, dtype=np.float64)[:, None]
        lifted = self._haze + tones * (1 - self._haze / 255) * self._cast
        return np.clip(lifted, 0, 255).astype(np.uint8)[None]


def encode(pictures: Iterable[Image], out: Path, preset: Simulation) -> None:
    """Write pictures (H, W, 3) uint8 BGR as H.264 in MP4 at the preset's bit rate."""
    rate = f"{preset.bit_rate}k"
    options = {"preset": "veryfast", "maxrate": rate, "bufsize": f"{2 * preset.bit_rate}k"}
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=preset.fps, options=options)
        stream.width, stream.height = preset.size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1000 * preset.bit_rate
        stream.gop_size = 2 * preset.fps
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
