"""The FIQA recipe: labels by optimisation, what a batch is, and that what ships was trained."""

import functools

import numpy as np
import pytest
import torch

from facestream import RecordError
from facestream.configs.training import FIQATraining, RunSettings, read_training
from facestream.models.quality_head import head_inputs, load_quality_head
from facestream.train.fiqa import DiscardPairs, FIQARecipe, QualityFaces, fiqa_recipe, make_labels

C, K, VIEWS = 16, 3, 6


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_faces(pictures: int, seed: int, noise: float = 0.5) -> tuple[QualityFaces, np.ndarray]:
    """Views whose quality u shows in their style, and roughly in the pack's own score."""
    draw = np.random.default_rng(seed)
    clean = unit(draw.standard_normal((pictures, C)))
    whose = np.repeat(np.arange(pictures), VIEWS)
    quality = draw.random(len(whose))
    wrong = unit(draw.standard_normal((len(whose), C)))
    views = quality[:, None] * clean[whose] + (1 - quality[:, None]) * wrong
    styles = draw.standard_normal((len(whose), K, 2)) * 0.1
    styles[:, 0, 0] += quality
    own = quality + noise * draw.standard_normal(len(whose))
    arrays = (10 * views, styles, own)
    return QualityFaces(*(a.astype(np.float32) for a in arrays), whose, clean), quality


@functools.cache
def both() -> tuple[QualityFaces, QualityFaces]:
    return make_faces(80, 0)[0], make_faces(30, 1)[0]


def make(steps: int = 100, **more) -> FIQARecipe:
    config = FIQATraining(RunSettings(steps=steps, batch=64, seed=3), **more)
    return fiqa_recipe(config, *both())


def learn(recipe: FIQARecipe, steps: int) -> list[float]:
    torch.set_num_threads(1)
    optimiser = torch.optim.Adam(recipe.groups(), lr=0.003)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimiser.zero_grad()
        loss = recipe.network(recipe.batch(step, 0, 1))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    recipe.network.eval()
    return losses


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_the_loss_falls_and_errors_of_other_people_are_discarded():
    recipe = make(scores="mated", labels="raw")
    recipe.network.eval()
    before = recipe.validate()
    losses = learn(recipe, 200)
    after = recipe.validate()
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:3])
    assert after["correlation"] > 0.8 > before["correlation"]
    assert after["area"] < before["area"] and after["error"] < before["error"]


def test_optimised_labels_know_more_of_quality_than_the_scores_they_come_from():
    faces, quality = make_faces(80, 0)
    raw, optimised = (
        make_labels(FIQATraining(RunSettings(steps=1), labels=labels, theta=0.5), faces)
        for labels in ("raw", "optimised")
    )
    truth = ranks(quality)
    before, after = (np.corrcoef(ranks(labels), truth)[0, 1] for labels in (raw, optimised))
    assert after > before + 0.05
    assert np.array_equal(np.sort(raw), np.sort(optimised))


def test_even_labels_are_ranks_and_others_keep_their_gaps():
    clean = np.eye(2, dtype=np.float32)
    faces = QualityFaces(
        np.array([[1, 0], [1, 1], [0, 2]], np.float32),
        np.zeros((3, 1, 2), np.float32),
        np.array([0.1, 0.9, 0.2], np.float32),
        np.array([0, 0, 1]),
        clean,
    )
    run = RunSettings(steps=1)
    assert make_labels(FIQATraining(run, labels="raw"), faces) == pytest.approx([0, 1, 0.5])
    uneven = FIQATraining(run, labels="raw", even=False)
    assert make_labels(uneven, faces) == pytest.approx([0, 1, 0.125])
    norm = FIQATraining(run, labels="raw", scores="norm", even=False)
    root = 2**0.5
    assert make_labels(norm, faces) == pytest.approx([0, root - 1, 1])
    mated = FIQATraining(run, labels="raw", scores="mated", even=False)
    assert faces.mated == pytest.approx([1, 1 / root, 1])
    assert make_labels(mated, faces) == pytest.approx([1, 0, 1])


def test_the_area_is_that_of_views_against_pictures_as_taken():
    # Four mated pairs at 0.9, 0.8, 0.2, 0.1, impostors at 0.5: two of four are rejected.
    same = np.zeros((4, 2), bool)
    same[:, 0] = True
    scores = np.full((4, 2), 0.5, np.float32)
    scores[:, 0] = [0.9, 0.8, 0.2, 0.1]
    pairs = DiscardPairs(scores, same)
    # Worst first: FNMR 1/2, then 1/3 from a share of 1/4 on. The other way round: 1/2, then 2/3.
    assert pairs.area([4, 3, 2, 1]) == pytest.approx(0.25 / 2 + 0.05 / 3)
    assert pairs.area([1, 2, 3, 4]) == pytest.approx(0.25 / 2 + 0.05 * 2 / 3)


def test_a_batch_depends_on_seed_and_step_alone_and_is_shared_by_processes():
    first, second = make(), make()
    first.batch(0, 0, 1)
    for one, other in zip(first.batch(7, 0, 1), second.batch(7, 0, 1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.batch(8, 0, 1).labels, first.batch(7, 0, 1).labels)
    halves = [first.batch(7, rank, 2) for rank in (0, 1)]
    assert torch.equal(halves[1].inputs, first.batch(7, 0, 1).inputs[1::2])
    assert len(halves[0].labels) + len(halves[1].labels) == 64


def test_what_is_written_is_what_was_trained(tmp_path):
    recipe = make()
    learn(recipe, 5)
    (path,) = recipe.export(tmp_path)
    assert path.name == "open.quality.npz" and sorted(tmp_path.iterdir()) == [path]
    _, faces = both()
    inputs = torch.from_numpy(head_inputs(faces.embeddings, faces.styles).astype(np.float32))
    with torch.no_grad():
        expected = recipe.network.head(inputs).numpy()
    found = load_quality_head(path).score(faces.embeddings, faces.styles)
    assert np.abs(found - expected).max() < 1e-6


def test_faces_of_two_packs_are_refused():
    training, validation = both()
    short = validation._replace(
        embeddings=validation.embeddings[:, :3], clean=validation.clean[:, :3]
    )
    with pytest.raises(RecordError, match="must be of one pack"):
        fiqa_recipe(FIQATraining(RunSettings(steps=1)), training, short)


def test_the_fingerprint_is_of_all_faces():
    training, validation = both()
    config = FIQATraining(RunSettings(steps=1))
    other = training._replace(quality=training.quality[::-1].copy())
    prints = {fiqa_recipe(config, faces, validation).fingerprint for faces in (training, other)}
    assert len(prints) == 2 and make().fingerprint in prints


@pytest.mark.parametrize("name", ["fiqa-open", "fiqa-omz"])
def test_every_preset_makes_a_recipe(name):
    config, _ = read_training(FIQATraining, "fiqa", name)
    recipe = fiqa_recipe(config, *both())
    assert recipe.network(recipe.batch(0, 0, 1))["loss"].item() > 0
