"""The live table: progress and sightings while a run goes on, and the closing lines after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..stream.events import AnyEvent, CameraState, SightingEnded
from ..stream.records import Frame, Template, Tracked
from ..stream.watcher import Label, SourceInfo
from .palette import Palette
from .summary import Person, Sighting, Summary, clock, group

_REFRESH_SECONDS = 0.1
_ROWS = 12


@dataclass
class _Camera:
    """Progress of one camera. Times on the monotonic clock; pts in stream seconds."""

    info: SourceInfo
    since: float
    state: str = "running"
    frames: int = 0
    first_pts: float | None = None
    pts: float = 0.0

    @property
    def done(self) -> float | None:
        """Share 0..1 of a recorded source; None when its length is not known."""
        if self.state == "ended":
            return 1.0
        if self.info.duration:
            return min(1.0, (self.pts - (self.first_pts or 0.0)) / self.info.duration)
        return min(1.0, self.frames / self.info.frames) if self.info.frames else None


class LiveTable:
    """Watcher that shows what is going on, at most ten times a second.

    On a terminal: progress by camera and the newest sightings, redrawn in place. Elsewhere: one
    plain line per finished sighting. At the end: one closing line per identity.
    """

    wants_frames = True
    """Progress is counted in frames decided."""

    def __init__(self, console: Console, palette: Palette | None = None) -> None:
        """console: where to write; whether it is a terminal decides the form."""
        self._console = console
        self._palette = palette or Palette()
        self._summary = Summary()
        self._cameras: dict[str, _Camera] = {}
        self._drawn = 0.0
        self._closed = False
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def source(self, info: SourceInfo) -> None:
        """Start or go on with a camera."""
        known = self._cameras.get(info.camera)
        if known is None:
            self._cameras[info.camera] = _Camera(info, time.monotonic())
            if self._live is None:
                kind = "live" if info.live else "recorded"
                self._print(f"{info.camera}: {info.url} {info.width}x{info.height}, {kind}")
        else:
            known.info, known.state = info, "running"
        self._draw()

    def frame(self, frame: Frame, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Count a frame and follow the tracks in it."""
        camera = self._cameras.get(frame.camera)
        if camera is not None:
            camera.frames += 1
            camera.pts = frame.pts
            if camera.first_pts is None:
                camera.first_pts = frame.pts
        for face in tracked.faces:
            label = labels.get(face.track)
            if label is not None:
                self._summary.see(frame.camera, face.track, frame.pts, label)
        self._draw()

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Follow sightings and the state of cameras."""
        sighting = self._summary.add(event)
        if sighting is not None and sighting.identity is not None:
            self._palette.of(sighting.identity)
        if isinstance(event, CameraState):
            camera = self._cameras.get(event.camera)
            if camera is not None:
                camera.state = event.state
            if self._live is None and event.state not in ("running", "connecting"):
                self._print(f"{event.camera}: {event.state}, {event.frames} frames. {event.detail}")
        elif isinstance(event, SightingEnded) and sighting is not None and self._live is None:
            self._print(sighting_line(sighting))
        self._draw()

    def close(self) -> None:
        """Take the table away and write the closing lines; closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.stop()
        for line in closing_lines(self._summary.sightings):
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        """Redraw unless that was done less than a tenth of a second ago."""
        now = time.monotonic()
        if self._live is None or self._closed or now - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = now
        if not self._live.is_started:
            self._live.start()
        width = self._console.width
        self._live.update(Group(self._progress(now), self._sightings(width)), refresh=True)

    def _progress(self, now: float) -> Table:
        """One row per camera: name, bar, where it is, frames/s, time left or time up."""
        table = Table.grid(padding=(0, 1))
        for name, camera in self._cameras.items():
            passed = max(now - camera.since, 1e-3)
            rate = f"{camera.frames / passed:5.1f} fps"
            done = camera.done
            if camera.info.live or done is None:
                up = f"{camera.state}, up {clock(passed)[:-2]}"
                table.add_row(Text(name), Text("live" if camera.info.live else ""), up, rate)
                continue
            left = passed * (1 - done) / done if done > 0.01 else None
            rest = "" if left is None else f"{clock(left)[:-2]} left"
            bar = ProgressBar(total=1.0, completed=done, width=20)
            table.add_row(Text(name), bar, f"{100 * done:3.0f} %", rate, rest)
        return table

    def _sightings(self, width: int) -> Table:
        """The newest sightings, those in view last; fewer columns on narrow terminals."""
        wide = width >= 76
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        if wide:
            table.add_column("camera", no_wrap=True)
        table.add_column("track", justify="right")
        table.add_column("who", no_wrap=True, overflow="ellipsis", min_width=8, max_width=28)
        table.add_column("score", justify="right", no_wrap=True)
        if wide:
            table.add_column("threshold", justify="right", no_wrap=True)
            table.add_column("faces", justify="right")
        table.add_column("seen", no_wrap=True)
        newest = sorted(self._summary.sightings, key=lambda s: (not s.ended, s.last))[-_ROWS:]
        for s in newest:
            decided = s.state in ("matched", "unknown")
            colour = self._palette.of(s.identity, decided)
            who = Text(s.who, style=f"bold {colour}" if s.identity is not None else colour)
            score = "" if s.score is None else f"{s.score:.3f}"
            threshold = "" if s.threshold is None else f"{s.threshold:.3f}"
            seen = f"{clock(s.first)}-{clock(s.last)}" if s.ended else f"{clock(s.first)}-"
            cells: list[Text | str] = [
                Text(s.camera),
                str(s.track),
                who,
                score,
                threshold,
                str(s.frames),
                seen,
            ]
            chosen = cells if wide else [cells[1], cells[2], cells[3], cells[6]]
            table.add_row(*chosen, style="dim" if s.ended else "")
        return table


def sighting_line(s: Sighting) -> str:
    """One finished sighting as a plain line."""
    score = ""
    if s.score is not None and s.threshold is not None:
        score = f", score {s.score:.3f} (threshold {s.threshold:.3f})"
    return f"{s.camera} track {s.track}: {s.who}, {clock(s.first)}-{clock(s.last)}{score}"


def closing_lines(sightings: list[Sighting]) -> list[str]:
    """One line per identity, then one for the unknowns and one for those without a decision."""
    people = group(sightings)
    named = [p for p in people if p.identity is not None]
    nameless = [s for s in sightings if s.identity is None]
    unknown = tuple(s for s in nameless if s.state == "unknown")
    rest = tuple(s for s in nameless if s.state != "unknown")
    rows = [(str(p.identity), p) for p in named]
    rows += [("unknown", Person(None, unknown))] if unknown else []
    rows += [("undecided", Person(None, rest))] if rest else []
    if not rows:
        return ["Nobody was seen."]
    width = max(len(name) for name, _ in rows)
    return [_closing_line(name.ljust(width), person) for name, person in rows]


def _closing_line(name: str, person: Person) -> str:
    first = min(s.first for s in person.sightings)
    last = max(s.last for s in person.sightings)
    cameras = ", ".join(dict.fromkeys(s.camera for s in person.sightings))
    line = f"{name}  seen {len(person.sightings)}x, {clock(first)}-{clock(last)}"
    thresholds = [s.threshold for s in person.sightings if s.threshold is not None]
    if person.best is not None and thresholds:
        line += f", best score {person.best:.3f} (threshold {thresholds[-1]:.3f})"
    return f"{line}, {cameras}"
