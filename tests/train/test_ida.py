"""The IDA recipe: what a batch is, that the loss falls, and that what ships is what was trained."""

import functools

import numpy as np
import pytest
import torch

from facestream import RecordError
from facestream.configs.training import IDATraining, RunSettings, read_training
from facestream.models.ida import Anchors
from facestream.models.ida_learned import load_learned_density
from facestream.train.ida import DensityFaces, IDARecipe, ida_recipe

C = 16


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def crowded() -> tuple[Anchors, DensityFaces]:
    """Faces of places that are more and less crowded."""
    draw = np.random.default_rng(0)
    middles, pull = unit(draw.standard_normal((4, C))), np.linspace(0, 2, 4)

    def photos(count: int) -> np.ndarray:
        place = draw.integers(0, 4, count)
        return unit(pull[place, None] * middles[place] + unit(draw.standard_normal((count, C))))

    return Anchors(photos(300), "a", k=5), DensityFaces(photos(400), photos(100))


def make(mixed: float = 0.5, seed: int = 3, **more) -> IDARecipe:
    run = RunSettings(steps=10, batch=64, seed=seed)
    return ida_recipe(IDATraining(run, hidden=32, mixed=mixed, **more), *crowded())


def learn(recipe: IDARecipe, steps: int) -> list[float]:
    torch.set_num_threads(1)
    optimiser = torch.optim.Adam(recipe.groups(), lr=0.01)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        loss = recipe.network(recipe.batch(step, 0, 1))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_the_loss_falls_and_density_of_other_people_is_met():
    recipe = make()
    before = recipe.validate()
    losses = learn(recipe, 150)
    after = recipe.validate()
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:3])
    assert after["error"] < before["error"] and after["explained"] > 0.7
    assert after["correlation"] > 0.85


def test_a_batch_depends_on_seed_and_step_alone():
    first, second = make(), make()
    first.batch(0, 0, 1)
    for one, other in zip(first.batch(7, 0, 1), second.batch(7, 0, 1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.batch(8, 0, 1).embeddings, first.batch(7, 0, 1).embeddings)
    other_seed = make(seed=4).batch(7, 0, 1)
    assert not torch.equal(other_seed.embeddings, first.batch(7, 0, 1).embeddings)


def test_the_processes_share_one_batch():
    whole = make().batch(5, 0, 1)
    parts = [make().batch(5, rank, 2) for rank in (0, 1)]
    assert torch.equal(parts[0].embeddings, whole.embeddings[0::2])
    torch.testing.assert_close(parts[1].densities, whole.densities[1::2], atol=1e-6, rtol=0)


def test_densities_are_the_anchors_own():
    anchors, _ = crowded()
    batch = make().batch(2, 0, 1)
    expected = anchors.density(batch.embeddings.numpy())
    assert np.array_equal(batch.densities.numpy(), expected)


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_mixed_says_how_many_leave_their_face(mixed):
    _, faces = crowded()
    rows = make(mixed=mixed).batch(1, 0, 1).embeddings.numpy()
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    nearest = (rows @ faces.training.T).max(axis=1)
    assert (nearest > 1 - 1e-6).mean() == pytest.approx(1.0 - mixed, abs=0.05)


def test_opposite_faces_have_no_middle():
    anchors, _ = crowded()
    pole = np.eye(C, dtype=np.float32)[:1]
    recipe = ida_recipe(
        IDATraining(RunSettings(steps=1, batch=512), mixed=1.0, target="discrepancy"),
        anchors,
        DensityFaces(np.concatenate([pole, -pole]), np.concatenate([pole, -pole])),
    )
    rows = recipe.batch(0, 0, 1).embeddings.numpy()
    assert np.allclose(np.abs(rows[:, 0]), 1.0)


@pytest.mark.parametrize("target", ["density", "discrepancy"])
def test_what_is_written_is_what_was_trained(tmp_path, target):
    recipe = make(target=target)
    learn(recipe, 5)
    (path,) = recipe.export(tmp_path)
    assert path.name == "open.ssr.npz" and sorted(tmp_path.iterdir()) == [path]
    loaded = load_learned_density(path)
    _, faces = crowded()
    expected = recipe.network.ssr.density(torch.from_numpy(faces.validation)).numpy()
    assert np.abs(loaded.density(faces.validation) - expected).max() < 1e-6
    assert (loaded.k, loaded.tau) == (5, 1.0)


def test_the_fingerprint_is_of_the_anchors_and_of_the_faces():
    anchors, faces = crowded()
    config = IDATraining(RunSettings(steps=1))
    prints = {
        ida_recipe(config, anchors, faces).fingerprint,
        ida_recipe(config, Anchors(anchors.vectors, "b", k=5), faces).fingerprint,
        ida_recipe(config, anchors, DensityFaces(faces.training[1:], faces.validation)).fingerprint,
    }
    assert len(prints) == 3 and all(len(one) == 16 for one in prints)
    assert make().fingerprint in prints


def test_faces_of_another_pack_and_faces_not_scaled_are_refused():
    anchors, faces = crowded()
    config = IDATraining(RunSettings(steps=1))
    with pytest.raises(RecordError, match=rf"validation embeddings must be \(N, {C}\)"):
        ida_recipe(config, anchors, DensityFaces(faces.training, faces.validation[:, :3]))
    with pytest.raises(RecordError, match="training embeddings must be unit vectors"):
        ida_recipe(config, anchors, DensityFaces(2 * faces.training, faces.validation))


@pytest.mark.parametrize("name", ["ida-open", "ida-omz", "ida-paper"])
def test_every_preset_makes_a_recipe(name):
    config, _ = read_training(IDATraining, "ida", name)
    recipe = ida_recipe(config, *crowded())
    assert float(recipe.network(recipe.batch(0, 0, 1))["loss"].detach()) > 0
