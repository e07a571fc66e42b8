"""What the live stages see in a video: detected, tracked and embedded once, decided many times.

A recording is a file of messages, as nodes send them: every frame's faces with track ids and
embeddings, without pixels. Matchers and aggregators are then measured on the same observations.
Stages are those of the running system, in its order; that they decide as it does is tested.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import numpy as np

from .. import ConfigError, SourceCorrupt, __version__
from ..configs.schema import Config
from ..models.align import eye_distance, warp
from ..models.pack import Pack
from ..stream.carriers import InMessage, WireError
from ..stream.detect import DetectStage
from ..stream.embed import EmbedStage
from ..stream.fingerprint import source_fingerprint
from ..stream.flow import TracksEnded, Work
from ..stream.packing import pack as pack_message
from ..stream.packing import unpack
from ..stream.records import (
    Face,
    Floats,
    Frame,
    Observed,
    Tracked,
    TrackedFace,
    TrackEnd,
    TrackKey,
)
from ..stream.source import open_source
from ..stream.track import TrackStage
from .eval_video_set import Clip, Rules
from .truth import FaceTruth

EPOCH = "evaluation"
_FORMAT = b"facestream recording 1\n"
_LENGTH = struct.Struct("<I")


class Seen(NamedTuple):
    """One frame: what was observed, and all faces the detector found.

    found: (N, 5) float32, x0 y0 x1 y1 and score, before tracking.
    """

    observed: Observed
    found: Floats


class Recording(NamedTuple):
    """A file that holds what was seen in one video."""

    path: Path

    def frames(self) -> Iterator[Seen]:
        """Every frame in order. Raises SourceCorrupt for a file that is none."""
        for work, found in _read(self.path):
            if isinstance(work.item, Observed):
                yield Seen(work.item, found)

    def ends(self) -> TracksEnded:
        """The tracks that ended because the video did."""
        for work, _ in _read(self.path):
            if isinstance(work.item, TracksEnded):
                return work.item
        raise SourceCorrupt(f"{self.path}: expected the end of the recording, got none: delete it")


def record(
    clip: Clip,
    config: Config,
    pack: Pack,
    folder: Path,
    advance: Callable[[int], None],
    *,
    given: Rules | None = None,
) -> Recording:
    """The recording of a clip in `folder`, made unless it is there; advance counts frames.

    given: take faces and tracks from the truth, those that must be found by these rules, in place
    of our detector and tracker. The name changes with the video and with whatever changes what is
    seen in it. The file is whole or not there. Raises what the source and the networks raise.
    """
    path = folder / f"{clip.name}-{_digest(clip, config, pack, given)}.seen"
    if path.is_file():
        advance(clip.truth.frames)
        return Recording(path)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    see = Finding(config, pack) if given is None else Given(clip, pack, given)
    try:
        with part.open("wb") as file:
            file.write(_FORMAT)
            _write_video(file, clip, config, pack, see, advance)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    return Recording(path)


class Finding:
    """Our own detector and tracker."""

    def __init__(self, config: Config, pack: Pack) -> None:
        """As a run of this configuration has them."""
        self._detect = DetectStage(
            pack.detector,
            pack.consumers,
            config.detect,
            regions={},
            minimal_eye_distance=pack.card.embedder.minimal_eye_distance,
            longest_side=pack.card.detector.longest_side,
        )
        self._track = TrackStage(config.track, EPOCH)

    def process(self, frames: Sequence[Frame]) -> list[tuple[Tracked, Floats]]:
        """Each frame's tracks, and all faces that were found (N, 5)."""
        found = self._detect.process(frames)
        return [(self._track.process(one), _boxes(one.faces)) for one in found]

    def finish(self, camera: str) -> tuple[TrackEnd, ...]:
        """The tracks that are open at the end."""
        return self._track.finish(camera)


