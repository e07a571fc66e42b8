"""A backbone of a few weights in the place of the real ones."""

from __future__ import annotations

import pytest
import torch

from facestream.models.networks.backbone import Backbone
from facestream.train import face_recipe

from .tiny_faces import TinyBackbone


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of pictures build a TinyBackbone; torch runs on one thread."""
    torch.set_num_threads(1)

    def make(name: str, *, dimension: int, convention: object) -> Backbone:
        return TinyBackbone(dimension)

    monkeypatch.setattr(face_recipe, "make_backbone", make)
