"""report.html: one self-contained page for people who would rather look than read."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import jinja2
import numpy as np

from .. import __version__
from ..stream.events import AnyEvent, CameraState, DecisionEvent
from ..stream.records import Evidence, Frame, FrameRef, Image, Template, Tracked
from ..stream.thresholds_fit import percent
from ..stream.watcher import Label, SourceInfo
from .palette import Palette
from .summary import Sighting, Summary, clock, group
from .timeline import Axis, axis_of, build_timeline

MOST_SIGHTINGS = 200
MOST_PICTURES = 5
REASONS = {
    "too_small": "too small to be followed",
    "below_gate": "too small to be recognised",
    "malformed": "that the detector garbled",
    "not_finite": "without a usable embedding",
    "newer": "overtaken by a newer one",
    "corrupt": "corrupt",
    "unreadable": "unreadable",
}
"""Why faces and frames are left out, in words."""


class Picture(NamedTuple):
    """One evidence picture: a data URI and where it comes from."""

    uri: str
    pts: float
    quality: float
    weight: float


class Scale(NamedTuple):
    """Common scale of all gauges, in score units."""

    low: float
    high: float

    def place(self, score: float) -> float:
        """Percent of the way from low to high, 0..100."""
        return float(np.clip(100 * (score - self.low) / (self.high - self.low), 0, 100))


class ReportPage:
    """Watcher that writes FOLDER/report.html at the end of a run.

    The page makes no request to anywhere: styles, drawings and pictures are inside it. It keeps
    the newest 200 sightings. Names are escaped wherever they appear.
    """

    wants_frames = False
    """Scores over time and last moments in view come with the frames."""

    def __init__(
        self,
        folder: Path,
        *,
        note: str = "",
        gallery_size: int | None = None,
        palette: Palette | None = None,
        blur_faces: bool = False,
    ) -> None:
        """note: what was run, for the top of the page; gallery_size: people enrolled.

        blur_faces: show faces as a few blocks of colour, for pages that leave the house.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "report.html"
        self.rejected: Mapping[str, int] = {}
        """Faces left out, by reason; the run hands its counter in, it is read at the end."""
        self._note, self._gallery_size, self._blur = note, gallery_size, blur_faces
        self._palette = palette or Palette()
        self._summary = Summary(keep=MOST_SIGHTINGS)
        self._pictures: dict[tuple[str, int], list[Picture]] = {}
        self._sources: dict[str, SourceInfo] = {}
        self._states: dict[str, CameraState] = {}
        self._span: dict[str, tuple[float, float]] = {}
        self._frames: dict[str, int] = {}
        self._started = datetime.now(UTC)

    def source(self, info: SourceInfo) -> None:
        """Remember what is known of a source."""
        self._sources[info.camera] = info

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Follow the scores of the tracks in view."""
        first, _ = self._span.get(frame.camera, (frame.pts, frame.pts))
        self._span[frame.camera] = (first, frame.pts)
        self._frames[frame.camera] = self._frames.get(frame.camera, 0) + 1
        for face in tracked.faces:
            label = labels.get(face.track)
            if label is not None:
                self._summary.see(frame.camera, face.track, frame.pts, label)

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Collect sightings, their best pictures, and the state of the cameras."""
        if isinstance(event, CameraState):
            self._states[event.camera] = event
        sighting = self._summary.add(event)
        if sighting is None or not isinstance(event, DecisionEvent):
            return
        if event.identity is not None:
            self._palette.of(event.identity)
        if template is not None:
            key = (sighting.camera, sighting.track)
            self._pictures[key] = [
                _picture(e, e.crop, self._blur)
                for e in template.evidence[:MOST_PICTURES]
                if e.crop is not None
            ]

    def close(self) -> None:
        """Write the page; what was written before is replaced as a whole."""
        part = self.path.with_suffix(".part")
        part.write_text(self._render(), encoding="utf-8")
        part.replace(self.path)

    def _render(self) -> str:
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.from_string(
            files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
        )
        sightings = self._summary.sightings
        axes = {camera: self._axis(camera) for camera in self._cameras()}
        links = {(s.camera, s.track): f"s{n}" for n, s in enumerate(sightings, start=1)}
        scale = scale_of(sightings)
        return template.render(
            version=__version__,
            note=self._note,
            when=self._started,
            facts=self._facts(sightings),
            numbers=self._numbers(sightings),
            timelines=[
                build_timeline(
                    camera, self._of(camera), axis, self._live(camera), self._palette, links
                )
                for camera, axis in axes.items()
            ],
            cards=[
                self._card(s, scale, axes[s.camera], links[s.camera, s.track]) for s in sightings
            ],
            forgotten=self._summary.forgotten,
            blurred=self._blur,
        )

    def _cameras(self) -> list[str]:
        seen = [*self._sources, *(s.camera for s in self._summary.sightings)]
        return list(dict.fromkeys(seen))

    def _of(self, camera: str) -> list[Sighting]:
        return [s for s in self._summary.sightings if s.camera == camera]

    def _live(self, camera: str) -> bool:
        return camera in self._sources and self._sources[camera].live

    def _axis(self, camera: str) -> Axis:
        span = self._span.get(camera, (0.0, 0.0))
        return axis_of(self._of(camera), span, self._live(camera))

    def _facts(self, sightings: list[Sighting]) -> list[tuple[str, str]]:
        """What ran, as terms and values."""
        # Who was seen too briefly was compared with no gallery and comes last.
        decided = sorted(
            (s for s in sightings if s.threshold is not None), key=lambda s: s.score is not None
        )
        facts = []
        for info in self._sources.values():
            rate = f", {info.fps:.3g} frames/s" if info.fps else ""
            size = f"{info.width}×{info.height}"
            kind = "live" if info.live else "recorded"
            facts.append((info.camera, f"{source_words(info.url)} ({size}{rate}, {kind})"))
        if decided:
            last = decided[-1]
            facts.append(("Model pack", last.pack))
            facts.append(("Gallery", _gallery(self._gallery_size, last.gallery_version)))
            facts.append(("Threshold", _threshold(last)))
        elif self._gallery_size is not None:
            facts.append(("Gallery", _gallery(self._gallery_size, None)))
        dropped: Counter[str] = Counter()
        for state in self._states.values():
            dropped.update(state.dropped)
        for term, counts in (("Faces left out", self.rejected), ("Frames dropped", dropped)):
            if words := _reasons(counts):
                facts.append((term, words))
        return facts

    def _numbers(self, sightings: list[Sighting]) -> list[tuple[str, str]]:
        """The figures at the top: value and what it counts."""
        people = [p for p in group(sightings) if p.identity is not None]
        unknown = sum(s.state == "unknown" for s in sightings)
        seconds = sum(last - first for first, last in self._span.values())
        frames = sum(self._frames.values())
        return [
            (str(len(people)), "person named" if len(people) == 1 else "people named"),
            (str(len(sightings)), "sighting" if len(sightings) == 1 else "sightings"),
            (str(unknown), "unknown"),
            (clock(seconds)[:-2], "of video"),
            (f"{frames:,}", "frames"),
        ]

    def _card(self, s: Sighting, scale: Scale, axis: Axis, link: str) -> dict[str, object]:
        """One sighting for the template."""
        chance = s.false_positive_probability
        return {
            "s": s,
            "link": link,
            "axis": axis,
            "chance": None if chance is None else chance_words(chance),
            "colour": self._palette.of(s.identity, s.state == "unknown"),
            "pictures": self._pictures.get((s.camera, s.track), []),
            "gauge": None
            if s.score is None or s.threshold is None
            else (scale.place(s.score), scale.place(s.threshold)),
            "line": sparkline(s, scale),
            "scale": scale,
        }


