from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.configs.schema import DetectConfig
from facestream.models.align import ARCFACE_112
from facestream.models.inference import (
    AlignTemplate,
    Embedded,
    Embedder,
    Floats,
    Image,
    QualitySource,
)
from facestream.models.pack import Pack
from facestream.models.quality import NormQuality
from facestream.stream.detect import DetectStage
from facestream.stream.embed import EmbedStage
from facestream.stream.records import Face, Frame, FrameRef, Tracked, TrackedFace, TrackKey

SIZE = 8


class Projection:
    """A linear embedder: a fixed random projection of the pixels, style = each channel's mean
    and standard deviation. Counts how many faces each call had."""

    template = AlignTemplate(SIZE, (ARCFACE_112.points * (SIZE / 112)).astype(np.float32))
    dimension = 4

    def __init__(self) -> None:
        self.calls: list[int] = []
        self._weights = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, 4))

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        self.calls.append(len(crops))
        flat = crops.reshape(len(crops), -1).astype(np.float64)
        vectors = (flat @ self._weights).astype(np.float32)
        pixels = crops.reshape(len(crops), -1, 3).astype(np.float32)
        styles = np.stack([pixels.mean(axis=1), pixels.std(axis=1)], axis=-1)
        return Embedded(vectors, np.linalg.norm(vectors, axis=1), styles)


class Broken(Projection):
    """A network that overflows on bright faces and answers zero on black ones."""

    def embed(self, crops: npt.NDArray[np.uint8]) -> Embedded:
        answer = super().embed(crops)
        bright = crops.reshape(len(crops), -1).mean(axis=1) > 200
        answer.embeddings[bright, 0] = np.inf
        answer.norms[bright] = np.inf
        return answer


class Brightness:
    """Quality: mean brightness of its own crop, times height of the box, times score."""

    template: AlignTemplate | None = AlignTemplate(4, ARCFACE_112.points)
    unit = "brightness"

    def score(
        self, *, crops: npt.NDArray[np.uint8], embedded: Embedded, boxes: Floats, scores: Floats
    ) -> Floats:
        assert crops.shape[1:] == (4, 4, 3) and len(embedded.norms) == len(crops)
        light = crops.reshape(len(crops), -1).mean(axis=1)
        quality: Floats = (light * (boxes[:, 3] - boxes[:, 1]) * scores).astype(np.float32)
        return quality


def tracked_face(track: int, crops: dict[str, Image], ordinal: int = 0) -> TrackedFace:
    box = np.array([0, 0, 10, 20], dtype=np.float32)
    return TrackedFace(track, ordinal, Face(box, np.zeros((5, 2), np.float32), 0.5, crops))


def tracked(camera: str, sequence: int, *faces: TrackedFace) -> Tracked:
    return Tracked(FrameRef(camera, sequence, sequence / 25, 1.7e9, 640, 480), faces)


def noise(seed: int, size: int = SIZE) -> Image:
    return np.random.default_rng(seed).integers(0, 180, (size, size, 3), dtype=np.uint8)


def stage(
    embedder: Embedder, quality: QualitySource | None = None, *, batch: int = 4, keep: bool = False
) -> EmbedStage:
    return EmbedStage(embedder, quality or NormQuality(), epoch="e1", batch=batch, keep_crops=keep)


def scene(counts: list[int]) -> list[Tracked]:
    """Frames of two cameras with so many faces each; every third face has no crops."""
    seeds = iter(range(1000))
    return [
        tracked(
            f"c{n % 2}",
            n,
            *(
                tracked_face(i, {} if i % 3 == 2 else {"embedder": noise(next(seeds))}, n)
                for i in range(count)
            ),
        )
        for n, count in enumerate(counts)
    ]


def test_an_observation_says_whose_face_it_is_and_what_the_networks_say() -> None:
    crop = noise(7)
    (observed,) = stage(Projection()).process(
        [tracked("door", 3, tracked_face(5, {"embedder": crop}, 12))]
    )
    (seen,) = observed.observations
    expected = Projection().embed(crop[None])
    assert seen.key == TrackKey("door", "e1", 5)
    assert (seen.frame.sequence, seen.ordinal) == (3, 12)
    assert np.array_equal(seen.embedding, expected.embeddings[0])  # not normalised
    assert seen.norm == pytest.approx(np.linalg.norm(seen.embedding))
    assert np.array_equal(seen.style, expected.styles[0])
    assert seen.quality == pytest.approx(seen.norm)
    assert seen.crop is None


