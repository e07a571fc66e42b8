"""report.html: one self-contained page for people who would rather look than read."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import numpy as np

from .. import __version__
from ..stream.events import AnyEvent, CameraState, DecisionEvent
from ..stream.records import Evidence, Frame, Image, Template, Tracked
from ..stream.watcher import Label, SourceInfo
from .palette import Palette
from .summary import Sighting, Summary, clock, group

MOST_SIGHTINGS = 200
MOST_PICTURES = 5


class Picture(NamedTuple):
    """One evidence picture: a data URI and where it comes from."""

    uri: str
    pts: float
    quality: float
    weight: float


class Bar(NamedTuple):
    """A piece of a timeline lane: x and width in permille of the span, colour, tooltip.

    decided: whether it was named or called unknown by then.
    """

    x: float
    width: float
    colour: str
    title: str
    decided: bool


class Lane(NamedTuple):
    """One row of a timeline."""

    name: str
    colour: str
    bars: list[Bar]


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

    wants_frames = True
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

    def frame(self, frame: Frame, tracked: Tracked, labels: Mapping[int, Label]) -> None:
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
        environment.filters["clock"] = clock
        template = environment.from_string(
            files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
        )
        sightings = self._summary.sightings
        return template.render(
            version=__version__,
            note=self._note,
            when=self._started,
            facts=self._facts(sightings),
            numbers=self._numbers(sightings),
            cameras=[self._timeline(camera) for camera in self._cameras()],
            cards=[self._card(s, scale_of(sightings)) for s in sightings],
            rejected=sorted(self.rejected.items()),
            forgotten=self._summary.forgotten,
            blurred=self._blur,
        )

    def _cameras(self) -> list[str]:
        seen = [*self._sources, *(s.camera for s in self._summary.sightings)]
        return list(dict.fromkeys(seen))

    def _facts(self, sightings: list[Sighting]) -> list[tuple[str, str]]:
        """What ran, as terms and values."""
        decided = [s for s in sightings if s.threshold is not None]
        facts = []
        for info in self._sources.values():
            rate = f", {info.fps:.3g} frames/s" if info.fps else ""
            kind = "live" if info.live else "recorded"
            facts.append((info.camera, f"{info.url} ({info.width}×{info.height}{rate}, {kind})"))
        if decided:
            last = decided[-1]
            facts.append(("Model pack", last.pack))
            facts.append(("Gallery", _gallery(self._gallery_size, last.gallery_version)))
            facts.append(("Threshold", _threshold(last)))
        elif self._gallery_size is not None:
            facts.append(("Gallery", _gallery(self._gallery_size, None)))
        return facts

    def _numbers(self, sightings: list[Sighting]) -> list[tuple[str, str]]:
        """The figures at the top: value and what it counts."""
        people = [p for p in group(sightings) if p.identity is not None]
        unknown = sum(s.state == "unknown" for s in sightings)
        seconds = sum(last - first for first, last in self._span.values())
        frames = sum(self._frames.values())
        dropped = sum(sum(state.dropped.values()) for state in self._states.values())
        numbers = [
            (str(len(people)), "person named" if len(people) == 1 else "people named"),
            (str(len(sightings)), "sighting" if len(sightings) == 1 else "sightings"),
            (str(unknown), "of them unknown"),
            (clock(seconds), "of video"),
            (f"{frames:,}", "frames looked at"),
        ]
        return [*numbers, (f"{dropped:,}", "frames dropped")] if dropped else numbers

    def _timeline(self, camera: str) -> dict[str, object]:
        """Lanes and ticks of one camera: a lane per name, and one per track without a name."""
        sightings = [s for s in self._summary.sightings if s.camera == camera]
        first, last = self._span.get(camera, (0.0, 0.0))
        first = min([first, *(s.first for s in sightings)])
        last = max([last, *(s.last for s in sightings), first + 1.0])
        lanes = []
        for person in group(sightings):
            if person.identity is not None:
                bars = [b for s in person.sightings for b in self._bars(s, first, last)]
                lanes.append(Lane(person.identity, self._palette.of(person.identity), bars))
                continue
            for s in person.sightings:
                colour = self._palette.of(None, s.state == "unknown")
                lanes.append(Lane(f"{s.who} #{s.track}", colour, self._bars(s, first, last)))
        step = _tick_step(last - first)
        marks = np.arange(np.ceil(first / step) * step, last + step / 100, step)
        ticks = [(float(100 * (m - first) / (last - first)), clock(float(m))[:-2]) for m in marks]
        return {"name": camera, "lanes": lanes, "ticks": ticks}

    def _bars(self, s: Sighting, first: float, last: float) -> list[Bar]:
        """A sighting as pieces, one per name it went by, from its first face to its last."""
        turns: list[tuple[float, str | None, bool]] = [(s.first, None, False)]
        for point in s.points:
            if (point.identity, True) != turns[-1][1:]:
                turns.append((point.pts, point.identity, True))
        ends = [start for start, _, _ in turns[1:]] + [s.last]
        bars = []
        for (start, identity, decided), end in zip(turns, ends, strict=True):
            name = identity or ("unknown" if decided else "undecided")
            x = 1000 * (start - first) / (last - first)
            width = max(2.0, 1000 * (end - start) / (last - first))
            title = f"{name}, track {s.track}: {clock(start)} to {clock(end)}"
            bars.append(Bar(x, width, self._palette.of(identity, decided), title, decided))
        return bars

    def _card(self, s: Sighting, scale: Scale) -> dict[str, object]:
        """One sighting for the template."""
        return {
            "s": s,
            "colour": self._palette.of(s.identity, s.state == "unknown"),
            "pictures": self._pictures.get((s.camera, s.track), []),
            "gauge": None
            if s.score is None or s.threshold is None
            else (scale.place(s.score), scale.place(s.threshold)),
            "line": sparkline(s, scale),
            "scale": scale,
        }


def _gallery(size: int | None, version: int | None) -> str:
    people = "" if size is None else f"{size} {'person' if size == 1 else 'people'} enrolled"
    stamp = "" if version is None else f"version {version}"
    return ", ".join(part for part in (people, stamp) if part)


def _threshold(s: Sighting) -> str:
    target = f" (for a target FPIR of {s.target_fpir:g})" if s.target_fpir is not None else ""
    return f"{s.threshold:.3f}{target}"


def _tick_step(seconds: float) -> float:
    """A round distance between time marks that leaves about eight of them."""
    steps = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
    return float(next((step for step in steps if seconds / step <= 8), steps[-1]))


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
