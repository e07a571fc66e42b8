"""Faces for the page of `facestream evaluate video`: the tracks that were named best and worst.

A recording holds no pixels, so each face is read back from its video, at the frame that weighs most
in the track's last template, of those that show the track's own person if any does. It goes onto
the page and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..models.align import resize_template, warp
from ..models.inference import Image
from ..models.pack import Pack
from ..models.photo import find_faces, tallest_face
from ..stream.records import Floats
from ..stream.source import open_source
from .eval_video_decide import Seen
from .eval_video_identify import Case, DecidedTrack
from .eval_video_set import Clip
from .report_page import picture_uri
from .report_record import Example

MOST = 6
"""Tracks of each group."""
SIDE = 112
"""Width and height of a thumbnail, px."""
MARGIN = 0.25
"""Added on each side of a face, as a share of the larger side of its box."""


class Named(NamedTuple):
    """A track, the person of the gallery it is most like, and that score."""

    track: DecidedTrack
    person: int
    score: float


def extreme_tracks(case: Case, count: int = MOST) -> list[tuple[str, list[Named]]]:
    """Groups of tracks by the best score of all decisions: wrong ones first, then right ones.

    A track is named rightly where its own person scores best. Tracks without a picture are left
    out, and groups without a track.
    """
    named = [
        Named(one, int(np.argmax(one.scores)), float(one.scores.max()))
        for one in case.tracks
        if one.best is not None
    ]
    named.sort(key=lambda one: one.score)
    right = [one for one in named if one.person == one.track.person]
    known = [n for n in named if n.person != n.track.person and n.track.person < case.enrolled]
    strangers = [one for one in named if one.track.person >= case.enrolled]
    groups = [
        ("Tracks beside whom they are most like: wrong, highest scores", known[::-1][:count]),
        (
            "Tracks beside whom they are most like: strangers, highest scores",
            strangers[::-1][:count],
        ),
        ("Tracks beside whom they are most like: right, lowest scores", right[:count]),
        (
            "Tracks beside whom they are most like: right, highest scores",
            right[count:][::-1][:count],
        ),
    ]
    return [(title, some) for title, some in groups if some]


def track_examples(
    case: Case, clips: Sequence[Clip], photos: Mapping[str, Sequence[Path]], pack: Pack
) -> list[Example]:
    """Each of these tracks beside the person of the gallery it is most like. Videos are read again.

    Raises what sources raise.
    """
    groups = extreme_tracks(case)
    faces = _track_faces([one.track for _, some in groups for one in some], clips)
    people = {one.person for _, some in groups for one in some}
    stills = {one: _still(photos[case.people[one]], pack) for one in sorted(people)}
    examples = []
    for title, some in groups:
        for one in some:
            assert one.track.best is not None  # extreme_tracks leaves those out
            face = faces[one.track.video, one.track.best[0].track]
            words = caption(one, case.enrolled, clips[one.track.video].name)
            examples.append(Example(title, words, [face, *stills[one.person]]))
    return examples


def caption(one: Named, enrolled: int, clip: str) -> str:
    """What is written below a track with a picture: its score and place, and whose face it is.

    The latter only where it is not the face of the track's own person, that is of most frames.
    """
    track = one.track
    assert track.best is not None
    seen, person = track.best
    words = f"score {one.score:.3f}"
    if one.person != track.person < enrolled:
        words += f", the right person {track.scores[track.person]:.3f}"
    words += f"; {clip}, track {seen.track}, frame {seen.frame}"
    if person == track.person:
        return words
    if person == one.person:
        return f"{words}, where the track shows the person beside it"
    return f"{words}, where the track shows somebody or something else"


def _track_faces(
    tracks: Iterable[DecidedTrack], clips: Sequence[Clip]
) -> dict[tuple[int, int], str]:
    """The face of each track as a data URI, by video and track; every video is read once."""
    wanted: dict[int, dict[int, list[Seen]]] = {}
    for one in tracks:
        if one.best is not None:
            seen, _ = one.best
            wanted.setdefault(one.video, {}).setdefault(seen.frame, []).append(seen)
    return {
        (video, track): uri
        for video, frames in sorted(wanted.items())
        for track, uri in _faces_in(clips[video], frames).items()
    }


def _faces_in(clip: Clip, frames: Mapping[int, Sequence[Seen]]) -> dict[int, str]:
    found: dict[int, str] = {}
    source = open_source(clip.camera)
    source.first = min(frames)
    try:
        for frame in source:
            for seen in frames.get(frame.sequence, ()):
                found[seen.track] = picture_uri(cut_face(frame.image, seen.box))
            if frame.sequence >= max(frames):
                break
    finally:
        source.close()
    return found


def cut_face(image: Image, box: Floats) -> Image:
    """A square (SIDE, SIDE, 3) around a box (4,) of a picture (H, W, 3), its border repeated."""
    x0, y0, x1, y1 = (float(edge) for edge in box)
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * MARGIN)))
    middle = ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)  # of pixels, not of their borders
    square = cv2.getRectSubPix(image, (side, side), middle)
    smoother = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=smoother), np.uint8)


def _still(photos: Sequence[Path], pack: Pack) -> list[str]:
    """The first face that can be found in a person's photos, as a data URI, if there is one."""
    for photo in photos:
        picture = cv2.imread(str(photo), cv2.IMREAD_COLOR)
        if picture is None:
            continue
        image = np.asarray(picture, np.uint8)
        face = tallest_face(find_faces(pack.detector, image))
        if face is not None:
            template = resize_template(pack.consumers["embedder"], SIDE)
            return [picture_uri(warp(image, face.landmarks, template))]
    return []
