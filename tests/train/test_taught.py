"""What teaches an embedder: a teacher that is asked once, blends, and branches with and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facestream import SourceCorrupt
from facestream.configs.face_training import EmbedderTraining, FaceData
from facestream.configs.training import read_training
from facestream.models.inference import Embedded, Image
from facestream.models.networks.cqa import CQAFace
from facestream.train.embedder import Remembering, embedder_recipe
from facestream.train.face_lists import FacePairs
from facestream.train.face_pictures import FilePictures
from facestream.train.face_recipe import FaceSplit, split_faces
from facestream.train.face_validation import FaceValidation

from .tiny_faces import MeanTeacher, make_people


class Counting(MeanTeacher):
    """Counts the crops that it is asked about."""

    asked = 0

    def embed(self, crops: Image) -> Embedded:
        self.asked += len(crops)
        return super().embed(crops)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def crops(count: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)


def test_a_crop_is_asked_about_once_in_this_run_and_in_the_next(tmp_path: Path) -> None:
    teacher, path = Counting(), tmp_path / "banks" / "teacher.npz"
    remembering = Remembering(teacher, path)
    some = crops(4)
    said = remembering.embed(some)
    np.testing.assert_array_equal(said.embeddings, MeanTeacher().embed(some).embeddings)
    mixed = np.concatenate([some[2:], crops(3, seed=1)])
    answer, expected = remembering.embed(mixed), MeanTeacher().embed(mixed)
    for one, other in zip(answer, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert teacher.asked == 7
    remembering.save()
    next_run = Counting()
    again = Remembering(next_run, path)
    np.testing.assert_array_equal(again.embed(mixed).embeddings, expected.embeddings)
    assert next_run.asked == 0
    path.unlink()
    again.save()  # nothing new
    assert not path.exists()


def small(preset: str) -> EmbedderTraining:
    """A preset with few blends, the teacher's dimension and validation of a miniature."""
    config, _ = read_training(EmbedderTraining, "embedder", preset)
    run = replace(config.run, steps=3, batch=8, validate_every=3, warmup=1)
    data = replace(config.data, validation=8)
    return replace(config, run=run, data=data, blends=4, dimension=48)


def split() -> FaceSplit:
    return split_faces(make_people(10, 1), FaceData(held_out=0.4))


def test_seeds_share_the_teacher_and_presets_the_batches(tmp_path: Path) -> None:
    teacher = Counting()
    remembering = Remembering(teacher, tmp_path / "teacher.npz")
    recipes = []
    for preset in ("embedder-tiny-cqa", "embedder-tiny-plain", "embedder-tiny"):
        recipes.append(embedder_recipe(small(preset), split(), remembering))
        assert teacher.asked == (6 + 4) * 2 + 4 * 5  # mirrored as well; clean and four cameras
    cqa, plain, tiny = (recipe.network.backbone for recipe in recipes)
    assert isinstance(cqa, CQAFace) and isinstance(plain, CQAFace)
    assert cqa.quality is not None and plain.quality is None and not isinstance(tiny, CQAFace)
    batches = [recipe.batch(1, 0, 1) for recipe in recipes]
    for batch in batches[1:]:
        assert all(torch.equal(a, b) for a, b in zip(batch, batches[0], strict=True))
    assert len({recipe.fingerprint for recipe in recipes}) == 1


def test_the_preset_with_branches_learns_for_some_steps() -> None:
    recipe = embedder_recipe(small("embedder-tiny-cqa"), split(), MeanTeacher())
    optimiser = torch.optim.AdamW(recipe.groups(), lr=0.003)
    losses = []
    for _ in range(6):
        values = recipe.network(recipe.batch(0, 0, 1))
        assert {"distil", "classes", "attention", "magnitude"} < set(values)
        optimiser.zero_grad()
        values["loss"].backward()
        optimiser.step()
        losses.append(float(values["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_a_damaged_picture_of_a_pair_is_named_before_training(tmp_path: Path) -> None:
    damaged = tmp_path / "b.jpg"
    damaged.write_bytes(b"no picture")
    pairs = FacePairs("pairs", FilePictures([damaged, damaged]), np.array([True]))
    with pytest.raises(SourceCorrupt, match=r"b\.jpg is not a readable picture"):
        FaceValidation(make_people(3, 2), [pairs])