def source_words(url: str) -> str:
    """A source as the page names it: a file or folder without the folders above it.

    >>> source_words("/home/ada/films/lobby.mp4"), source_words("rtsp://camera/main")
    ('lobby.mp4', 'rtsp://camera/main')
    """
    scheme = urlsplit(url).scheme
    return url if len(scheme) > 1 and scheme != "file" else Path(url).name or url


def chance_words(probability: float) -> str:
    """A probability 0..1 as people say it; less than cards are fitted on is not told apart.

    >>> [chance_words(p) for p in (0.087, 0.00042, 3e-12)]
    ['9 %', '1 in 2,400', 'under 1 in 10,000']
    """
    if probability < 1e-4:
        return "under 1 in 10,000"
    if probability >= 0.01:
        return f"{100 * probability:.0f} %"
    return f"1 in {float(f'{1 / probability:.2g}'):,.0f}"


def _reasons(counts: Mapping[str, int]) -> str:
    """Counts by reason in words, the most frequent first."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n:,} {REASONS.get(reason, reason)}" for reason, n in most if n)


def _gallery(size: int | None, version: int | None) -> str:
    people = "" if size is None else f"{size} {'person' if size == 1 else 'people'} enrolled"
    stamp = "" if version is None else f"version {version}"
    return ", ".join(part for part in (people, stamp) if part)


def _threshold(s: Sighting) -> str:
    if s.target_fpir is None:
        return f"{s.threshold:.3f}"
    share = percent(s.target_fpir)
    return f"{s.threshold:.3f}: {share} of unknown people's tracks may be named (FPIR)"


def scale_of(sightings: list[Sighting]) -> Scale:
    """A scale that holds every score and threshold, with a margin."""
    values = [p.score for s in sightings for p in s.points]
    values += [s.threshold for s in sightings if s.threshold is not None]
    values += [c.score for s in sightings for c in s.candidates]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = max(0.02, 0.08 * (high - low))
    return Scale(low - margin, high + margin)


def sparkline(s: Sighting, scale: Scale) -> dict[str, object] | None:
    """Score over time in a 200 x 40 picture: points, and the row of the threshold.

    None when there are fewer than two scores.
    """
    if len(s.points) < 2 or s.threshold is None:
        return None
    span = max(s.last - s.first, 1e-3)
    dots = [(200 * (p.pts - s.first) / span, 40 - 0.4 * scale.place(p.score)) for p in s.points]
    return {
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in dots),
        "threshold": 40 - 0.4 * scale.place(s.threshold),
    }


def _picture(evidence: Evidence, crop: Image, blur: bool) -> Picture:
    """An evidence crop (S, S, 3) as a JPEG data URI."""
    shown: np.ndarray = crop
    if blur:
        blocks = cv2.resize(crop, (5, 5), interpolation=cv2.INTER_AREA)
        shown = cv2.resize(blocks, (100, 100), interpolation=cv2.INTER_NEAREST)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 82])
    uri = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    return Picture(uri, evidence.frame.pts, evidence.quality, evidence.weight)
