"""One person out of a clip: the stages of a run watch it, and its tracks become one template.

Faces are found, tracked, embedded and fused as in a run. The clip must show one person: all tracks
but those of people in the background must overlap nobody's and be the same person by the pack's
threshold. Nothing of the pictures is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import ConfigError
from ..configs.schema import (
    CameraConfig,
    DetectConfig,
    EmbedConfig,
    EnrolConfig,
    TrackConfig,
)
from ..models.fusion import Aggregator, Floats, FusionState, Members, usable_members
from .detect import DetectStage
from .embed import EmbedStage
from .enrol_faces import BACKGROUND, check_quality, check_size
from .enrol_records import Refusal
from .records import Frame, Observation
from .source import is_live, open_source
from .track import TrackStage

if TYPE_CHECKING:
    from ..models.pack import Pack

LEAST_FACES = 3
"""Faces that a clip must show, each large and good enough."""

EPOCH = "enrolment"


class ClipFace(NamedTuple):
    """Somebody in a clip. template: (C,) float32 unit; quality: the median of the faces fused.

    height: their median, px of the video. begins, ends: seconds of the clip; faces: how many.
    """

    template: Floats
    quality: float
    height: float
    begins: float
    ends: float
    faces: int


@dataclass
class _Track:
    """One track. state: of the faces that are large and good enough.

    heights (px) and times (s): of all its faces. qualities: of those that are large enough.
    fused: heights, and worth: qualities, of those in the state.
    """

    state: FusionState
    heights: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    fused: list[float] = field(default_factory=list)
    worth: list[float] = field(default_factory=list)

    @property
    def height(self) -> float:
        """Median height of all faces, px."""
        return float(np.median(self.heights))


class ClipWatcher:
    """Watches clips with the networks of a pack."""

    def __init__(self, pack: Pack, aggregator: Aggregator, rules: EnrolConfig) -> None:
        """aggregator: as in a run, for embeddings of the pack."""
        self._pack = pack
        self._aggregator = aggregator
        self._rules = rules

    def watch(self, url: str, seconds: float | None = None) -> ClipFace:
        """Who is in a clip: a file, or another address that a camera may have.

        seconds: how much of it is watched; a live source needs it. Raises Refusal with the reason
        in words, ConfigError for a live source without an end, and what sources raise.
        """
        check_end(url, seconds)
        camera = CameraConfig("clip", url)
        tracks: dict[int, _Track] = {}
        source = open_source(camera)
        try:
            self._follow(_first_seconds(source, seconds), tracks)
        finally:
            source.close()
        return self._only_person(list(tracks.values()))

    def _follow(self, frames: Iterable[Frame], tracks: dict[int, _Track]) -> None:
        """Run the stages over all frames, and add every face to its track."""
        pack, detect, embed = self._pack, DetectConfig(), EmbedConfig()
        finding = DetectStage(
            pack.detector,
            pack.consumers,
            detect,
            regions={},
            minimal_eye_distance=pack.card.embedder.minimal_eye_distance,
            longest_side=pack.card.detector.longest_side,
        )
        tracking = TrackStage(TrackConfig(), EPOCH)
        embedding = EmbedStage(
            pack.embedder, pack.quality, epoch=EPOCH, batch=embed.batch, keep_crops=False
        )
        for group in _groups(frames, detect.batch):
            tracked = [tracking.process(found) for found in finding.process(group)]
            for one in tracked:
                for face in one.faces:
                    track = tracks.setdefault(face.track, _Track(self._aggregator.empty()))
                    track.heights.append(face.face.height)
                    track.times.append(one.frame.pts)
            for observed in embedding.process(tracked):
                for observation in observed.observations:
                    self._add(tracks[observation.key.track], observation)

    def _add(self, track: _Track, seen: Observation) -> None:
        """Fuse one face, if it is large and good enough."""
        members = Members(
            seen.embedding[None],
            np.array([seen.norm], np.float32),
            np.array([seen.quality], np.float32),
            seen.style[None],
        )
        height = float(seen.box[3] - seen.box[1])
        if height < self._rules.smallest_face or not usable_members(members)[0]:
            return
        track.qualities.append(seen.quality)
        least = self._rules.least_quality
        if least is None or seen.quality >= least:
            track.state = self._aggregator.update(track.state, members)
            track.fused.append(height)
            track.worth.append(seen.quality)

    def _only_person(self, tracks: Sequence[_Track]) -> ClipFace:
        """The one person before the background, from all of their tracks. Raises Refusal."""
        if not tracks:
            raise Refusal("no face", "no face found in the clip")
        nearest = max(track.height for track in tracks)
        near = [track for track in tracks if track.height >= BACKGROUND * nearest]
        enough = [track for track in near if len(track.fused) >= LEAST_FACES]
        if not enough:
            raise self._why_not_enough(near)
        main = max(enough, key=lambda track: track.height * len(track.fused))
        own = [main]
        for track in sorted(near, key=lambda track: track.times[0]):
            if track is main or not track.fused:
                continue
            reason = self._unlike(own, track)
            if reason is None:
                own.append(track)
            elif not self._rules.largest and len(track.fused) >= LEAST_FACES:
                raise Refusal(
                    "several people",
                    f"more than one person in the clip ({reason}): one is needed (cut the clip or "
                    "pass --largest)",
                )
        return self._merge(own)

    def _unlike(self, own: Sequence[_Track], other: _Track) -> str | None:
        """Why a track is not the person of these tracks, in words; None where it is."""
        when = f"another is seen {_moment(other.times[0])} to {_moment(other.times[-1])}"
        if any(set(track.times) & set(other.times) for track in own):
            return f"{when}, at the same time"
        decision = self._pack.card.decision
        if decision is None:
            return when
        cosine = float(self._template(own) @ self._template([other]))
        return None if cosine >= decision.cosine_threshold else f"{when}, alike by {cosine:.2f}"

    def _merge(self, own: Sequence[_Track]) -> ClipFace:
        fused = [height for track in own for height in track.fused]
        return ClipFace(
            template=self._template(own),
            quality=float(np.median([quality for track in own for quality in track.worth])),
            height=float(np.median(fused)),
            begins=min(track.times[0] for track in own),
            ends=max(track.times[-1] for track in own),
            faces=len(fused),
        )

    def _template(self, tracks: Sequence[_Track]) -> Floats:
        state = tracks[0].state
        for track in tracks[1:]:
            state = self._aggregator.merge(state, track.state)
        return self._aggregator.read(state)

    def _why_not_enough(self, near: Sequence[_Track]) -> Refusal:
        """Why no track has enough faces that can be fused: the gate that stops the best one."""
        best = max(near, key=lambda track: (len(track.fused), len(track.qualities), track.height))
        try:
            check_size(max(best.heights), np.inf, self._rules, 0.0)
            if len(best.qualities) >= LEAST_FACES:
                check_quality(max(best.qualities), self._rules, self._pack.quality.unit)
        except Refusal as refusal:
            return refusal
        return Refusal(
            "too few frames",
            f"{len(best.fused)} of {len(best.heights)} faces in the clip are large, frontal and "
            f"good enough, at least {LEAST_FACES} needed",
        )


def check_end(url: str, seconds: float | None) -> None:
    """Raise ConfigError for a live source that would be watched without end."""
    if seconds is None and is_live(CameraConfig("clip", url)):
        raise ConfigError(
            "a live source has no end: say for how many seconds to watch it (--seconds 10)"
        )


def describe_clip(name: str, face: ClipFace) -> str:
    """What the gallery notes as the source of a clip's template.

    >>> face = ClipFace(np.ones(1, np.float32), 0.5, 90.0, 1.2, 64.0, 37)
    >>> describe_clip("clip.mp4", face)
    'clip.mp4 (0:01.2-1:04.0, 37 faces)'
    """
    return f"{name} ({_moment(face.begins)}-{_moment(face.ends)}, {face.faces} faces)"


def _moment(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60.0)
    return f"{int(minutes)}:{rest:04.1f}"


def _first_seconds(frames: Iterable[Frame], seconds: float | None) -> Iterator[Frame]:
    begun: float | None = None
    for frame in frames:
        begun = frame.pts if begun is None else begun
        if seconds is not None and frame.pts - begun > seconds:
            return
        yield frame


def _groups(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
