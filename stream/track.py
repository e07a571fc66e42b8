"""Following faces from frame to frame, each camera on its own.

The method is ByteTrack's (Zhang et al., ECCV 2022): sure detections are matched to tracks first,
weak ones to the tracks that are left; plus OC-SORT's last resort (Cao et al., CVPR 2023): a track
may continue where it was last seen, for people who stopped or turned back behind something.
Instead of intersection over union, which is zero as soon as a small face moves by its own size
between two frames, pairs are ranked by centre distance in face heights and by size ratio.

It is written here, on scipy's assignment solver, because no library fits: norfair needs numpy 1,
boxmot is AGPL, and roboflow's trackers brings a second OpenCV and counts ids on the class, where
one camera's reset disturbs the others. All of them count time in frames; here it is the stream's
clock, so that strides, dropped frames and variable frame rates do not change what a track is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from .. import RecordError
from ..configs.schema import TrackConfig
from . import motion
from .motion import Doubles, Indices, Mask, Motion
from .records import Detections, Face, FrameRef, Tracked, TrackedFace, TrackEnd, TrackKey

STRONG = 0.5
"""Smallest detector score that may begin a track; weaker faces, among them backs of heads, only
continue one."""
FAR = 2.5
"""Farthest, in face heights, that a face may lie from where its track predicts it."""
FAR_FROM_LAST = 1.0
"""Farthest, in face heights, from where a track was last seen."""
RESIZE, RESIZE_PER_SECOND, RESIZE_MOST = 0.45, 0.3, 0.8
"""|ln| of the height ratio allowed between two faces of a track: at once, per second, at most."""
TWIN_IOU, TWIN_INSIDE = 0.5, 0.8
"""A box that overlaps a better one of its frame this much, or lies in it so far, repeats it."""
REFUSAL = 4.0
"""Cost of an impossible pair, above that of any possible one."""
SNAPSHOT_VERSION = 1


class Following(NamedTuple):
    """One track. track is None until it is believed; faces counts those since (before: in a row).

    unseen: seconds since its last face; box: (4,) float64 of that face.
    """

    track: int | None
    faces: int
    unseen: float
    first: FrameRef
    last: FrameRef
    box: Doubles


class CameraTracks(NamedTuple):
    """What is known of one camera at `pts`: a value; row i of `moves` belongs to `tracks[i]`."""

    pts: float
    next_id: int
    moves: Motion
    tracks: tuple[Following, ...]


class _StoredTrack(msgspec.Struct, frozen=True, array_like=True):
    """A Following with its row of Motion: mean 8 and covariance 16 numbers."""

    track: int | None
    faces: int
    unseen: float
    first: FrameRef
    last: FrameRef
    box: list[float]
    mean: list[float]
    covariance: list[float]


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """pts: None where no frame has come since the source was opened."""

    version: int
    next_id: int
    pts: float | None
    tracks: list[_StoredTrack]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class TrackStage:
    """Gives faces track ids. Frames of a camera must come in order; cameras may interleave."""

    def __init__(
        self, config: TrackConfig, epoch: str, *, first_ids: Mapping[str, int] | None = None
    ) -> None:
        """first_ids: per camera, the first id not used yet in this epoch (none: 1)."""
        self._config = config
        self._epoch = epoch
        self._first_ids = dict(first_ids or {})
        self._cameras: dict[str, CameraTracks] = {}

    def process(self, detections: Detections) -> Tracked:
        """The frame's believed tracks, ordered by id, with those that begin and end here.

        A track is believed with its `confirm_faces`-th face in a row, which is its ordinal 0; the
        faces before it are not handed on, nor counted in its TrackEnd. It ends after `lost_seconds`
        without a face, or as soon as it must have left the picture. A clock that jumps back by more
        than `lost_seconds` is another recording: all tracks end.
        """
        frame = detections.frame
        state = self._cameras.get(frame.camera)
        if state is None:
            state = CameraTracks(
                frame.pts,
                self._first_ids.get(frame.camera, 1),
                motion.start(np.zeros((0, 4))),
                (),
            )
        self._cameras[frame.camera], tracked = self._follow(state, detections)
        return tracked

    def finish(self, camera: str) -> tuple[TrackEnd, ...]:
        """End the camera's tracks, since its source ended; ids go on if it comes back."""
        state = self._cameras.pop(camera, None)
        if state is None:
            return ()
        self._first_ids[camera] = state.next_id
        return tuple(self._ends(state.tracks))

    def snapshot(self, camera: str) -> bytes:
        """What is known of a camera, as bytes (msgpack, no pickle)."""
        state = self._cameras.get(camera)
        if state is None:
            stored = _Snapshot(SNAPSHOT_VERSION, self._first_ids.get(camera, 1), None, [])
        else:
            rows = zip(state.tracks, state.moves.mean, state.moves.covariance, strict=True)
            tracks = [
                _StoredTrack(
                    *track[:5],
                    track.box.tolist(),
                    mean.ravel().tolist(),
                    covariance.ravel().tolist(),
                )
                for track, mean, covariance in rows
            ]
            stored = _Snapshot(SNAPSHOT_VERSION, state.next_id, state.pts, tracks)
        return msgspec.msgpack.encode(stored)

    def restore(self, camera: str, data: bytes) -> None:
        """Take up a camera where `snapshot` left it: what follows is the same to the bit.

        Raises RecordError when the bytes are no snapshot of this version.
        """
        try:
            stored = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise RecordError(
                f"expected the snapshot of a tracker, got other bytes: {error}"
            ) from error
        sizes = {(len(t.box), len(t.mean), len(t.covariance)) for t in stored.tracks}
        if stored.version != SNAPSHOT_VERSION or sizes - {(4, 8, 16)}:
            raise RecordError(
                f"a tracker's snapshot must be version {SNAPSHOT_VERSION} with 4, 8 and 16 numbers "
                f"per track, got version {stored.version} with {sorted(sizes)}"
            )
        self._first_ids[camera] = stored.next_id
        self._cameras.pop(camera, None)
        if stored.pts is None:
            return
        moves = Motion(
            np.array([t.mean for t in stored.tracks], np.float64).reshape(-1, 4, 2),
            np.array([t.covariance for t in stored.tracks], np.float64).reshape(-1, 4, 2, 2),
        )
        tracks = tuple(
            Following(t.track, t.faces, t.unseen, t.first, t.last, np.array(t.box, np.float64))
            for t in stored.tracks
        )
        self._cameras[camera] = CameraTracks(stored.pts, stored.next_id, moves, tracks)

    def _follow(self, state: CameraTracks, detections: Detections) -> tuple[CameraTracks, Tracked]:
        frame = detections.frame
        state, ended = self._pass_time(state, frame.pts)
        faces = distinct(detections.faces)
        boxes = _boxes(faces)
        picture = (frame.width, frame.height)
        rows, columns = self._associate(state, faces, boxes, picture)
        born = np.array(
            [c for c in _rest(len(faces), columns) if faces[c].score >= STRONG], dtype=np.intp
        )
        unseen = _rest(len(state.tracks), rows)
        gone = motion.outside(motion.take(state.moves, unseen), picture)
        ended += self._ends(tuple(state.tracks[row] for row in unseen[gone]))
        lost = np.array(
            [row for row in unseen[~gone] if state.tracks[row].track is not None], dtype=np.intp
        )

        seen = [
            state.tracks[row]._replace(
                faces=state.tracks[row].faces + 1, unseen=0.0, last=frame, box=boxes[column]
            )
            for row, column in zip(rows, columns, strict=True)
        ]
        seen += [Following(None, 1, 0.0, frame, frame, boxes[column]) for column in born]
        seen, started = self._believe(seen, state.next_id)
        given = [
            TrackedFace(track.track, track.faces - 1, faces[column])
            for track, column in zip(seen, (*columns, *born), strict=True)
            if track.track is not None
        ]
        given.sort(key=lambda face: face.track)
        moves = motion.correct(motion.take(state.moves, rows), boxes[columns])
        moves = motion.join(moves, motion.start(boxes[born]))
        moves = motion.join(moves, motion.take(state.moves, lost))
        tracks = (*seen, *(state.tracks[row] for row in lost))
        return CameraTracks(frame.pts, state.next_id + len(started), moves, tracks), Tracked(
            frame,
            tuple(given),
            started=tuple(started),
            ended=tuple(ended),
            detected=len(detections.faces),
            rejected=detections.rejected,
        )

    def _believe(
        self, seen: list[Following], next_id: int
    ) -> tuple[list[Following], list[TrackKey]]:
        """The tracks seen in a frame, with ids from `next_id` for those that have earned one now.

        Ids are given here and not at the first face, so that what flickers uses none up.
        """
        believed: list[Following] = []
        started: list[TrackKey] = []
        for track in seen:
            if track.track is None and track.faces >= self._config.confirm_faces:
                key = TrackKey(track.last.camera, self._epoch, next_id + len(started))
                started.append(key)
                track = track._replace(track=key.track, faces=1, first=track.last)
            believed.append(track)
        return believed, started

    def _pass_time(self, state: CameraTracks, pts: float) -> tuple[CameraTracks, list[TrackEnd]]:
        """The camera's tracks as predicted for `pts`, without those that are over by then."""
        seconds = pts - state.pts
        if seconds < -self._config.lost_seconds:
            nothing = motion.start(np.zeros((0, 4)))
            return state._replace(moves=nothing, tracks=()), self._ends(state.tracks)
        seconds = max(seconds, 0.0)
        tracks = [track._replace(unseen=track.unseen + seconds) for track in state.tracks]
        over = np.array([t.unseen > self._config.lost_seconds for t in tracks], dtype=np.bool_)
        kept = np.flatnonzero(~over)
        moves = motion.predict(motion.take(state.moves, kept), seconds)
        ended = self._ends(tuple(tracks[row] for row in np.flatnonzero(over)))
        return state._replace(moves=moves, tracks=tuple(tracks[row] for row in kept)), ended

    def _associate(
        self,
        state: CameraTracks,
        faces: tuple[Face, ...],
        boxes: Doubles,
        picture: tuple[int, int],
    ) -> tuple[Indices, Indices]:
        """Rows of tracks and columns of faces that belong together."""
        pairing = _Pairing(state, boxes, self._config.match_iou)
        strong = np.array([face.score >= STRONG for face in faces], dtype=np.bool_)
        believed = np.array([t.track is not None for t in state.tracks], dtype=np.bool_)
        # Who walked out is not looked for at the edge, where the next one may be coming in.
        here = np.all(
            (state.moves.mean[:, :2, 0] >= 0.0) & (state.moves.mean[:, :2, 0] <= picture), axis=1
        )
        pairing.match(believed, strong)
        pairing.match(believed, ~strong)
        pairing.match(~believed, strong)
        pairing.match(~believed, ~strong)
        # Last, since a track that is beginning there explains a face better than one that is lost.
        pairing.match_last_seen(believed & here, strong)
        return np.array(pairing.rows, dtype=np.intp), np.array(pairing.columns, dtype=np.intp)

    def _ends(self, tracks: tuple[Following, ...]) -> list[TrackEnd]:
        return [
            TrackEnd(TrackKey(t.last.camera, self._epoch, t.track), t.first, t.last, t.faces)
            for t in sorted(tracks, key=lambda t: t.track or 0)
            if t.track is not None
        ]


