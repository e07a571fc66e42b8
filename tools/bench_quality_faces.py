"""Held-out faces with every source of quality there is, for `facestream bench quality`.

Quality sources and a second pack look at the very frames of `bench_degraded`'s banks, at the face
that the first pack's detector found in them. Kept in one .npz for each pack and set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import typer

from .. import SourceMissing
from ..configs.training import BankSettings
from ..models.align import ARCFACE_112, eye_distance, warp
from ..models.feature_store import fingerprint_parts
from ..models.feature_words import feature_words
from ..models.fusion import Floats
from ..models.inference import Image
from ..models.pack import Pack
from ..models.photo import PhotoFace, find_faces, tallest_face
from ..models.quality import ModelQuality, TrainingFreeQuality, measure_sharpness
from ..models.scores import Labels
from ..models.store import written_whole
from ..train.feature_bank import bank_words, draw_runs
from ..train.track_views import show_frame
from .bench_degraded import HeldOut

PROBED = 2
"""Pictures of each person that are probed."""


class Scored(NamedTuple):
    """N faces: whose (N,), whether it is a person's reference (N,), and what everybody says of it.

    embeddings (N, C), styles (N, K, 2) of the pack; other_embeddings, other_styles of the other
    pack on the same face. detector, sharpness, training_free, lightqnet (N,): quality, higher is
    better; lightqnet is NaN without its network.
    """

    owners: Labels
    reference: np.ndarray
    embeddings: Floats
    styles: Floats
    other_embeddings: Floats
    other_styles: Floats
    detector: Floats
    sharpness: Floats
    training_free: Floats
    lightqnet: Floats


def score_faces(
    held: HeldOut, settings: BankSettings, path: Path, pack: Pack, other: Pack
) -> Scored:
    """Every source of quality, from `path` where it is there already, of these packs and settings.

    A reference is the first picture that is for the gallery, as taken; probes are all views of the
    first PROBED other pictures.
    """
    key = _key(held, settings, pack, other)
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if "key" in stored and str(stored["key"]) == key:
                return Scored(*(stored[name] for name in Scored._fields))
    rows: list[tuple[object, ...]] = []
    with typer.progressbar(_views(held, settings, pack), label=path.stem) as bar:
        for owner, reference, image, face in bar:
            rows.append((owner, reference, *_describe(image, face, pack, other)))
    found = Scored(*(np.array(column) for column in zip(*rows, strict=True)))
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, key=np.array(key), **found._asdict())
    return found


def _key(held: HeldOut, settings: BankSettings, pack: Pack, other: Pack) -> str:
    """What the scores depend on, in words."""
    roles = np.stack([held.owners, held.enrolled]).tobytes()
    data = fingerprint_parts([("bank", held.bank.fingerprint.encode()), ("roles", roles)])
    return (
        f"{bank_words(pack.card, settings)}; other: {feature_words(other.card)}; "
        f"{PROBED} probed; data {data}"
    )


def _views(
    held: HeldOut, settings: BankSettings, pack: Pack
) -> Iterator[tuple[int, bool, Image, PhotoFace]]:
    """Whose, whether a reference, frame and face of every view that is measured."""
    seen: Mapping[tuple[int, bool], int] = {}
    counts = dict(seen)
    for name, owner, gallery in zip(held.bank.names, held.owners, held.enrolled, strict=True):
        place = counts.get((int(owner), bool(gallery)), 0)
        counts[int(owner), bool(gallery)] = place + 1
        if place >= (1 if gallery else PROBED):
            continue
        image = cv2.imread(str(held.pictures[name]), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceMissing(f"{held.pictures[name]} is not a readable picture")
        photo = np.asarray(image, np.uint8)
        face = tallest_face(find_faces(pack.detector, photo))
        if face is None:
            continue
        yield int(owner), bool(gallery), photo, face
        if gallery:
            continue
        for run in draw_runs(name, settings):
            for frame in range(settings.frames):
                shown = show_frame(photo, face, run, frame)
                there = tallest_face(pack.detector.detect([shown])[0])
                least = pack.card.embedder.minimal_eye_distance
                if there is not None and float(eye_distance(there.landmarks)) >= least:
                    yield int(owner), False, shown, there


def _describe(image: Image, face: PhotoFace, pack: Pack, other: Pack) -> tuple[object, ...]:
    """What Scored holds of one face, from `embeddings` on."""
    ours, theirs = (
        one.embedder.embed(warp(image, face.landmarks, one.consumers["embedder"])[None])
        for one in (pack, other)
    )
    arcface = warp(image, face.landmarks, ARCFACE_112)
    scores, boxes = np.array([face.score], np.float32), face.box[None]
    free = TrainingFreeQuality().score(
        crops=arcface[None], embedded=ours, boxes=boxes, scores=scores
    )
    light = np.float32(np.nan)
    for one in (pack, other):
        if isinstance(one.quality, ModelQuality) and one.quality.template is not None:
            crop = warp(image, face.landmarks, one.quality.template)[None]
            light = one.quality.score(crops=crop, embedded=ours, boxes=boxes, scores=scores)[0]
            break
    return (
        ours.embeddings[0],
        ours.styles[0],
        theirs.embeddings[0],
        theirs.styles[0],
        scores[0],
        np.float32(measure_sharpness(arcface)),
        free[0],
        light,
    )
