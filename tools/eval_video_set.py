"""Annotated video in three layouts: which videos there are, their truth, and whom to enrol.

own    SET/truth/NAME.csv, SET/videos/NAME.*            (what `facestream simulate` writes)
mot    SET/[NAME/]gt/gt.txt, seqinfo.ini, img1/ or SET/videos/NAME.*
ijbs   SET/cs6_metadata.csv with boxes, SET/videos/NAME.*
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import ConfigError, FacestreamError, SourceCorrupt, SourceMissing
from ..configs.schema import CameraConfig
from ..stream.enrol_photos import photos_of
from ..stream.images import SUFFIXES
from ..stream.source import open_source
from .report_record import Bad
from .truth import FaceTruth, VideoTruth, read_ijbs_faces, read_mot, read_truth

LAYOUTS = ("own", "mot", "ijbs")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".ts", ".webm", ".gif")


class Rules(NamedTuple):
    """Which faces of the truth must be found, and by which overlap they are.

    least_visible: share 0..1 of the face; least_height: px of its box.
    """

    least_iou: float = 0.5
    least_visible: float = 0.25
    least_height: float = 14.0

    def must_find(self, face: FaceTruth) -> bool:
        """Whether a face is visible and high enough."""
        high = float(face.box[3] - face.box[1]) >= self.least_height
        return high and face.visible >= self.least_visible


class Clip(NamedTuple):
    """One video with its truth. source: a video file or a folder of pictures."""

    name: str
    source: Path
    truth: VideoTruth

    @property
    def camera(self) -> CameraConfig:
        """How the pipeline reads it: every frame, as fast as it can."""
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in self.name)
        return CameraConfig(name, str(self.source), mode="recorded", fps=self.truth.fps)


class VideoSet(NamedTuple):
    """A set. photos: to enrol, by identity as the truth names it; empty where nobody is known.

    named: the truth tells who is who. everybody: it has every face, not those of subjects only.
    files: what the fingerprint of the set is made of.
    """

    name: str
    layout: str
    clips: tuple[Clip, ...]
    photos: dict[str, list[Path]]
    named: bool
    everybody: bool
    files: tuple[Path, ...]


def read_set(
    root: Path, layout: str, gallery: Path | None, *, skip_bad: bool, bad: list[Bad]
) -> VideoSet:
    """Read a set; layout "auto" looks at what there is. gallery: photos in place of the set's own.

    Raises ConfigError where it is no such set, SourceMissing and SourceCorrupt for a video or truth
    that is missing or malformed; with skip_bad these go into `bad`.
    """
    if layout == "auto":
        layout = guess_layout(root)
    read = {"own": _read_own, "mot": _read_mot, "ijbs": _read_ijbs}[layout]
    clips, files = [], []
    for file, clip in read(root):
        files.append(file)
        if isinstance(clip, Clip):
            clips.append(clip)
        elif skip_bad:
            bad.append(Bad(str(file.relative_to(root)), str(clip)))
        else:
            raise clip
    if not clips:
        raise ConfigError(f"{root}: expected videos with truth in layout {layout}, got none")
    named = any(face.subject for clip in clips for face in clip.truth.faces)
    photos = _photos(root, layout, gallery) if named else {}
    for name, some in photos.items():
        photos[name] = [photo for photo in some if _is_there(photo, bad if skip_bad else None)]
    return VideoSet(
        root.resolve().name, layout, tuple(clips), photos, named, layout != "ijbs", tuple(files)
    )


def guess_layout(root: Path) -> str:
    """The layout by the files there are. Raises ConfigError where none fits."""
    if any(root.glob("truth/*.csv")):
        return "own"
    if any(_sequences(root)):
        return "mot"
    if (root / "cs6_metadata.csv").is_file():
        return "ijbs"
    raise ConfigError(
        f"{root}: expected truth/NAME.csv (own layout), gt/gt.txt (MOT) or cs6_metadata.csv "
        "(IJB-S), got none of them"
    )


Found = Iterator[tuple[Path, Clip | FacestreamError]]


def _read_own(root: Path) -> Found:
    for path in sorted(root.glob("truth/*.csv")):
        try:
            yield path, Clip(path.stem, _video(root, path.stem), read_truth(path))
        except (SourceMissing, SourceCorrupt) as error:
            yield path, error


def _read_mot(root: Path) -> Found:
    for folder in _sequences(root):
        name = folder.resolve().name
        try:
            pictures = folder / "img1"
            source = pictures if _holds_pictures(pictures) else _video(root, name)
            yield folder / "gt" / "gt.txt", Clip(name, source, read_mot(folder))
        except (SourceMissing, SourceCorrupt) as error:
            yield folder / "gt" / "gt.txt", error


def _read_ijbs(root: Path) -> Found:
    """IJB-S has no tracks: a subject in a video is one. Its videos say how many frames they have.

    Subjects of one video come out in order of frame, tracks numbered by subject.
    """
    metadata = root / "cs6_metadata.csv"
    videos: dict[str, list[FaceTruth]] = {}
    for path, face in read_ijbs_faces(root):
        if path.startswith("videos/") and not np.isnan(face.box).any():
            videos.setdefault(path, []).append(face)
    for path, faces in sorted(videos.items()):
        try:
            yield metadata, Clip(Path(path).stem, root / path, _ijbs_truth(root / path, faces))
        except (SourceMissing, SourceCorrupt) as error:
            yield metadata, error


def _ijbs_truth(video: Path, faces: list[FaceTruth]) -> VideoTruth:
    source = open_source(CameraConfig("probe", str(video), mode="recorded"))
    try:
        info = source.info
    finally:
        source.close()
    numbers = {subject: n for n, subject in enumerate(sorted({f.subject for f in faces}), 1)}
    tracked = sorted(
        (face._replace(track=numbers[face.subject]) for face in faces),
        key=lambda face: (face.frame, face.track),
    )
    frames = info.frames or tracked[-1].frame + 1
    return VideoTruth(info.fps or 25.0, (info.width, info.height), frames, tuple(tracked))


def _video(root: Path, name: str) -> Path:
    for folder in (root / "videos", root, root.parent / "videos", root.parent.parent / "videos"):
        for suffix in VIDEO_SUFFIXES:
            if (found := folder / f"{name}{suffix}").is_file():
                return found
    raise SourceMissing(
        f"{root / 'videos'}: expected the video {name}.mp4 (or {', '.join(VIDEO_SUFFIXES[1:])}) "
        "that the truth is about, got none"
    )


def _sequences(root: Path) -> list[Path]:
    """MOT sequences: the folder itself, those in it, or those in its folder mot/."""
    if (root / "gt" / "gt.txt").is_file():
        return [root]
    found = (
        root.glob("*/gt/gt.txt") if not (root / "mot").is_dir() else root.glob("mot/*/gt/gt.txt")
    )
    return sorted(path.parent.parent for path in found)


def _holds_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(p.suffix.lower() in SUFFIXES for p in folder.iterdir())


def _photos(root: Path, layout: str, gallery: Path | None) -> dict[str, list[Path]]:
    """Photos to enrol by identity: those given, or the set's own stills."""
    photos: dict[str, list[Path]] = {}
    if gallery is not None:
        for photo, identity in photos_of(gallery):
            photos.setdefault(identity, []).append(photo)
        return photos
    metadata = root / "cs6_metadata.csv"
    if not metadata.is_file():
        raise ConfigError(
            f"{root}: expected cs6_metadata.csv, which lists the stills to enrol, got none: name "
            "a folder of photos with --gallery"
        )
    names = _subject_names(root) if layout == "own" else {}
    for path, face in read_ijbs_faces(root):
        if path.startswith("img/"):
            photos.setdefault(names.get(face.subject, face.subject), []).append(root / path)
    return photos


def _is_there(photo: Path, bad: list[Bad] | None) -> bool:
    """Whether a listed photo exists; where not, it goes into `bad`, or SourceMissing is raised."""
    if photo.is_file():
        return True
    if bad is None:
        raise SourceMissing(f"{photo}: expected the photo that cs6_metadata.csv lists, got none")
    bad.append(Bad(f"{photo.parent.name}/{photo.name}", "listed as a photo, but not there"))
    return False


def _subject_names(root: Path) -> dict[str, str]:
    """Identities by their number in the IJB-S files, as subjects.csv of a simulated set says."""
    path = root / "subjects.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["number"]: row["identity"] for row in csv.DictReader(file) if row["number"]}
