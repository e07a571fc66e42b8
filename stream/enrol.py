"""Enrolment: photos and clips in, gallery samples out, every refusal with its reason in words.

A photo enrols one person. It is refused unless it shows exactly one face (people in the background,
less than a third as tall as the nearest, do not count), tall enough and good enough, and like
nobody else's in the gallery. The same detector, alignment, embedder and quality source work here
as on video.

Many photos are decoded ahead in a thread, found and described in batches, and stored in one
transaction a batch: a photo is told when it is in the gallery, and an interrupted run, killed or
not, is taken up by doing it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import EnrolmentRefused, GalleryEmpty, SourceError
from ..configs.schema import EnrolConfig
from ..models.aggregators import make_aggregator
from ..models.inference import Image
from ..models.photo import Described, PhotoFace, crop_face, describe_crops, find_faces_in
from .enrol_admit import Admission, Offered
from .enrol_clip import ClipWatcher, describe_clip
from .enrol_faces import check_quality, choose_face
from .enrol_photos import Loaded, Photo, ReadAhead, decode, find_photos, load_photo, read_bytes
from .enrol_records import EnrolmentSummary, PhotoResult, Progress, Refusal, refused, shown
from .enrol_table import read_table
from .gallery import Gallery
from .gallery_records import Change, normalise_name
from .redact import redact_address
from .source import kind_of, path_of

if TYPE_CHECKING:
    from ..models.pack import Pack

BATCH = 32
"""Photos in a batch: as many as an embedder takes at once."""

DETECTED = 8
DETECTED_BYTES = 1 << 26
"""Most photos, and bytes of them, in which faces are looked for together; at least one."""


class Waiting(NamedTuple):
    """A photo, without its pixels, and the face that is to be described, if one was taken."""

    loaded: Loaded
    face: PhotoFace | None = None
    crops: Mapping[str, Image] = MappingProxyType({})


class Enroller:
    """Enrols photos into a gallery with a pack. Use it from one thread."""

    def __init__(
        self,
        pack: Pack,
        gallery: Gallery,
        rules: EnrolConfig | None = None,
        *,
        aggregator: str = "auto",
        batch: int = BATCH,
    ) -> None:
        """Enrol into `gallery` with the networks of `pack`, under `rules`.

        aggregator: what fuses the faces of a clip, as fuse.aggregator of a configuration. batch:
        photos that are described together, and stored in one transaction.
        """
        self._aggregator = aggregator
        self._pack = pack
        self._gallery = gallery
        self._rules = rules or EnrolConfig()
        self._batch = batch
        self._admission = Admission(gallery, pack.card, self._rules)
        self._embedder = pack.card.checksum(pack.card.embedder.file)

    def enrol_photo(
        self, name: str, photo: Image | str | Path, *, change: Change | None = None
    ) -> PhotoResult:
        """Enrol one photo of a person: a file, or (H, W, 3) uint8 BGR.

        A file is turned upright as its EXIF says. change: what is set for the person in the same
        step. Raises EnrolmentRefused with the reason in words, and what the gallery and the
        networks raise.
        """
        self._admission.begin()
        name = normalise_name(name)
        if isinstance(photo, np.ndarray):
            one = Photo(Path(), name, "(picture)", change)
            content = repr(photo.shape).encode() + photo.tobytes()
        else:
            one = Photo(Path(photo), name, shown(Path(photo).name), change)
            content = read_bytes(one.path)
        digest = hashlib.sha256(content).hexdigest()
        holder = self._find_holder(digest)
        image = None
        if holder is None:
            image = photo if isinstance(photo, np.ndarray) else decode(content)
        (result,) = self._store(self._detect([Loaded(one, digest, image, holder)]))
        if result.status == "refused":
            raise Refusal(result.cause or "unreadable", result.reason)
        return result

    def enrol_folder(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        change: Change | None = None,
        progress: Progress | None = None,
    ) -> EnrolmentSummary:
        """Enrol a folder of photos, or one photo, named as `photos_of` says; as `enrol_photos`.

        Raises GalleryEmpty for a folder without photos, EnrolmentRefused for a path that cannot be
        read.
        """
        path = Path(path)
        photos = find_photos(path, name, change)
        if not photos:
            raise GalleryEmpty(
                f"no photos in {path}: expected NAME.jpg files, or a folder of photos per person"
            )
        return EnrolmentSummary(shown(str(path)), tuple(self.enrol_photos(photos, progress)))

    def enrol_clip(
        self,
        name: str,
        url: str,
        *,
        seconds: float | None = None,
        change: Change | None = None,
    ) -> PhotoResult:
        """Enrol the one person in a clip: a video file, or another address of a camera.

        Its faces are fused as in a run, into one sample. seconds: how much of it is watched; a live
        source needs it. Raises EnrolmentRefused with the reason in words, and what sources raise.
        """
        self._admission.begin()
        result = self._watch(normalise_name(name), url, seconds, change)
        if result.status == "refused":
            raise Refusal(result.cause or "unreadable", result.reason)
        return result

    def enrol_table(
        self, path: str | Path, *, progress: Progress | None = None
    ) -> EnrolmentSummary:
        """Enrol the photos of a CSV file (`read_table`), as `enrol_photos`.

        Raises EnrolmentRefused, naming the line, for a table that cannot be used.
        """
        photos = read_table(Path(path))
        return EnrolmentSummary(shown(str(path)), tuple(self.enrol_photos(photos, progress)))

    def enrol_photos(
        self, photos: Sequence[Photo], progress: Progress | None = None
    ) -> list[PhotoResult]:
        """Enrol many photos, in their order; refusals do not stop it.

        Every batch is one transaction, and told to `progress` after it: what was told stays, and a
        second run skips it. Errors of the gallery and of the networks end the run.
        """
        self._admission.begin()
        results: list[PhotoResult] = []
        with ReadAhead(photos, self._load) as loaded:
            groups = map(self._detect, _in_groups(loaded))
            for batch in _in_batches(groups, self._batch):
                for result in self._store(batch):
                    results.append(result)
                    if progress is not None:
                        progress(len(results), len(photos), result)
        return results

    def _watch(
        self, name: str, url: str, seconds: float | None, change: Change | None, source: str = ""
    ) -> PhotoResult:
        """Enrol a clip. Raises Refusal, and what sources raise."""
        path = Path(path_of(url))
        is_file = kind_of(url) == "video" and path.is_file()
        shortly = shown(path.name) if is_file else redact_address(url)
        source = source or shortly
        digest = _digest_of(path) if is_file else ""
        holder = self._find_holder(digest) if is_file else None
        if holder is not None:
            return self._admission.recognise(name, source, holder, change)
        seen = self._watcher.watch(url, seconds)
        offered = Offered(
            name=name,
            source=source,
            kept=describe_clip(shortly, seen),
            digest=digest or hashlib.sha256(seen.template.tobytes()).hexdigest(),
            embedding=seen.template,
            norm=1.0,
            quality=seen.quality,
            face_height=seen.height,
            change=change,
        )
        (result,) = self._admission.admit([offered])
        return result

    @cached_property
    def _watcher(self) -> ClipWatcher:
        card = self._pack.card
        name = card.fusion.aggregator if self._aggregator == "auto" else self._aggregator
        aggregator = make_aggregator(
            name,
            dimension=card.embedder.dimension,
            head_path=self._pack.fusion_heads.get(name),
        )
        return ClipWatcher(self._pack, aggregator, self._rules)

    def _load(self, photo: Photo) -> Loaded:
        """Read a photo, if its name can be one. Runs in the reader's thread."""
        try:
            photo = photo._replace(name=normalise_name(photo.name))
        except EnrolmentRefused as refusal:
            return Loaded(photo._replace(name=shown(photo.name)), refusal=refusal)
        if photo.is_clip:
            return Loaded(photo)  # watched when it is its turn
        return load_photo(photo, self._find_holder)

    def _find_holder(self, digest: str) -> str | None:
        return self._gallery.holder(digest, pack=self._pack.card.name, embedder=self._embedder)

    def _detect(self, group: Sequence[Loaded]) -> list[Waiting]:
        """Find the face of each photo, and cut it out."""
        images = [one.image for one in group if one.image is not None]
        found = iter(find_faces_in(self._pack.detector, images))
        least = self._pack.card.embedder.minimal_eye_distance
        waiting = []
        for loaded in group:
            if loaded.image is None:
                waiting.append(Waiting(loaded))
                continue
            try:
                face = choose_face(next(found), self._rules, least)
            except Refusal as refusal:
                waiting.append(Waiting(loaded._replace(image=None, refusal=refusal)))
                continue
            crops = crop_face(self._pack, loaded.image, face)
            waiting.append(Waiting(loaded._replace(image=None), face, crops))
        return waiting

    def _store(self, batch: Sequence[Waiting]) -> list[PhotoResult]:
        """Describe the faces of a batch together and store them in one transaction."""
        with_faces = [(i, one, one.face) for i, one in enumerate(batch) if one.face is not None]
        described = self._describe([(one, face) for _, one, face in with_faces])
        results: dict[int, PhotoResult] = {}
        offered: dict[int, Offered] = {}
        for (place, one, face), what in zip(with_faces, described, strict=True):
            photo = one.loaded.photo
            try:
                if not np.isfinite([*what.embedding, what.norm, what.quality]).all():
                    raise Refusal("low quality", "the networks make no numbers of this face")
                check_quality(what.quality, self._rules, self._pack.quality.unit)
            except Refusal as refusal:
                results[place] = refused(photo.source, photo.name, refusal)
                continue
            measures = (what.embedding, what.norm, what.quality, face.height)
            kept = "(picture)" if photo.path == Path() else shown(photo.path.name)
            offered[place] = Offered(
                photo.name, photo.source, kept, one.loaded.digest, *measures, photo.change
            )
        results.update(zip(offered, self._admission.admit([*offered.values()]), strict=True))
        return [results.get(place) or self._settle(one.loaded) for place, one in enumerate(batch)]

    def _describe(self, faces: Sequence[tuple[Waiting, PhotoFace]]) -> list[Described]:
        if not faces:
            return []
        crops = {
            consumer: np.stack([one.crops[consumer] for one, _ in faces])
            for consumer in self._pack.consumers
        }
        return describe_crops(self._pack, crops, [face for _, face in faces])

    def _settle(self, loaded: Loaded) -> PhotoResult:
        """What becomes of a photo whose face is not looked at, or of a clip."""
        photo = loaded.photo
        try:
            if loaded.refusal is not None:
                raise loaded.refusal
            if loaded.holder is None:
                return self._watch(photo.name, str(photo.path), None, photo.change, photo.source)
        except EnrolmentRefused as refusal:
            return refused(photo.source, photo.name, refusal)
        except SourceError as error:
            unreadable = Refusal("unreadable", f"unreadable video: {error}")
            return refused(photo.source, photo.name, unreadable)
        return self._admission.recognise(photo.name, photo.source, loaded.holder, photo.change)


def _digest_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises EnrolmentRefused."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Refusal("unreadable", f"unreadable video: {error.strerror}") from error


def _in_groups(loaded: Iterable[Loaded]) -> Iterator[list[Loaded]]:
    """Photos in which faces are looked for together."""
    group: list[Loaded] = []
    size = 0
    for one in loaded:
        group.append(one)
        size += 0 if one.image is None else one.image.nbytes
        if len(group) == DETECTED or size >= DETECTED_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _in_batches(groups: Iterable[Sequence[Waiting]], size: int) -> Iterator[list[Waiting]]:
    """Photos that are stored together, `size` and those of one more group at most."""
    batch: list[Waiting] = []
    for group in groups:
        batch += group
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
