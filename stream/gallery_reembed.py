"""Embedding the gallery's photos anew with another pack, beside matchers that use the old one.

A photo is known by the SHA-256 of its bytes, whatever it is called now: those of the samples in the
gallery that have no embedding of the pack yet are embedded, all others are left alone. What is done
is kept in small steps, so an interrupted run can simply be repeated.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .. import EnrolmentRefused, GalleryEmpty
from ..models.photo import describe_face, find_faces, tallest_face
from .enrol_photos import decode, read_bytes
from .enrol_records import shown
from .gallery import Gallery
from .gallery_pack_rows import WaitingSample
from .gallery_packs import NewEmbedding

if TYPE_CHECKING:
    from ..models.pack import Pack

AT_ONCE = 32
"""Embeddings per change of the gallery: at most so many are made again after an interruption."""


class Refused(msgspec.Struct, frozen=True):
    """A sample whose photo was found and could not be embedded. source: its photo's path."""

    identity: str
    source: str
    reason: str


class Reembedded(msgspec.Struct, frozen=True):
    """What became of a run.

    done: embeddings made. gone: samples that were removed, or embedded by another program,
    meanwhile. without_photo: samples whose photo was not found.
    """

    pack: str
    done: int
    gone: int
    refused: tuple[Refused, ...]
    without_photo: tuple[WaitingSample, ...]


Progress = Callable[[int, int], None]
"""Called after each photo with how many samples are done with, and how many there were to do."""


def reembed(
    pack: Pack, gallery: Gallery, photos: Path, *, progress: Progress | None = None
) -> Reembedded:
    """Embed the photos below a folder, or one photo, with `pack`, where the gallery knows them.

    The tallest face of a photo is taken, as at enrolment. Raises GalleryEmpty for a gallery without
    samples, EnrolmentRefused for a path that is not there, and what gallery and networks raise.
    """
    if not photos.exists():
        raise EnrolmentRefused(f"no photo or folder at {photos}")
    name, embedder = pack.card.name, pack.card.checksum(pack.card.embedder.file)
    if not gallery.identities():
        raise GalleryEmpty(f"nobody is enrolled in {gallery.place}: `facestream enroll` does that")
    waiting = {one.digest: one for one in gallery.packs.waiting(name, embedder)}
    count = len(waiting)
    made: list[NewEmbedding] = []
    refused: list[Refused] = []
    added: list[bool] = []
    for path in _files(photos):
        if not waiting:
            break
        try:
            content = read_bytes(path)
        except EnrolmentRefused:
            continue  # whose photo it is cannot be told: it is among those that were not found
        sample = waiting.pop(hashlib.sha256(content).hexdigest(), None)
        if sample is None:
            continue
        try:
            made.append(_embed(pack, content, sample))
        except EnrolmentRefused as refusal:
            refused.append(Refused(sample.identity, shown(str(path)), str(refusal)))
        if len(made) == AT_ONCE:
            added += gallery.packs.add(made, pack=name, embedder=embedder)
            made = []
        if progress is not None:
            progress(count - len(waiting), count)
    if made:
        added += gallery.packs.add(made, pack=name, embedder=embedder)
    done = sum(added)
    return Reembedded(name, done, len(added) - done, tuple(refused), tuple(waiting.values()))


def _embed(pack: Pack, content: bytes, sample: WaitingSample) -> NewEmbedding:
    """What the pack makes of a sample's photo. Raises EnrolmentRefused."""
    image = decode(content)
    face = tallest_face(find_faces(pack.detector, image))
    if face is None:
        raise EnrolmentRefused("no face found")
    described = describe_face(pack, image, face)
    return NewEmbedding(
        digest=sample.digest,
        embedding=described.embedding,
        norm=described.norm,
        quality=described.quality,
    )


def _files(path: Path) -> Iterator[Path]:
    """The files below a folder in the order of their names, hidden ones left out; or the one."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(folder) / one for one in sorted(names) if not one.startswith("."))
