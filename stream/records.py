"""What flows between the stages: frozen records, checked at birth.

Order of the flow: Frame -> Detections -> Tracked -> Observed -> TrackTemplate -> Match.
Coordinates are pixels of the full decoded frame, origin top left, x right, y down.
Times: `pts` in seconds of the stream's own clock, `captured_at` in seconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .. import RecordError

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def expect(name: str, array: np.ndarray, shape: tuple[int | None, ...], dtype: type) -> None:
    """Raise RecordError unless `array` has this dtype and shape (None matches any length)."""
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise RecordError(
            f"{name} must be ({wanted}) {np.dtype(dtype).name}, "
            f"got {array.shape} {array.dtype.name}"
        )


class FrameRef(NamedTuple):
    """Which frame, without its pixels: enough to find it again and to place it in time."""

    camera: str
    sequence: int
    pts: float
    captured_at: float
    width: int
    height: int


class TrackKey(NamedTuple):
    """One track: ids are unique within a camera and a publisher epoch."""

    camera: str
    epoch: str
    track: int


class Frame(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """One decoded frame; `image` is (H, W, 3) uint8 BGR and shared by reference, never changed."""

    camera: str
    sequence: int
    pts: float
    captured_at: float
    image: Image

    def __post_init__(self) -> None:
        """Check the image."""
        expect("Frame.image", self.image, (None, None, 3), np.uint8)

    @property
    def ref(self) -> FrameRef:
        """This frame without its pixels."""
        height, width = self.image.shape[:2]
        return FrameRef(self.camera, self.sequence, self.pts, self.captured_at, width, height)


class Face(msgspec.Struct, frozen=True, eq=False):
    """One detected face.

    box: (4,) float32, x0 y0 x1 y1. landmarks: (5, 2) float32, x y of left eye, right eye, nose
    tip, left and right mouth corner, left and right as seen in the picture. score: 0..1.
    crops: one (S, S, 3) uint8 BGR picture per consumer ("embedder", "quality"), each warped from
    the frame itself. Empty when the face is tracked but not embedded (see Detections.rejected).
    """

    box: Floats
    landmarks: Floats
    score: float
    crops: Mapping[str, Image] = {}

    def __post_init__(self) -> None:
        """Check the geometry and the crops."""
        expect("Face.box", self.box, (4,), np.float32)
        expect("Face.landmarks", self.landmarks, (5, 2), np.float32)
        for consumer, crop in self.crops.items():
            expect(f"Face.crops[{consumer!r}]", crop, (None, crop.shape[0], 3), np.uint8)

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return float(self.box[3] - self.box[1])


class Detections(msgspec.Struct, frozen=True, eq=False):
    """The faces of one frame. `rejected` counts faces left out or not embedded, by reason."""

    frame: FrameRef
    faces: tuple[Face, ...]
    rejected: Mapping[str, int] = {}


class TrackedFace(msgspec.Struct, frozen=True, eq=False):
    """A face with the id of the track it continues; `ordinal` counts the track's faces from 0."""

    track: int
    ordinal: int
    face: Face


class TrackEnd(msgspec.Struct, frozen=True):
    """A track that will not continue. Times are those of its first and last face."""

    key: TrackKey
    first: FrameRef
    last: FrameRef
    faces: int


class Tracked(msgspec.Struct, frozen=True, eq=False):
    """One frame's confirmed tracks; `started` and `ended` are the ones that begin and end here.

    detected and rejected: how many faces were found in it, and left out by reason, for the counts.
    """

    frame: FrameRef
    faces: tuple[TrackedFace, ...]
    started: tuple[TrackKey, ...] = ()
    ended: tuple[TrackEnd, ...] = ()
    detected: int = 0
    rejected: Mapping[str, int] = {}


class Observation(msgspec.Struct, frozen=True, eq=False):
    """What one face of a track says about identity.

    embedding: (C,) float32, not normalised; norm: its length; quality: in the unit of the pack's
    quality source, larger is better; style: (K, 2) float32, per-channel spatial mean and standard
    deviation of the card's tensors (K = 0 where a pack has none). crop: the embedder's picture,
    kept only while evidence pictures are wanted.
    """

    key: TrackKey
    frame: FrameRef
    ordinal: int
    embedding: Floats
    norm: float
    quality: float
    style: Floats
    box: Floats
    crop: Image | None = None

    def __post_init__(self) -> None:
        """Check the vectors."""
        expect("Observation.embedding", self.embedding, (None,), np.float32)
        expect("Observation.style", self.style, (None, 2), np.float32)
        expect("Observation.box", self.box, (4,), np.float32)


class Observed(msgspec.Struct, frozen=True, eq=False):
    """One frame after embedding: its tracked frame and the observations that passed the gates.

    `rejected` counts faces that were embedded without a usable result, by reason.
    """

    tracked: Tracked
    observations: tuple[Observation, ...]
    rejected: Mapping[str, int] = {}


class Evidence(msgspec.Struct, frozen=True, eq=False):
    """One of the frames that weigh most in a template; `crop` as in Observation."""

    frame: FrameRef
    weight: float
    quality: float
    box: Floats
    crop: Image | None = None


class Template(msgspec.Struct, frozen=True, eq=False):
    """A track's fused unit embedding (C,) float32 with the evidence behind it, best frame first."""

    embedding: Floats
    frames: int
    quality_min: float
    quality_median: float
    quality_max: float
    evidence: tuple[Evidence, ...]

    def __post_init__(self) -> None:
        """Check that the embedding is a unit vector."""
        expect("Template.embedding", self.embedding, (None,), np.float32)
        length = float(np.linalg.norm(self.embedding))
        if not abs(length - 1.0) < 1e-4:
            raise RecordError(f"Template.embedding must have length 1, got {length:.6f}")


class TrackTemplate(msgspec.Struct, frozen=True, eq=False):
    """The template of one track as of one frame."""

    key: TrackKey
    frame: FrameRef
    template: Template


class Candidate(msgspec.Struct, frozen=True):
    """One gallery identity ranked against a probe: cosine, and the IDA score in cosine units."""

    identity: str
    score: float
    cosine: float


class Match(msgspec.Struct, frozen=True):
    """The decision on one track: `identity` is None when nothing passes the threshold.

    target_fpir and why: what the threshold was set for, None for no rate, and where it comes from.
    ambiguous: the identities that it might as well be, the one given first; empty without doubt.
    """

    key: TrackKey
    frame: FrameRef
    identity: str | None
    candidates: tuple[Candidate, ...]
    threshold: float
    false_positive_probability: float | None
    gallery_version: int
    frames: int
    target_fpir: float | None = None
    why: str = ""
    ambiguous: tuple[str, ...] = ()
