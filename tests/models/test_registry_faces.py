"""The default pack on real faces that every machine has: six people of one photograph.

The faces of the photograph are small (110 to 145 px) and look into the camera; views of one person
are renditions of the same picture: mirrored, darker, tilted, softened, shrunk.
"""

from __future__ import annotations

import dataclasses
import hashlib

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from facestream import MissingModelFile
from facestream.models.aggregators import make_aggregator
from facestream.models.align import ARCFACE_112, warp
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.card import FusionSpec, HeadSpec
from facestream.models.fusion import Aggregator, Members
from facestream.models.inference import Image
from facestream.models.pack import Pack, open_pack

Floats = npt.NDArray[np.float32]
AGGREGATORS = ["mean", "quality", "caface"]


def views(photo: Image) -> list[Image]:
    """Renditions of a photo, the plain one first."""
    height, width = photo.shape[:2]
    tilt = cv2.getRotationMatrix2D((width / 2, height / 2), 6.0, 1.0)
    shrunk = [cv2.resize(photo, None, fx=s, fy=s, interpolation=cv2.INTER_AREA) for s in (0.8, 0.6)]
    softened = [cv2.GaussianBlur(photo, (0, 0), sigma) for sigma in (0.8, 1.4)]
    plain = [
        photo,
        cv2.flip(photo, 1),
        cv2.convertScaleAbs(photo, alpha=0.6, beta=10),
        cv2.warpAffine(photo, tilt, (width, height)),
        *softened,
        *shrunk,
    ]
    return [np.asarray(view, np.uint8) for view in plain]


@pytest.fixture(scope="module")
def people(open_models: Pack, group_photo: Image) -> list[Members]:
    """What the pack says of each of the six, in every view: embeddings, styles, qualities."""
    found: list[list[Members]] = [[] for _ in range(6)]
    pack = open_models
    for number, view in enumerate(views(group_photo)):
        (faces,) = pack.detector.detect([view])
        assert len(faces.scores) == 6
        # People stand side by side, so that from left to right they keep their places.
        order = np.argsort(faces.boxes[:, 0] * (-1 if number == 1 else 1))
        crops = {
            consumer: np.stack([warp(view, points, template) for points in faces.landmarks])
            for consumer, template in pack.consumers.items()
        }
        embedded = pack.embedder.embed(crops["embedder"])
        quality = pack.quality.score(
            crops=crops["quality"], embedded=embedded, boxes=faces.boxes, scores=faces.scores
        )
        members = Members(embedded.embeddings, embedded.norms, quality, embedded.styles)
        for person, at in enumerate(order):
            found[person].append(members.take(slice(at, at + 1)))
    return [Members(*map(np.concatenate, zip(*person, strict=True))) for person in found]


@pytest.fixture(scope="module")
def caface_pack(open_models: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The default pack with an untrained CAFace head beside its card."""
    folder = tmp_path_factory.mktemp("pack")
    card = open_models.card
    save_head(folder / "head.npz", random_head(0, HeadSize(128, 192, 4), style_mix=0.5))
    assert card.ida is not None
    (folder / card.ida.anchors).write_bytes((card.folder / card.ida.anchors).read_bytes())
    sha = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    fusion = FusionSpec("caface", caface=HeadSpec("head.npz", sha, "MIT"))
    ida = dataclasses.replace(card.ida, learned=None)
    path = folder / "open.yaml"
    return open_pack(dataclasses.replace(card, fusion=fusion, ida=ida, strangers=None, path=path))


def aggregator_of(pack: Pack, name: str) -> Aggregator:
    return make_aggregator(
        name, dimension=pack.card.embedder.dimension, head_path=pack.fusion_heads.get(name)
    )


def unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def test_landmarks_are_in_order_on_every_face(open_models: Pack, group_photo: Image) -> None:
    (faces,) = open_models.detector.detect([group_photo])
    for (x0, y0, x1, y1), points in zip(faces.boxes, faces.landmarks, strict=True):
        left_eye, right_eye, nose, left_mouth, right_mouth = points
        assert x0 < left_eye[0] < nose[0] < right_eye[0] < x1
        assert left_mouth[0] < right_mouth[0]  # one head is tilted: its nose is beside them
        assert y0 < max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert y1 > left_mouth[1]
        crop = warp(group_photo, points, ARCFACE_112)
        assert crop.shape == (112, 112, 3) and crop.std() > 10


def test_every_view_is_nearest_to_its_own_person(people: list[Members]) -> None:
    enrolled = unit(np.stack([person.embeddings[0] for person in people]))
    for number, person in enumerate(people):
        cosines = unit(person.embeddings[1:]) @ enrolled.T
        assert (cosines.argmax(axis=1) == number).all()


def test_quality_is_best_as_photographed_and_falls_with_blur(people: list[Members]) -> None:
    qualities = np.stack([person.qualities for person in people])  # (6, views)
    assert (qualities[:, 0] > qualities[:, 4]).all() and (qualities[:, 4] > qualities[:, 5]).all()
    assert ((qualities >= 0) & (qualities <= 1)).all()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_fused_views_are_nearest_to_their_own_person(
    people: list[Members], caface_pack: Pack, name: str
) -> None:
    one = aggregator_of(caface_pack, name)
    enrolled = unit(np.stack([person.embeddings[0] for person in people]))
    fused = np.stack([one.read(one.update(one.empty(), p.take(slice(1, None)))) for p in people])
    cosines = fused @ enrolled.T
    own = np.diag(cosines)
    assert (cosines.argmax(axis=1) == np.arange(6)).all()
    # Fusing helps: nearer to the enrolled picture than the views are on average.
    for person, cosine, reference in zip(people, own, enrolled, strict=True):
        assert cosine > (unit(person.embeddings[1:]) @ reference).mean()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_batches_do_not_change_what_real_faces_fuse_to(
    people: list[Members], caface_pack: Pack, name: str
) -> None:
    one = aggregator_of(caface_pack, name)
    track = Members(*map(np.concatenate, zip(*people[:3], strict=True)))  # 24: a chunk and a half
    whole = one.update(one.empty(), track)
    pieces = one.empty()
    for start, end in ((0, 1), (1, 15), (15, 17), (17, 24)):
        pieces = one.update(pieces, track.take(slice(start, end)))
    np.testing.assert_allclose(one.read(pieces), one.read(whole), atol=1e-6)


def test_inference_batches_do_not_change_embeddings_or_styles(
    open_models: Pack, group_photo: Image
) -> None:
    (faces,) = open_models.detector.detect([group_photo])
    template = open_models.embedder.template
    crops = np.stack([warp(group_photo, points, template) for points in faces.landmarks])
    together = open_models.embedder.embed(crops)
    for index in range(6):
        for whole, alone in zip(
            together, open_models.embedder.embed(crops[index : index + 1]), strict=True
        ):
            np.testing.assert_allclose(alone[0], whole[index], rtol=1e-5, atol=1e-6)


def test_caface_without_a_head_says_what_to_do(open_models: Pack) -> None:
    with pytest.raises(MissingModelFile, match=r"none: choose fuse\.aggregator: quality, or"):
        make_aggregator("caface", dimension=open_models.card.embedder.dimension)
