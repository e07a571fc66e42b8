"""Truth about the faces of a video, in three layouts: our own, MOT Challenge, and IJB-S.

Our own has everything: one CSV per video. The first line names the video's format, the second the
columns; then one line per face and frame, in order of frame and track:

    # facestream-truth 1 fps=25 width=960 height=540 frames=500
    frame,track,subject,x0,y0,x1,y1,left_eye_x,...,right_mouth_y,visible

frame counts from 0, track from 1; px with two decimals, visible is the share 0..1 of the face that
is seen. MOT and IJB-S keep less, as `write_mot` and `IjbsWriter` say.
"""

from __future__ import annotations

import configparser
import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from .. import SourceCorrupt, SourceMissing
from ..stream.records import Floats

_PLACES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
COLUMNS = (
    *("frame", "track", "subject", "x0", "y0", "x1", "y1"),
    *(f"{place}_{axis}" for place in _PLACES for axis in "xy"),
    "visible",
)
_FORMAT = re.compile(
    r"# facestream-truth 1 fps=(?P<fps>[\d.]+) width=(?P<width>\d+) height=(?P<height>\d+) "
    r"frames=(?P<frames>\d+)"
)
_IJBS_COLUMNS = ("SUBJECT_ID", "FILENAME", "FRAME", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")


class FaceTruth(NamedTuple):
    """One face in one frame.

    frame: from 0; track: from 1, 0 where the layout has none; subject: identity, "" where unknown;
    box: (4,) x0 y0 x1 y1 and points: (5, 2) landmarks or None, float32 px; visible: share 0..1.
    """

    frame: int
    track: int
    subject: str
    box: Floats
    points: Floats | None
    visible: float


class VideoTruth(NamedTuple):
    """All faces of a video in order of frame, and its format: width and height in px."""

    fps: float
    size: tuple[int, int]
    frames: int
    faces: tuple[FaceTruth, ...]


class VideoFormat(NamedTuple):
    """What a layout says of a video beside its faces: size is width and height in px."""

    fps: float
    size: tuple[int, int]
    frames: int


class TruthWriter:
    """Writes one video's truth in our own layout and as MOT, frame by frame: memory stays bounded.

    A file is whole or not there: both appear when the writer is closed without an error.
    """

    def __init__(self, own: Path, mot: Path, video: VideoFormat) -> None:
        """own: the CSV file; mot: the sequence's folder, named as the video."""
        (mot / "gt").mkdir(parents=True, exist_ok=True)
        own.parent.mkdir(parents=True, exist_ok=True)
        self._paths = (own, mot / "gt" / "gt.txt")
        self._files = [_partial(p).open("w", encoding="ascii", newline="") for p in self._paths]
        (width, height) = video.size
        self._files[0].write(
            f"# facestream-truth 1 fps={video.fps:g} width={width} height={height} "
            f"frames={video.frames}\n{','.join(COLUMNS)}\n"
        )
        (mot / "seqinfo.ini").write_text(_seqinfo(mot.name, video), encoding="ascii")

    def add(self, faces: Iterable[FaceTruth]) -> None:
        """Write the faces of one frame, by track."""
        for face in sorted(faces, key=lambda face: face.track):
            self._files[0].write(own_line(face))
            self._files[1].write(mot_line(face))

    def __enter__(self) -> TruthWriter:
        """Nothing more is opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both files; after an error they are taken away."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            if kind is None:
                _partial(path).replace(path)
            else:
                _partial(path).unlink()


def own_line(face: FaceTruth) -> str:
    """One face in our own layout; the subject must hold no comma, quote or line break."""
    if face.points is None:
        raise ValueError("our own layout needs the five landmarks of a face, got none")
    if re.search(r'[,"\n\r#]', face.subject):
        raise ValueError(f"a subject must not hold a comma, quote, # or break: {face.subject!r}")
    numbers = ",".join(f"{float(v):.2f}" for v in (*face.box, *face.points.ravel()))
    return f"{face.frame},{face.track},{face.subject},{numbers},{face.visible:.3f}\n"


def mot_line(face: FaceTruth) -> str:
    """One face as a line of MOT's gt.txt: frames count from 1, class 1, confidence 1."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    numbers = f"{x0:.2f},{y0:.2f},{x1 - x0:.2f},{y1 - y0:.2f}"
    return f"{face.frame + 1},{face.track},{numbers},1,1,{face.visible:.3f}\n"


def read_truth(path: Path) -> VideoTruth:
    """Read our own layout; raises SourceMissing, and SourceCorrupt with file and line."""
    lines = _lines(path)
    head = _FORMAT.fullmatch(lines[0]) if lines else None
    if head is None:
        raise SourceCorrupt(f"{path}: line 1 must begin with '# facestream-truth 1 fps='")
    if len(lines) < 2 or lines[1] != ",".join(COLUMNS):
        raise SourceCorrupt(f"{path}: line 2 must name the columns {','.join(COLUMNS[:4])},...")
    faces = []
    for number, line in enumerate(lines[2:], 3):
        cells = line.split(",")
        values = _numbers(path, number, [*cells[:2], *cells[3:]], len(COLUMNS) - 1)
        box, points = np.array(values[2:6]), np.array(values[6:16]).reshape(5, 2)
        faces.append(
            FaceTruth(
                int(values[0]),
                int(values[1]),
                cells[2],
                box.astype(np.float32),
                points.astype(np.float32),
                values[16],
            )
        )
    size = (int(head["width"]), int(head["height"]))
    return VideoTruth(float(head["fps"]), size, int(head["frames"]), tuple(faces))


def read_mot(folder: Path) -> VideoTruth:
    """Read a MOT sequence: seqinfo.ini and gt/gt.txt, of which faces marked 0 are left out.

    MOT has neither subjects nor landmarks. Raises as `read_truth`.
    """
    info = configparser.ConfigParser()
    try:
        info.read_string("\n".join(_lines(folder / "seqinfo.ini")))
        about = info["Sequence"]
        size = (int(about["imWidth"]), int(about["imHeight"]))
        fps, frames = float(about["frameRate"]), int(about["seqLength"])
    except (configparser.Error, KeyError, ValueError) as error:
        raise SourceCorrupt(
            f"{folder / 'seqinfo.ini'}: expected [Sequence] with frameRate, seqLength, imWidth and "
            f"imHeight ({type(error).__name__})"
        ) from error
    path, faces = folder / "gt" / "gt.txt", []
    for number, line in enumerate(_lines(path), 1):
        values = _numbers(path, number, line.split(","), 9)
        x, y, width, height = values[2:6]
        if values[6]:
            box = np.array([x, y, x + width, y + height], np.float32)
            faces.append(FaceTruth(int(values[0]) - 1, int(values[1]), "", box, None, values[8]))
    faces.sort(key=lambda face: (face.frame, face.track))
    return VideoTruth(fps, size, frames, tuple(faces))


class IjbsWriter:
    """Writes cs6_metadata.csv of a set in the layout of IJB-S, line by line.

    Subjects are numbers; the first two columns are those that public evaluators read. The others
    are ours: frame from 0, box as left, top, width, height in px; empty for images.
    """

    def __init__(self, root: Path) -> None:
        """root: the folder that holds videos/ and img/."""
        self._path = root / "cs6_metadata.csv"
        self._file = _partial(self._path).open("w", encoding="ascii", newline="")
        self._file.write(",".join(_IJBS_COLUMNS) + "\n")

    def add_image(self, subject: int, path: str) -> None:
        """A still of a subject: "img/...", relative to the root."""
        self._file.write(f"{subject},{path},,,,,\n")

    def add_face(self, subject: int, path: str, face: FaceTruth) -> None:
        """A subject's face in a frame of "videos/..."."""
        x0, y0, x1, y1 = (float(v) for v in face.box)
        box = f"{x0:.2f},{y0:.2f},{x1 - x0:.2f},{y1 - y0:.2f}"
        self._file.write(f"{subject},{path},{face.frame},{box}\n")

    def close(self) -> None:
        """Put the file into its place."""
        self._file.close()
        _partial(self._path).replace(self._path)


def write_ijbs_probes(root: Path, protocol: str, videos: Iterable[str]) -> None:
    """cs6_PROTOCOL_probe.csv: a header, then one video per line."""
    lines = ["FILENAME", *videos]
    path = root / f"cs6_{protocol}_probe.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def write_ijbs_gallery(
    root: Path, protocol: str, half: int, members: Iterable[tuple[int, str]]
) -> None:
    """galleries/cs6_PROTOCOL_gHALF.csv of (subject, path); one template per subject."""
    folder = root / "galleries"
    folder.mkdir(exist_ok=True)
    lines = ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *(f"{s},{s},{path}" for s, path in members)]
    path = folder / f"cs6_{protocol}_g{half}.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def read_ijbs_faces(root: Path) -> Iterator[tuple[str, FaceTruth]]:
    """Yield (path, face) of cs6_metadata.csv, in its order: a video's face per frame.

    Images, and lines without a box, come with an empty box (NaN). Subjects are the numbers as
    text; IJB-S has no tracks and no landmarks. Raises as `read_truth`.
    """
    path = root / "cs6_metadata.csv"
    for number, line in enumerate(_lines(path)[1:], 2):
        cells = next(csv.reader([line]))
        if len(cells) < 2:
            raise SourceCorrupt(f"{path}: line {number}: expected subject and path, got {line!r}")
        box, frame = np.full(4, np.nan, np.float32), 0
        if len(cells) >= len(_IJBS_COLUMNS) and cells[2]:
            frame_, x, y, width, height = _numbers(path, number, cells[2:7], 5)
            frame, box = int(frame_), np.array([x, y, x + width, y + height], np.float32)
        yield cells[1], FaceTruth(frame, 0, cells[0], box, None, 1.0)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _seqinfo(name: str, video: VideoFormat) -> str:
    """MOT's description of a sequence; our frames are in the video, not in a folder img1."""
    lines = {
        "name": name,
        "imDir": "img1",
        "frameRate": f"{video.fps:g}",
        "seqLength": str(video.frames),
        "imWidth": str(video.size[0]),
        "imHeight": str(video.size[1]),
        "imExt": ".jpg",
    }
    return "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise SourceMissing(f"no truth at {path}") from error
    except UnicodeDecodeError as error:
        raise SourceCorrupt(f"{path} is not a text file: byte {error.start}") from error


def _numbers(path: Path, number: int, cells: list[str], count: int) -> list[float]:
    """Exactly `count` finite numbers of one line."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise SourceCorrupt(
            f"{path}: line {number}: expected {count} numbers, got {len(cells)} values"
        )
    return values