class _Pairing:
    """Matches tracks to faces in rounds; who is matched once is out of the rounds after it."""

    def __init__(self, state: CameraTracks, boxes: Doubles, least_iou: float) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self._boxes = boxes
        self._least_iou = least_iou
        self._moves = state.moves
        self._last = np.array([track.box for track in state.tracks]).reshape(-1, 4)
        unseen = np.array([track.unseen for track in state.tracks])
        self._free_tracks = np.ones(len(state.tracks), dtype=np.bool_)
        self._free_faces = np.ones(len(boxes), dtype=np.bool_)
        self._resize = np.minimum(RESIZE + RESIZE_PER_SECOND * unseen, RESIZE_MOST)

    def match(self, tracks: Mask, faces: Mask) -> None:
        """Pair tracks (N,) with faces (M,) near where the tracks are predicted.

        A pair is possible if the boxes overlap by the least IoU, or the centres lie within the
        prediction's own uncertainty, `FAR` face heights at most; and if the sizes agree.
        """
        predicted = motion.boxes_of(self._moves)
        limit = np.minimum(motion.reach(self._moves), FAR * motion.heights(predicted))
        self._match(tracks, faces, predicted, limit, self._least_iou)

    def match_last_seen(self, tracks: Mask, faces: Mask) -> None:
        """Pair tracks (N,) with faces (M,) near where the tracks were last seen."""
        self._match(tracks, faces, self._last, FAR_FROM_LAST * motion.heights(self._last), np.inf)

    def _match(
        self, tracks: Mask, faces: Mask, expected: Doubles, limit: Doubles, least_iou: float
    ) -> None:
        rows = np.flatnonzero(tracks & self._free_tracks)
        columns = np.flatnonzero(faces & self._free_faces)
        if not (len(rows) and len(columns)):
            return
        boxes, expected = self._boxes[columns], expected[rows]
        step, resize = motion.distance(expected, boxes)
        iou, _ = motion.overlap(expected, boxes)
        near = ((iou > 0.0) & (iou >= least_iou)) | (step <= limit[rows, None])
        allowed = near & (resize <= self._resize[rows, None])
        scale = (motion.heights(expected)[:, None] + motion.heights(boxes)[None, :]) / 2.0
        first, second = motion.assign(step / scale + resize, allowed, REFUSAL)
        self.rows += rows[first].tolist()
        self.columns += columns[second].tolist()
        self._free_tracks[rows[first]] = False
        self._free_faces[columns[second]] = False


def distinct(faces: tuple[Face, ...]) -> tuple[Face, ...]:
    """Faces without repeats of the same one (a box around or inside a better one), best first.

    The order depends on the faces alone, not on the order they came in.
    """
    ranked = tuple(sorted(faces, key=lambda face: (-face.score, *face.box.tolist())))
    boxes = _boxes(ranked)
    iou, inside = motion.overlap(boxes, boxes)
    repeats = (iou > TWIN_IOU) | (inside > TWIN_INSIDE)
    kept: list[int] = []
    for i in range(len(ranked)):
        if not repeats[i, kept].any():
            kept.append(i)
    return tuple(ranked[i] for i in kept)


def _boxes(faces: tuple[Face, ...]) -> Doubles:
    return np.array([face.box for face in faces], dtype=np.float64).reshape(-1, 4)


def _rest(count: int, taken: Indices) -> Indices:
    """Those of range(count) that are not taken."""
    free = np.ones(count, dtype=np.bool_)
    free[taken] = False
    return np.flatnonzero(free)
