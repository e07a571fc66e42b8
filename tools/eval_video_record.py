"""What the live stages see in a video: detected, tracked and embedded once, decided many times.

A recording is a file of messages, as nodes send them: every frame's faces with track ids and
embeddings, without pixels. Matchers and aggregators are then measured on the same observations.
Stages are those of the running system, in its order; that they decide as it does is tested.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import numpy as np

from .. import SourceCorrupt, __version__
from ..configs.schema import Config
from ..models.pack import Pack
from ..stream.carriers import InMessage, WireError
from ..stream.detect import DetectStage
from ..stream.embed import EmbedStage
from ..stream.fingerprint import source_fingerprint
from ..stream.flow import TracksEnded, Work
from ..stream.packing import pack as pack_message
from ..stream.packing import unpack
from ..stream.records import Detections, Floats, Frame, Observed
from ..stream.source import open_source
from ..stream.track import TrackStage
from .eval_video_set import Clip

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
    clip: Clip, config: Config, pack: Pack, folder: Path, advance: Callable[[int], None]
) -> Recording:
    """The recording of a clip in `folder`, made unless it is there; advance counts frames.

    Its name changes with the video and with whatever changes what is seen in it. It is whole or not
    there. Raises what the source and the networks raise.
    """
    path = folder / f"{clip.name}-{_digest(clip, config, pack)}.seen"
    if path.is_file():
        advance(clip.truth.frames)
        return Recording(path)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(_FORMAT)
        _write_video(file, clip, config, pack, advance)
    part.replace(path)
    return Recording(path)


def _write_video(
    file: IO[bytes], clip: Clip, config: Config, pack: Pack, advance: Callable[[int], None]
) -> None:
    card, camera = pack.card, clip.camera
    detect = DetectStage(
        pack.detector,
        pack.consumers,
        config.detect,
        regions={},
        minimal_eye_distance=card.embedder.minimal_eye_distance,
        longest_side=card.detector.longest_side,
    )
    track = TrackStage(config.track, EPOCH)
    embed = EmbedStage(
        pack.embedder, pack.quality, epoch=EPOCH, batch=config.embed.batch, keep_crops=False
    )
    source = open_source(camera)
    position = 0
    try:
        for frames in _groups(source, config.detect.batch):
            found = detect.process(frames)
            observed = embed.process([track.process(one) for one in found])
            for one, detections in zip(observed, found, strict=True):
                work = Work(camera.name, "", position, _without_pixels(one))
                _write(file, work, _boxes(detections))
                position += 1
            advance(len(frames))
    finally:
        source.close()
    last = Work(camera.name, "", position, TracksEnded(camera.name, track.finish(camera.name)))
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


def _boxes(detections: Detections) -> Floats:
    rows = [(*face.box, face.score) for face in detections.faces]
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


def _digest(clip: Clip, config: Config, pack: Pack) -> str:
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
        )
    )
    return blake2b(content, digest_size=8).hexdigest()