class Given:
    """The faces and tracks of the truth, cut out of the frames as our own are."""

    def __init__(self, clip: Clip, pack: Pack, rules: Rules) -> None:
        """Raises ConfigError where the truth has no landmarks, which the networks need."""
        self._pack = pack
        self._faces: dict[int, list[FaceTruth]] = {}
        for face in clip.truth.faces:
            if face.points is None:
                raise ConfigError(
                    f"{clip.name}: boxes can only be given where the truth has landmarks: only our "
                    "own layout has"
                )
            if rules.must_find(face):
                self._faces.setdefault(face.frame, []).append(face)
        self._counts: Counter[int] = Counter()
        self._ends: dict[int, TrackEnd] = {}

    def process(self, frames: Sequence[Frame]) -> list[tuple[Tracked, Floats]]:
        """As Finding."""
        return [self._look(frame) for frame in frames]

    def finish(self, camera: str) -> tuple[TrackEnd, ...]:
        """All tracks: they stay open to the end of the video."""
        return tuple(end for _, end in sorted(self._ends.items()))

    def _look(self, frame: Frame) -> tuple[Tracked, Floats]:
        faces, started = [], []
        for truth in self._faces.get(frame.sequence, ()):
            points = np.asarray(truth.points, np.float32)
            sharp = eye_distance(points) >= self._pack.card.embedder.minimal_eye_distance
            crops = {
                consumer: warp(frame.image, points, template)
                for consumer, template in self._pack.consumers.items()
                if sharp
            }
            face = Face(truth.box, points, 1.0, crops)
            key = TrackKey(frame.camera, EPOCH, truth.track)
            faces.append(TrackedFace(truth.track, self._counts[truth.track], face))
            self._counts[truth.track] += 1
            if truth.track not in self._ends:
                started.append(key)
            first = self._ends[truth.track].first if truth.track in self._ends else frame.ref
            count = self._counts[truth.track]
            self._ends[truth.track] = TrackEnd(key, first, frame.ref, count)
        tracked = Tracked(frame.ref, tuple(faces), tuple(started), detected=len(faces))
        return tracked, _boxes([one.face for one in faces])


def _write_video(
    file: IO[bytes],
    clip: Clip,
    config: Config,
    pack: Pack,
    see: Finding | Given,
    advance: Callable[[int], None],
) -> None:
    camera = clip.camera
    embed = EmbedStage(
        pack.embedder, pack.quality, epoch=EPOCH, batch=config.embed.batch, keep_crops=False
    )
    source = open_source(camera)
    position = 0
    try:
        for frames in _groups(source, config.detect.batch):
            seen = see.process(frames)
            observed = embed.process([tracked for tracked, _ in seen])
            for one, (_, found) in zip(observed, seen, strict=True):
                work = Work(camera.name, "", position, _without_pixels(one))
                _write(file, work, found)
                position += 1
            advance(len(frames))
    finally:
        source.close()
    last = Work(camera.name, "", position, TracksEnded(camera.name, see.finish(camera.name)))
    _write(file, last, np.zeros((0, 5), np.float32))


def _groups(source: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    group: list[Frame] = []
    for frame in source:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _without_pixels(observed: Observed) -> Observed:
    """The same with no crops: they are of no use to what decides."""
    tracked = observed.tracked
    faces = tuple(
        msgspec.structs.replace(one, face=msgspec.structs.replace(one.face, crops={}))
        for one in tracked.faces
    )
    return msgspec.structs.replace(observed, tracked=msgspec.structs.replace(tracked, faces=faces))


def _boxes(faces: Sequence[Face]) -> Floats:
    rows = [(*face.box, face.score) for face in faces]
    return np.array(rows, np.float32).reshape(-1, 5)


def _write(file: IO[bytes], work: Work, found: Floats) -> None:
    message = pack_message(work, InMessage())
    parts = [bytes(part) for part in message or ()]
    block = msgspec.msgpack.encode((found.tobytes(), parts))
    file.write(_LENGTH.pack(len(block)) + block)


_BLOCK = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]])


def _read(path: Path) -> Iterator[tuple[Work, Floats]]:
    with path.open("rb") as file:
        if file.read(len(_FORMAT)) != _FORMAT:
            raise SourceCorrupt(f"{path}: expected a recording of this version: delete it")
        while length := file.read(_LENGTH.size):
            try:
                found, parts = _BLOCK.decode(file.read(_LENGTH.unpack(length)[0]))
                work = unpack(parts, InMessage())
            except (struct.error, msgspec.DecodeError, WireError) as error:
                raise SourceCorrupt(f"{path}: not a whole recording ({error}): delete it") from None
            if isinstance(work, Work):
                yield work, np.frombuffer(found, np.float32).reshape(-1, 5)


def _digest(clip: Clip, config: Config, pack: Pack, given: Rules | None) -> str:
    """16 hexadecimal digits that change with whatever changes what is seen.

    Batch sizes and devices are left out: they do not.
    """
    card, detect = pack.card, config.detect
    content = msgspec.msgpack.encode(
        (
            __version__,
            source_fingerprint(clip.camera),
            (detect.score, detect.longest_side, detect.smallest_face),
            config.track,
            (card.name, {key: file.sha256 for key, file in card.files.items()}),
            (card.detector, card.embedder, card.quality),
            *([] if given is None else [given, _truth_digest(clip)]),
        )
    )
    return blake2b(content, digest_size=8).hexdigest()


def _truth_digest(clip: Clip) -> str:
    """16 hexadecimal digits over what a given face is cut out by."""
    total = blake2b(digest_size=8)
    for face in clip.truth.faces:
        points = b"" if face.points is None else face.points.tobytes()
        total.update(f"{face.frame} {face.track} {face.visible} ".encode())
        total.update(face.box.tobytes() + points)
    return total.hexdigest()
