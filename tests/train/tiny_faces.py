"""Generated people and a backbone of a few weights: recipes run in a second."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facestream.models.align import ARCFACE_112, resize_template
from facestream.models.inference import AlignTemplate, Embedded, Image
from facestream.models.networks.backbone import Backbone, Stages, project
from facestream.train.face_lists import LabelledFaces
from facestream.train.face_pictures import CropPictures


def make_people(people: int, each: int, seed: int = 0) -> LabelledFaces:
    """Coloured blobs, the same for one person but for small changes of light and place."""
    draw = np.random.default_rng(seed)
    crops, labels = [], []
    for person in range(people):
        base = draw.integers(40, 216, (6, 6, 3)).astype(np.float32)
        for _ in range(each):
            changed = base + draw.normal(0, 12, base.shape) + draw.normal(0, 10)
            small = np.clip(changed, 0, 255).astype(np.uint8)
            crops.append(cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC))
            labels.append(person)
    names = [f"{label}/{row}" for row, label in enumerate(labels)]
    pictures = CropPictures(names, np.stack(crops).astype(np.uint8))
    return LabelledFaces("people", pictures, np.array(labels), [f"p{n}" for n in range(people)])


class TinyBackbone(Backbone):
    """Averages, a convolution and a linear layer: (B, 3, 112, 112) -> (B, C)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension, self.map_channels, self.style_channels = dimension, 16, 6
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 49, dimension)
        self.features = nn.BatchNorm1d(dimension)

    def _stages(self, images: Tensor) -> Stages:
        second = nn.functional.avg_pool2d(images, 4)
        third = nn.functional.avg_pool2d(second, 2)
        last = torch.tanh(self.bn(self.conv(nn.functional.avg_pool2d(third, 2))))
        return Stages(second, third, last)

    def _embed(self, last_map: Tensor) -> Tensor:
        return project(self.fc, self.features, last_map.flatten(1))


class MeanTeacher:
    """Embeds a crop as its colours on a coarse grid: (N, 48)."""

    template: AlignTemplate = resize_template(ARCFACE_112, 64)
    dimension = 48

    def embed(self, crops: Image) -> Embedded:
        coarse = [cv2.resize(x, (4, 4), interpolation=cv2.INTER_AREA) for x in crops]
        rows = np.stack(coarse).reshape(len(crops), -1).astype(np.float32) - 127
        norms = np.linalg.norm(rows, axis=1).astype(np.float32)
        return Embedded(rows, norms, np.zeros((len(rows), 0, 2), np.float32))
