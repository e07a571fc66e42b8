"""Batches of pictures: read, degraded and stacked ahead of the step that needs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Thread
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from .. import ConfigError
from ..configs.face_training import FaceData
from ..models.inference import Image
from ..models.pixels import PixelFormat
from ..models.verification import Integers
from .degrade import PAPER_STRONG, PAPER_WEAK, STRONG, SURVEILLANCE, WEAK, Degradation, degrade
from .face_lists import LabelledFaces
from .samplers import Draw, face_generator, identity_sets, shuffled_rows

CHAINS: dict[str, Degradation] = {
    "weak": WEAK,
    "strong": STRONG,
    "surveillance": SURVEILLANCE,
    "paper-weak": PAPER_WEAK,
    "paper-strong": PAPER_STRONG,
}
SIGNED_RGB = PixelFormat("RGB", (127.5,) * 3, (127.5,) * 3)
"""-1 .. 1, as insightface's networks take it."""
UNIT_BGR = PixelFormat("BGR", (0.0,) * 3, (255.0,) * 3)
"""0 .. 1, as MagFace's networks take it."""

Made = TypeVar("Made")
Step = tuple[int, int, int]
"""Step, rank, ranks."""


class FaceBatch(NamedTuple):
    """images (B, 3, 112, 112) uint8 BGR; labels and rows (B,) int64: whose, and which picture."""

    images: Tensor
    labels: Tensor
    rows: Tensor

    def to(self, device: torch.device | str) -> FaceBatch:
        """The same batch on another device."""
        return FaceBatch(*(field.to(device) for field in self))


class ScalePixels(nn.Module):
    """Pictures as they are read to what a network was made for. Has no weights."""

    factor: Tensor
    offset: Tensor

    def __init__(self, pixels: PixelFormat) -> None:
        """pixels: of NCHW layout."""
        super().__init__()
        self.pixels = pixels
        self.reverse = pixels.channel_order == "RGB"
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (pixels.mean, pixels.std))
        self.register_buffer("factor", 1 / std, persistent=False)
        self.register_buffer("offset", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 BGR -> float32 in the network's order and range."""
        ordered = images.flip(1) if self.reverse else images
        return ordered.float() * self.factor + self.offset


class FaceReader:
    """Makes the batch of a step from a set of faces; a pure function of (seed, step, process)."""

    def __init__(self, faces: LabelledFaces, data: FaceData, batch: int, seed: int) -> None:
        """batch: faces of a step, over all processes together. Pictures are read by threads.

        Raises ConfigError where they cannot be shared evenly by data.people.
        """
        if data.people and batch % data.people:
            raise ConfigError(
                f"{batch} faces of {data.people} people: batch must be a multiple of people"
            )
        self.faces, self._data, self._batch, self._seed = faces, data, batch, seed
        # Mirror images are data.flip's alone, degraded or not.
        self._chain = replace(CHAINS[data.chain], flip=0.0)

    def read(self, step: int, rank: int, ranks: int) -> FaceBatch:
        """One process's share of a step. Raises what the samplers and `LabelledFaces.read` do."""
        draw = Draw(self._seed, step, rank, ranks)
        rows = self._rows(draw)
        drawn = [face_generator(draw, len(rows), place) for place in range(len(rows))]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            images = list(threads.map(self._see, rows.tolist(), drawn))
        return FaceBatch(
            stack_images(images),
            torch.from_numpy(self.faces.labels[rows].astype(np.int64)),
            torch.from_numpy(rows),
        )

    def _rows(self, draw: Draw) -> Integers:
        people = self._data.people
        if not people:
            return shuffled_rows(self.faces.count, self._batch, draw)
        sets = identity_sets(self.faces.identities, people, self._batch // people, draw)
        return sets[1].ravel()

    def _see(self, row: int, generator: np.random.Generator) -> Image:
        image = self.faces.read(row)
        if generator.random() < self._data.flip:
            image = np.ascontiguousarray(image[:, ::-1])
        if generator.random() < self._data.degraded:
            image = degrade(image, generator, self._chain)
        return image


class Ahead(Generic[Made]):
    """Makes the batch of the next step while the network learns from this one."""

    def __init__(self, make: Callable[[int, int, int], Made]) -> None:
        """make: a pure function of step, rank and ranks."""
        self._make = make
        self._next: tuple[Step, Future[Made]] | None = None

    def __call__(self, step: int, rank: int, ranks: int) -> Made:
        """The batch of a step; whatever `make` raises is raised here."""
        asked = (step, rank, ranks)
        if self._next is not None and self._next[0] == asked:
            future = self._next[1]
        else:
            future = self._start(asked)
        made = future.result()
        following = (step + 1, rank, ranks)
        self._next = (following, self._start(following))
        return made

    def _start(self, asked: Step) -> Future[Made]:
        """Make it in a thread that ends with it: nobody has to close anything."""
        future: Future[Made] = Future()

        def run() -> None:
            try:
                future.set_result(self._make(*asked))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, daemon=True, name="ahead").start()
        return future


def stack_images(images: list[Image]) -> Tensor:
    """Pictures of one size, (H, W, 3) uint8 each -> (B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.stack(cv2.split(image)) for image in images]))