def test_crops_are_kept_only_where_they_are_wanted() -> None:
    crop = noise(7)
    items = [tracked("door", 0, tracked_face(1, {"embedder": crop}))]
    assert stage(Projection(), keep=True).process(items)[0].observations[0].crop is crop


def test_a_quality_source_with_its_own_template_gets_its_own_crops() -> None:
    dark, light = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 90, np.uint8)
    faces = [
        tracked_face(1, {"embedder": noise(1), "quality": dark}),
        tracked_face(2, {"embedder": noise(2), "quality": light}),
    ]
    (observed,) = stage(Projection(), Brightness()).process([tracked("door", 0, *faces)])
    assert [seen.quality for seen in observed.observations] == [10 * 20 * 0.5, 90 * 20 * 0.5]


def test_crops_of_another_pack_are_an_error_that_says_so() -> None:
    items = [tracked("door", 0, tracked_face(1, {"embedder": noise(1)}))]
    with pytest.raises(
        RecordError, match=r"crop for 'quality', got \['embedder'\].*same model pack"
    ):
        stage(Projection(), Brightness()).process(items)


def test_faces_without_crops_give_no_observation_and_frames_without_faces_stay() -> None:
    items = scene([3, 0, 1])
    observed = stage(Projection()).process(items)
    assert [len(one.observations) for one in observed] == [2, 0, 1]
    assert [one.tracked for one in observed] == items
    assert not any(one.rejected for one in observed)
    assert stage(Projection()).process([]) == []


def test_faces_of_several_frames_and_cameras_share_batches() -> None:
    embedder = Projection()
    stage(embedder, batch=4).process(scene([2, 2, 2, 2, 2]))
    assert embedder.calls == [4, 4, 2]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 6), max_size=6), batch=st.integers(1, 9))
def test_the_batch_size_changes_neither_results_nor_order(counts: list[int], batch: int) -> None:
    one = stage(Projection(), batch=1).process(scene(counts))
    other = stage(Projection(), batch=batch).process(scene(counts))
    for first, second in zip(one, other, strict=True):
        assert [a.key for a in first.observations] == [b.key for b in second.observations]
        for a, b in zip(first.observations, second.observations, strict=True):
            assert a.embedding == pytest.approx(b.embedding, rel=1e-5)
            assert a.quality == pytest.approx(b.quality, rel=1e-5)


def test_numbers_that_are_not_finite_are_counted_and_go_no_further() -> None:
    bright, black = np.full((SIZE, SIZE, 3), 255, np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)
    items = [
        tracked(
            "door",
            0,
            tracked_face(1, {"embedder": bright}),
            tracked_face(2, {"embedder": noise(1)}),
        ),
        tracked("door", 1, tracked_face(1, {"embedder": black}), tracked_face(2, {})),
    ]
    observed = stage(Broken()).process(items)
    assert [[seen.key.track for seen in one.observations] for one in observed] == [[2], []]
    assert [one.rejected for one in observed] == [{"not_finite": 1}, {"not_finite": 1}]


# --- real networks on real faces ---


def real_faces(pack: Pack, photos: list[Path]) -> list[Tracked]:
    detect = DetectStage(pack.detector, pack.consumers, DetectConfig(), {}, 0.0)
    frames = []
    for n, photo in enumerate(photos):
        image = cv2.imread(str(photo))
        assert image is not None
        frames.append(Frame("door", n, n / 25, 1.7e9, image.astype(np.uint8)))
    found = detect.process(frames)
    return [Tracked(one.frame, (TrackedFace(1, n, one.faces[0]),)) for n, one in enumerate(found)]


@pytest.mark.parametrize("name", ["open_models", "omz_models"])
def test_real_embeddings_do_not_depend_on_the_batch(
    name: str, assets: Path, request: pytest.FixtureRequest
) -> None:
    pack: Pack = request.getfixturevalue(name)
    items = real_faces(pack, sorted((assets / "london" / "gallery_neutral").iterdir())[:7])
    seen = [
        [
            one.observations[0]
            for one in EmbedStage(
                pack.embedder, pack.quality, epoch="e", batch=batch, keep_crops=False
            ).process(items)
        ]
        for batch in (1, 3, 16)
    ]
    alone = np.stack([one.embedding / one.norm for one in seen[0]])
    assert np.all(alone @ alone.T < 0.999 + np.eye(len(alone)))  # seven different people
    for other in seen[1:]:
        assert np.abs(np.stack([one.embedding / one.norm for one in other]) - alone).max() <= 1e-6
        for a, b in zip(seen[0], other, strict=True):
            assert a.quality == pytest.approx(b.quality, rel=1e-5)
            assert a.style == pytest.approx(b.style, rel=1e-4, abs=1e-5)
