"""annotated-CAMERA.mp4: the video with boxes, names and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from ..stream.events import AnyEvent, DecisionEvent
from ..stream.records import Frame, FrameRef, Image, Template, Tracked
from ..stream.watcher import Label, SourceInfo
from .palette import Palette
from .summary import clock

_TICKS = 90_000
_OPTIONS = {"crf": "21", "preset": "veryfast"}


class AnnotatedVideo:
    """Watcher that writes one FOLDER/annotated-CAMERA.mp4 per camera, H.264.

    Frames keep their own times, so that frames left out leave their gaps; the first frame of a
    file is at 0. Odd sides lose one pixel. A frame of another size is fitted into the first one's.
    """

    wants_frames = True

    def __init__(self, folder: Path, palette: Palette | None = None) -> None:
        """Create the folder where it is missing; files come with the first frames."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._palette = palette or Palette()
        self._files: dict[str, _File] = {}
        self._live: set[str] = set()

    @property
    def paths(self) -> list[Path]:
        """The files written so far."""
        return [file.path for file in self._files.values()]

    def source(self, info: SourceInfo) -> None:
        """Note whether it is live; a source opened again continues its file."""
        if info.live:
            self._live.add(info.camera)

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Draw and write one frame; one whose pixels were not kept is left out."""
        if isinstance(frame, FrameRef):
            return
        file = self._files.get(frame.camera)
        if file is None:
            path = self._folder / f"annotated-{_file_name(frame.camera)}.mp4"
            height, width = frame.image.shape[:2]
            file = _File(path, width - width % 2, height - height % 2, frame.pts)
            self._files[frame.camera] = file
        picture, scale, offset = fit(frame.image, file.width, file.height)
        draw_faces(picture, tracked, labels, self._palette, scale, offset)
        when = clock(frame.pts)
        if frame.camera in self._live:
            when = f"{datetime.fromtimestamp(frame.captured_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        draw_caption(picture, f"{frame.camera}  {when}")
        file.write(picture, frame.pts)

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Give identities their colours in the order of the decisions, as the page does."""
        if isinstance(event, DecisionEvent) and event.identity is not None:
            self._palette.of(event.identity)

    def close(self) -> None:
        """Finish every file; closing twice is allowed."""
        for file in self._files.values():
            file.close()


