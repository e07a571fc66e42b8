"""MagFace, CQA-Face and the embedder: the loss falls, batches are pure, what ships is right."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from facestream import ConfigError, SourceCorrupt, TrainingError
from facestream.configs.face_training import (
    Chain,
    CQATraining,
    EmbedderTraining,
    FaceData,
    MagFaceLoss,
    MagFaceTraining,
)
from facestream.configs.training import RunSettings, preset_names, read_training
from facestream.models.align import ARCFACE_112, warp
from facestream.models.card import EmbedderSpec
from facestream.models.networks.cqa import CQAFace
from facestream.models.networks.export import load_state
from facestream.models.networks.magface import MagCosFace, MagFace
from facestream.tools.train_recipes import embedder
from facestream.train.checkpoint import Origin
from facestream.train.cqa import cqa_recipe
from facestream.train.embedder import embedder_recipe, teach
from facestream.train.engine import train
from facestream.train.face_batches import SIGNED_RGB, UNIT_BGR, Ahead, FaceReader, ScalePixels
from facestream.train.face_lists import LabelledFaces, open_faces
from facestream.train.face_pictures import CropPictures
from facestream.train.face_recipe import FaceRecipe, FaceSplit, split_faces
from facestream.train.magface import magface_recipe, make_margin

from .records import write_faces
from .tiny_faces import MeanTeacher, TinyBackbone, make_people

DATA = FaceData(degraded=0.3, validation=24, fmr=0.1)
LOSS = MagFaceLoss(l_a=1, u_a=20, l_m=0.1, u_m=0.4, lambda_g=2.0, scale=16)


def settings(**more) -> RunSettings:  # type: ignore[no-untyped-def]
    given = {"steps": 30, "batch": 16, "rate": 0.01, "validate_every": 15, **more}
    return RunSettings(**given)


def split(people: int = 12, each: int = 4) -> FaceSplit:
    return split_faces(make_people(people, each), FaceData(held_out=0.34))


def make(kind: str, data: FaceData = DATA, **more) -> FaceRecipe:  # type: ignore[no-untyped-def]
    if kind == "magface":
        config = MagFaceTraining(settings(), data, loss=LOSS, dimension=32)
        return magface_recipe(config, split())
    if kind == "cqa":
        return cqa_recipe(CQATraining(settings(), data, dimension=32, scale=16.0), split())
    faces = split()
    whole = {"run": settings(), "data": data, "loss": LOSS, "dimension": 48, **more}
    config = EmbedderTraining(**whole)
    return embedder_recipe(config, faces, MeanTeacher() if config.teacher else None)


KINDS = ["magface", "cqa", "embedder"]
pytestmark = pytest.mark.usefixtures("tiny_backbone")


def learn(recipe: FaceRecipe, steps: int = 40) -> list[float]:
    optimiser = torch.optim.Adam(recipe.groups(), lr=0.01)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        loss = recipe.network(recipe.batch(step, 0, 1))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_people_of_validation_are_told_apart(kind: str) -> None:
    recipe = make(kind)
    recipe.network.eval()
    with torch.no_grad():
        before = recipe.validate()
    recipe.network.train()
    losses = learn(recipe)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    recipe.network.eval()
    with torch.no_grad():
        values = recipe.validate()
    # Branches know nobody before they learn; other networks do, and must not forget.
    assert values["tar"] > (before["tar"] + 0.1 if kind == "cqa" else 0.5)
    assert recipe.watch == "tar_degraded" and recipe.higher
    assert all(math.isfinite(value) for value in values.values())
    assert ("alike" in values) == (kind == "cqa")


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_depends_on_seed_step_and_process_alone(kind: str) -> None:
    first, second = make(kind), make(kind)
    first.batch(0, 0, 1)
    whole = first.batch(7, 0, 1)
    for one, again in zip(whole, second.batch(7, 0, 1), strict=True):
        assert torch.equal(one, again)
    parts = [second.batch(7, rank, 2) for rank in (0, 1)]
    for place, one in enumerate(whole):
        assert torch.equal(one, torch.cat([part[place] for part in parts]))
    assert not torch.equal(first.batch(8, 0, 1).images, whole.images)
    assert first.fingerprint == second.fingerprint


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    def weights(seed: int) -> torch.Tensor:
        config = MagFaceTraining(settings(seed=seed), DATA, loss=LOSS, dimension=32)
        network = magface_recipe(config, split()).network
        return torch.cat([p.detach().ravel() for p in network.parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("kind", ["magface", "cqa"])
def test_the_engine_runs_it_and_what_is_exported_gives_the_same_numbers(
    kind: str, tmp_path: Path
) -> None:
    recipe = make(kind)
    origin = Origin(kind, "", recipe.fingerprint, "")
    outcome = train(recipe, settings(steps=4, validate_every=2), tmp_path, origin)
    assert [path.name for path in outcome.files] == [
        f"{kind}{s}" for s in (".onnx", ".pt", ".yaml")
    ]
    spec = yaml.safe_load(outcome.files[2].read_text())["embedder"]
    assert set(spec) <= set(EmbedderSpec.__dataclass_fields__)
    assert spec["dimension"] == recipe.network.backbone.dimension
    assert spec["channel_order"] == ("BGR" if kind == "magface" else "RGB")
    pixels = recipe.network.scale.pixels
    assert (spec["mean"], spec["std"]) == (list(pixels.mean), list(pixels.std))
    crops = np.stack([make_people(3, 1).read(row) for row in range(3)])
    session = onnxruntime.InferenceSession(outcome.files[0], providers=["CPUExecutionProvider"])
    (got,) = session.run(["embedding"], {"input": pixels.tensor(crops)})
    batch = torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        np.testing.assert_allclose(got, recipe.network.embed(batch), atol=1e-4)
    again = TinyBackbone(spec["dimension"])
    backbone = CQAFace(again, dimension=spec["dimension"]) if kind == "cqa" else again
    load_state(backbone, outcome.files[1])
    with torch.no_grad():
        np.testing.assert_allclose(got, backbone(recipe.network.scale(batch)), atol=1e-4)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    recipe = make("magface")
    with torch.no_grad():
        recipe.network.backbone.fc.weight[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        train(recipe, settings(), tmp_path, Origin("magface", "", recipe.fingerprint, ""))
    recipe.network.eval()
    with torch.no_grad(), pytest.raises(TrainingError, match="faces are not finite"):
        recipe.validate()


def test_clean_training_watches_clean_pairs() -> None:
    assert make("magface", FaceData(validation=24)).watch == "tar"


def test_recognition_needs_two_pictures_of_somebody_or_a_teacher() -> None:
    singles = split_faces(make_people(12, 1), FaceData(held_out=0.34))
    why = "people: nobody among the 4 validation faces has two pictures"
    with pytest.raises(ConfigError, match=why):
        magface_recipe(MagFaceTraining(settings(), loss=LOSS, dimension=8), singles)
    with pytest.raises(ConfigError, match=why):
        cqa_recipe(CQATraining(settings(), dimension=8), singles)
    alone = EmbedderTraining(settings(), DATA, teacher="", distil=0.0, classify=1.0, loss=LOSS)
    with pytest.raises(ConfigError, match=f"{why}, .* or a teacher"):
        embedder_recipe(alone, singles)
    config = EmbedderTraining(settings(), DATA, loss=LOSS, dimension=48)
    recipe = embedder_recipe(config, singles, MeanTeacher())
    assert recipe.watch == "agreement"
    recipe.network.eval()
    with torch.no_grad():
        before = recipe.validate()
    learn(recipe)
    recipe.network.eval()
    with torch.no_grad():
        after = recipe.validate()
    assert "tar" not in before and after["agreement"] > before["agreement"] + 0.05
    assert after["teacher_found"] == before["teacher_found"] > 0.9
    assert before["teacher_agreement"] > 0.9


def test_people_who_train_do_not_validate(tmp_path: Path) -> None:
    whole, data = make_people(8, 2), FaceData()
    training, others = whole.take(range(5)), whole.take(range(5, 8))
    assert split_faces(training, data, others) == FaceSplit(training, others)
    with pytest.raises(ConfigError, match=r"people: expected .* got the faces that train"):
        split_faces(whole, data, make_people(8, 2))
    with pytest.raises(ConfigError, match=r"got 'p3' in both \(2 of 5 identities\)"):
        split_faces(training, data, whole.take(range(3, 8)))
    # Numbers in records say nothing of who is who: only the same faces are known to be the same.
    records = []
    for name, seed in (("a.rec", 0), ("b.rec", 1)):
        records.append(open_faces(write_faces(tmp_path / name, [0, 0, 1, 1], seed=seed)))
    first, second = records
    assert first.names == second.names
    assert split_faces(first, data, second).validation is second
    assert split_faces(first, data, second.take([0, 1])).training is first
    with pytest.raises(ConfigError, match=r"a.rec: expected .* got the faces that train"):
        split_faces(first, data, open_faces(tmp_path / "a.rec"))


def test_an_embedder_refuses_validation_faces_without_faces(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--validation .*others needs --faces"):
        embedder("embedder-small", tmp_path / "run", validation=tmp_path / "others")
    with pytest.raises(ConfigError, match="--validation"):
        embedder(
            "embedder-small", tmp_path / "run", validation=tmp_path / "others", assets=tmp_path
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("chain", ["surveillance", "weak"])
def test_degraded_faces_are_mirrored_as_often_as_flip_says(chain: Chain) -> None:
    # Brighter to the right, so that a mirror image is darker there.
    ramp = np.broadcast_to(np.linspace(20, 230, 112)[:, None], (1, 112, 112, 3)).astype(np.uint8)
    faces = LabelledFaces("ramp", CropPictures(["ramp"], ramp), np.zeros(1, np.int64), ["a"])

    def mirrored(flip: float) -> float:
        data = replace(FaceData(degraded=1.0, chain=chain), flip=flip)
        reader = FaceReader(faces, data, 1, 0)
        images = torch.cat([reader.read(step, 0, 1).images for step in range(40)]).float()
        middle = images[:, :, 40:72]
        left, right = (half.mean((1, 2, 3)) for half in (middle[..., :46], middle[..., 66:]))
        return float((right < left).float().mean())

    assert (mirrored(0.0), mirrored(1.0)) == (0, 1)


def test_balanced_batches_have_as_many_faces_of_everybody() -> None:
    recipe = make("magface", FaceData(people=4, validation=24))
    labels = recipe.batch(3, 0, 1).labels
    assert torch.unique(labels, return_counts=True)[1].tolist() == [4, 4, 4, 4]
    with pytest.raises(ConfigError, match="16 faces of 5 people"):
        make("magface", FaceData(people=5, validation=24))


def test_an_unreadable_picture_ends_the_batch_with_its_name() -> None:
    class Broken(CropPictures):
        def read(self, row: int):  # type: ignore[no-untyped-def]
            raise SourceCorrupt(f"file {row} is not a readable picture")

    pictures = Broken(["a"] * 4, np.zeros((4, 112, 112, 3), np.uint8))
    faces = LabelledFaces("broken", pictures, np.arange(4), list("abcd"))
    reader = Ahead(FaceReader(faces, FaceData(), 2, 0).read)
    for step in (0, 1):
        with pytest.raises(SourceCorrupt, match=r"file \d is not a readable picture"):
            reader(step, 0, 1)


def test_pixels_are_ordered_and_scaled_as_the_format_says() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    planes = torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
    for pixels in (SIGNED_RGB, UNIT_BGR):
        np.testing.assert_allclose(ScalePixels(pixels)(planes), pixels.tensor(crops), atol=1e-6)
    assert float(ScalePixels(SIGNED_RGB)(planes).min()) == -1.0


def test_margins_are_those_of_the_settings() -> None:
    margin = make_margin(LOSS)
    assert isinstance(margin, MagFace) and margin.law.u_a == 20 and margin.scale == 16
    other = make_margin(MagFaceLoss("mag-cosface", l_m=0.35, lambda_g=150, clamp_regulariser=True))
    assert isinstance(other, MagCosFace) and other.clamp_regulariser
    with pytest.raises(ConfigError, match="easy_margin belongs to kind magface"):
        MagFaceLoss("mag-cosface", easy_margin=True)


def test_a_teacher_is_asked_for_the_face_and_its_mirror_image_in_its_own_crop() -> None:
    faces, teacher = make_people(2, 1), MeanTeacher()
    targets = teach(faces, teacher)
    face = faces.read(1)
    sides = (face, np.ascontiguousarray(face[:, ::-1]))
    crops = [warp(side, ARCFACE_112.points, teacher.template) for side in sides]
    both = teacher.embed(np.stack(crops)).embeddings
    total = (both / np.linalg.norm(both, axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(targets[1], total / np.linalg.norm(total), atol=1e-6)


def test_a_teacher_without_a_direction_names_the_picture() -> None:
    grey = np.full((2, 112, 112, 3), 127, np.uint8)
    faces = LabelledFaces("grey", CropPictures(["a.png", "b.png"], grey), np.arange(2), ["a", "b"])
    with pytest.raises(SourceCorrupt, match=r"a.png: the teacher gave no direction \(2 of 2"):
        teach(faces, MeanTeacher())


def test_embedders_of_other_dimensions_and_faces_are_not_mixed() -> None:
    faces = split()
    config = EmbedderTraining(settings(), DATA, dimension=32)
    targets = teach(faces.training, MeanTeacher())
    with pytest.raises(ConfigError, match=r"'omz' gave \(\d+, 48\), expected \(\d+, 32\)"):
        embedder_recipe(config, faces, MeanTeacher())
    with pytest.raises(ConfigError, match="with one row for each of the faces"):
        embedder_recipe(EmbedderTraining(settings(), DATA, dimension=48), faces, None, targets[1:])
    with pytest.raises(ConfigError, match="'omz' of the settings, and no embedder to ask"):
        embedder_recipe(config, faces)
    alone = EmbedderTraining(settings(), DATA, teacher="", distil=0.0, classify=1.0)
    with pytest.raises(ConfigError, match="'' of the settings, and an embedder to ask"):
        embedder_recipe(alone, faces, MeanTeacher())
    with pytest.raises(ConfigError, match="nothing would be learned"):
        EmbedderTraining(settings(), teacher="", distil=0.0)
    with pytest.raises(ConfigError, match="a teacher needs distil above 0"):
        EmbedderTraining(settings(), teacher="omz", distil=0.0)


def test_the_terms_of_an_embedder_add_up_with_their_weights() -> None:
    recipe = make("embedder", distil=2.0, classify=0.5, attention=True, contrast=0.25)
    values = recipe.network(recipe.batch(0, 0, 1))
    total = 2 * values["distil"] + 0.5 * values["classes"] + 0.25 * values["attention"]
    torch.testing.assert_close(values["loss"], total)
    learned = make("embedder", teacher="", distil=0.0, classify=1.0)
    assert set(learned.network(learned.batch(0, 0, 1))) == {"loss", "classes", "magnitude"}
    recipe.network.eval()
    with torch.no_grad():
        assert -1 <= recipe.validate()["alike"] <= 1


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [("magface", MagFaceTraining), ("cqa", CQATraining), ("embedder", EmbedderTraining)],
)
def test_every_preset_loads(recipe: str, kind: type) -> None:
    names = preset_names(recipe)
    assert f"{recipe}-small" in names
    for name in names:
        read_training(kind, recipe, name)


def test_published_schedules() -> None:
    def epochs(run: RunSettings, pictures: int) -> list[float]:
        return [
            round(s * run.batch / pictures, 3) for s in (run.warmup, *run.milestones, run.steps)
        ]

    mag, _ = read_training(MagFaceTraining, "magface", "magface-ms1mv2")
    assert epochs(mag.run, 5_822_653) == [0, 10, 18, 22, 25]
    assert (mag.run.batch, mag.run.rate, mag.loss) == (512, 0.1, MagFaceLoss())
    vgg, _ = read_training(CQATraining, "cqa", "cqa-vggface2")
    assert epochs(vgg.run, 3_140_000) == [2, 7, 10, 12]
    ms1, _ = read_training(CQATraining, "cqa", "cqa-ms1mv2")
    assert epochs(ms1.run, 5_822_653) == [2, 13, 19, 23, 24]
    assert (ms1.run.batch, ms1.run.rate, ms1.contrast, ms1.scale) == (256, 0.03, 0.5, 64)
