"""Template pooling against a plain loop and miniatures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from facestream import ConfigError, RecordError
from facestream.models import pooling as module
from facestream.models.pooling import POOLINGS, Pooling, pool_templates, unit_rows

VARIANTS = [
    Pooling(*flags)
    for flags in itertools.product([False, True], repeat=5)
    if flags[3] or not flags[4]  # unit_media needs by_media
]


def some_images(seed: int = 0):
    draw = np.random.default_rng(seed)
    embeddings = draw.standard_normal((60, 6)).astype(np.float32) * draw.uniform(1, 30, (60, 1))
    flipped = embeddings + 0.3 * draw.standard_normal((60, 6))
    return (
        embeddings.astype(np.float32),
        flipped.astype(np.float32),
        draw.uniform(0.5, 1, 60),
        draw.integers(10, 17, 60),
        draw.integers(0, 4, 60),
    )


def unit(vector):
    return vector / np.linalg.norm(vector)


def plain_pooling(pooling, embeddings, flipped, scores, templates, media):
    """One template after the other, one image after the other."""
    pooled = {}
    for template in sorted(set(templates)):
        groups: dict[int, list[np.ndarray]] = {}
        for row in np.flatnonzero(templates == template):
            image = embeddings[row].astype(float)
            if pooling.add_flip:
                image = image + flipped[row]
            if pooling.unit_images:
                image = unit(image)
            if pooling.detector_weight:
                image = image * scores[row]
            groups.setdefault(media[row] if pooling.by_media else row, []).append(image)
        means = [np.mean(group, axis=0) for group in groups.values()]
        if pooling.unit_media:
            means = [unit(mean) for mean in means]
        pooled[template] = unit(np.sum(means, axis=0))
    return pooled


@pytest.mark.parametrize("block", [8192, 7])
@pytest.mark.parametrize("pooling", VARIANTS, ids=Pooling.describe)
def test_every_variant_is_its_description(monkeypatch, pooling, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    embeddings, flipped, scores, templates, media = some_images()
    pooled = pool_templates(
        embeddings, templates, media, pooling, flipped=flipped, detector_scores=scores
    )
    expected = plain_pooling(pooling, embeddings, flipped, scores, templates, media)
    assert pooled.ids.tolist() == list(expected)
    assert pooled.images.tolist() == [int((templates == t).sum()) for t in expected]
    np.testing.assert_allclose(pooled.vectors, list(expected.values()), atol=1e-6)


def test_media_count_once_however_many_frames_they_have():
    # A video of three equal frames and one still.
    embeddings = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    templates, media = [5, 5, 5, 5], [1, 1, 1, 2]
    by_media = pool_templates(embeddings, templates, media, Pooling())
    np.testing.assert_allclose(by_media.vectors, [[0.5**0.5, 0.5**0.5]], atol=1e-7)
    by_image = pool_templates(embeddings, templates, media, POOLINGS["caface-average"])
    np.testing.assert_allclose(by_image.vectors, [[0.9**0.5, 0.1**0.5]], atol=1e-7)


def test_norms_are_weights_unless_images_are_made_unit():
    embeddings = np.array([[3, 0], [0, 1]], np.float32)
    plus = pool_templates(embeddings, [1, 1], [1, 2], POOLINGS["magface+"])
    np.testing.assert_allclose(plus.vectors, [[0.9**0.5, 0.1**0.5]], atol=1e-7)
    for name in ("magface", "magface-code"):
        plain = pool_templates(embeddings, [1, 1], [1, 2], POOLINGS[name])
        np.testing.assert_allclose(plain.vectors, [[0.5**0.5, 0.5**0.5]], atol=1e-7)
    # Inside one medium the released code weighs by the norm all the same.
    video = pool_templates(embeddings, [1, 1], [1, 1], POOLINGS["magface-code"])
    np.testing.assert_allclose(video.vectors, plus.vectors, atol=1e-7)


def test_magface_by_image_and_by_medium():
    # A video of two images of norms 3 and 1, and a still of norm 2.
    embeddings = np.array([[3, 0, 0], [0, 1, 0], [0, 0, 2]], np.float32)
    expected = {
        "magface": unit([1, 1, 1]),
        "magface+": unit([3, 1, 2]),
        "magface-code": unit([*unit([3, 1]), 1]),
        "magface+-code": unit([1.5, 0.5, 2]),
    }
    for name, vector in expected.items():
        pooled = pool_templates(embeddings, [1, 1, 1], [1, 1, 2], POOLINGS[name])
        np.testing.assert_allclose(pooled.vectors, [vector], atol=1e-7)


def test_neither_scale_nor_order_of_images_matters():
    embeddings, flipped, scores, templates, media = some_images(1)
    order = np.random.default_rng(2).permutation(60)
    pooling = POOLINGS["arcface"]
    one = pool_templates(
        embeddings, templates, media, pooling, flipped=flipped, detector_scores=scores
    )
    two = pool_templates(
        2 * embeddings[order],
        templates[order],
        media[order] + 100,
        pooling,
        flipped=2 * flipped[order],
        detector_scores=3 * scores[order],
    )
    np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-6)


def test_templates_without_images_are_zero_vectors():
    embeddings = np.array([[1, 0], [0, 2], [1, 1], [-1, -1]], np.float32)
    pooled = pool_templates(embeddings, [3, 1, 4, 4], [0, 0, 0, 1], Pooling(), wanted=[9, 3, 4, 0])
    assert pooled.ids.tolist() == [9, 3, 4, 0]
    assert pooled.vectors.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]
    assert pooled.images.tolist() == [0, 1, 2, 0]
    assert pooled.missing.tolist() == [True, False, True, True]  # template 4 cancels out


def test_no_images_at_all():
    pooled = pool_templates(np.zeros((0, 4), np.float32), [], [], Pooling(), wanted=[1, 2])
    assert pooled.vectors.shape == (2, 4) and pooled.missing.all()


def test_rows_of_zeros_stay_zero():
    rows = unit_rows(np.array([[0, 0], [3, 4]], np.float32))
    assert rows.tolist() == [[0, 0], [0.6, 0.8]]


def test_a_variant_says_what_it_does():
    assert POOLINGS["arcface"].describe() == (
        "flip added, raw norms, times detector score, mean within media, sum over media, L2"
    )
    texts = [pooling.describe() for pooling in VARIANTS]
    assert len(set(texts)) == len(VARIANTS)


def test_what_cannot_be_pooled():
    embeddings, _, _, templates, media = some_images()
    with pytest.raises(ConfigError, match="mirrored"):
        pool_templates(embeddings, templates, media, Pooling(add_flip=True))
    with pytest.raises(ConfigError, match="detector score per image"):
        pool_templates(embeddings, templates, media, Pooling(detector_weight=True))
    with pytest.raises(ConfigError, match="needs by_media"):
        Pooling(by_media=False, unit_media=True)
    with pytest.raises(RecordError, match="media"):
        pool_templates(embeddings, templates, media[:-1], Pooling())
    embeddings[7, 2] = np.nan
    with pytest.raises(RecordError, match="1 values not finite"):
        pool_templates(embeddings, templates, media, Pooling())