class _File:
    """One H.264 file being written."""

    def __init__(self, path: Path, width: int, height: int, start: float) -> None:
        self.path, self.width, self.height = path, width, height
        self._start = start
        self._last = -1
        self._container: OutputContainer | None = av.open(str(path), "w")
        stream = self._container.add_stream("libx264", options=_OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        # Milliseconds would round common frame rates; the container's clock is set to 90 kHz.
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream = stream

    def write(self, picture: Image, pts: float) -> None:
        """Append a frame; a time that does not advance (a clock that was reset) moves on a tick."""
        if self._container is None:
            return
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        self._last = max(self._last + 1, round((pts - self._start) * _TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush the encoder and the file's index."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None


def _file_name(camera: str) -> str:
    """A camera's name as part of a file name."""
    return re.sub(r"[^\w.-]", "_", camera)


def fit(image: Image, width: int, height: int) -> tuple[Image, float, tuple[int, int]]:
    """A copy of (H, W, 3) pixels in width x height, its scale, and its top left corner x, y.

    An odd last row or column is cut off; any other size is scaled with black bars.
    """
    have_height, have_width = image.shape[:2]
    if (have_width - have_width % 2, have_height - have_height % 2) == (width, height):
        return image[:height, :width].copy(), 1.0, (0, 0)
    scale = min(width / have_width, height / have_height)
    inner = (max(1, round(have_width * scale)), max(1, round(have_height * scale)))
    x, y = (width - inner[0]) // 2, (height - inner[1]) // 2
    picture = np.zeros((height, width, 3), np.uint8)
    picture[y : y + inner[1], x : x + inner[0]] = cv2.resize(
        image, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return picture, scale, (x, y)


def text_of(label: Label) -> str:
    """What stands beside a face: "Ada 0.612", "unknown", or nothing while undecided."""
    if label.identity is None:
        return "unknown" if label.decided else ""
    name = " or ".join(label.ambiguous) or label.identity
    name = name if len(name) <= 24 else name[:23] + "…"
    return name if label.score is None else f"{name} {label.score:.3f}"


Area = tuple[int, int, int, int]
"""x0, y0, x1, y1 in px."""


def draw_faces(
    picture: Image,
    tracked: Tracked,
    labels: Mapping[int, Label],
    palette: Palette,
    scale: float = 1.0,
    offset: tuple[int, int] = (0, 0),
) -> None:
    """Draw boxes and labels of a frame's faces in place, small (far) faces first."""
    height = picture.shape[0]
    thick = 2 if height >= 400 else 1
    plates: list[tuple[Area, Image]] = []
    for tracked_face in sorted(tracked.faces, key=lambda f: f.face.height):
        label = labels.get(tracked_face.track, Label(None, False, None))
        colour = _bgr(palette.of(label.identity, label.decided))
        box = tracked_face.face.box * scale + np.tile(offset, 2)
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(picture, (x0, y0), (x1, y1), (24, 24, 24), thick + 2, cv2.LINE_AA)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thick, cv2.LINE_AA)
        if text := text_of(label):
            plates.append(((x0, y0, x1, y1), _plate(text, colour, _text_size(height))))
    taken: list[Area] = []
    for area, plate in reversed(plates):  # near faces choose their place first
        place = place_plate(area, plate.shape, picture.shape, taken, thick)
        taken.append(place)
        _stamp(picture, plate, place[0], place[1])


def place_plate(
    box: Area, plate: tuple[int, ...], picture: tuple[int, ...], taken: list[Area], gap: int
) -> Area:
    """Where a label goes: above its box, below it, or beside it, inside the picture and free.

    plate and picture are shapes (height, width, ...); taken are the labels placed already. With no
    free place it goes to the first one.
    """
    high, wide = plate[:2]
    x0, y0, x1, y1 = box
    choices = [(x0 - gap + 1, y0 - high - gap), (x0 - gap + 1, y1 + gap)]
    choices += [(x1 + gap, y0), (x0 - wide - gap, y0), (x1 - wide, y0 - 2 * high - gap)]
    areas = []
    for left, top in choices:
        x = min(max(0, left), max(0, picture[1] - wide))
        y = min(max(0, top), max(0, picture[0] - high))
        areas.append((top, (x, y, x + wide, y + high)))
    free = [
        area
        for top, area in areas
        if top == area[1] and not any(_overlap(area, other) for other in taken)
    ]
    return free[0] if free else areas[0][1]


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def draw_caption(picture: Image, text: str) -> None:
    """Write the camera's name and the time (of the recording, of the wall clock if live) into the
    bottom left corner, in place."""
    plate = _plate(text, (225, 225, 225), _text_size(picture.shape[0]), dark=True)
    _stamp(picture, plate, 0, picture.shape[0] - plate.shape[0])


def _text_size(height: int) -> float:
    """Font scale that stays readable on small frames."""
    return float(np.clip(height / 1080, 0.42, 1.2))


def _stamp(picture: Image, plate: Image, x: int, y: int) -> None:
    """Copy a plate into the picture, cut off at its borders."""
    x, y = max(0, x), max(0, y)
    target = picture[y : y + plate.shape[0], x : x + plate.shape[1]]
    target[:] = plate[: target.shape[0], : target.shape[1]]


def _bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)


@lru_cache(maxsize=512)
def _plate(text: str, colour: tuple[int, int, int], size: float, dark: bool = False) -> Image:
    """A picture of the text: dark on the colour, or in the colour on dark. Drawn once each."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= 80 else text[:79] + "…"
    (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    pad = max(2, round(6 * size))
    ink, paper = (colour, (24, 24, 24)) if dark else ((16, 16, 16), colour)
    plate = np.full((high + base + 2 * pad, wide + 2 * pad, 3), paper, np.uint8)
    place = (pad, high + pad)
    cv2.putText(plate, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
    return plate
