"""The live table: progress and sightings while a run goes on, and the closing lines after it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..stream.events import AnyEvent, CameraState, SightingEnded
from ..stream.records import Frame, FrameRef, Template, Tracked
from ..stream.watcher import Label, SourceInfo
from .palette import Palette
from .summary import Person, Sighting, Summary, clock, group

_REFRESHES = 5
"""A second, by a timer: a camera that gives nothing causes no call here, yet its time runs."""
_MOST_ROWS = 30
_RATE_SECONDS = 5.0
_TROUBLE = ("stalled", "reconnecting", "failed")
_WIDTHS = {"track": 5, "score": 6, "threshold": 9, "faces": 5, "fused": 5, "seen": 17}
"""Characters of the columns of figures; names have what is left."""


class _Mark(NamedTuple):
    """How far a camera was at a time of the monotonic clock."""

    at: float
    frames: int
    sequence: int


@dataclass
class _Camera:
    """Progress of one camera. since and changed on the monotonic clock; pts in stream seconds.

    sequence and pts are those of the newest frame decided.
    """

    since: float
    changed: float
    info: SourceInfo | None = None
    state: str = "connecting"
    detail: str = ""
    frames: int = 0
    sequence: int = 0
    first_pts: float = 0.0
    pts: float = 0.0
    marks: list[_Mark] = field(default_factory=list)

    def enter(self, state: str, detail: str) -> None:
        """Change state; the time of the change is kept while only the reason changes."""
        if state != self.state:
            self.changed = time.monotonic()
        self.state, self.detail = state, detail

    def rates(self, now: float) -> tuple[float, float]:
        """Frames decided and frames read per second, over the last five to ten seconds."""
        here = _Mark(now, self.frames, self.sequence)
        if not self.marks:
            self.marks.append(here)
        if now - self.marks[-1].at >= _RATE_SECONDS:
            self.marks = [self.marks[-1], here]
        start = self.marks[0]
        passed = max(now - start.at, 1e-3)
        return (self.frames - start.frames) / passed, (self.sequence - start.sequence) / passed

    @property
    def done(self) -> float | None:
        """Share 0..1 of a recorded source; None when its length is not known."""
        if self.state == "ended":
            return 1.0
        if self.info is None or self.info.live:
            return None
        if self.info.duration:
            return min(1.0, (self.pts - self.first_pts) / self.info.duration)
        return min(1.0, self.frames / self.info.frames) if self.info.frames else None


class LiveTable:
    """Watcher that shows what is going on.

    On a terminal: progress by camera and the newest sightings, redrawn in place by a timer.
    Elsewhere: one plain line per finished sighting. At the end: one closing line per identity.
    Times are those of the recording, and of the wall clock here for live cameras.
    """

    wants_frames = False
    """Progress is counted in frames decided."""

    def __init__(self, console: Console, palette: Palette | None = None, heading: str = "") -> None:
        """console: where to write; whether it is a terminal decides the form.

        heading: what stands above everything, such as where the events go.
        """
        self._console = console
        self._palette = palette or Palette()
        self._heading = heading
        self._summary = Summary()
        self._cameras: dict[str, _Camera] = {}
        self._closed = False
        # Held while anything below changes or is drawn, never while the console is written to.
        self._lock = threading.Lock()
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console,
                get_renderable=self._draw,
                refresh_per_second=_REFRESHES,
                transient=True,
            )
        self._begun = False

    def source(self, info: SourceInfo) -> None:
        """Start or go on with a camera."""
        self._begin()
        with self._lock:
            known = info.camera in self._cameras
            camera = self._camera(info.camera)
            camera.info = info
            camera.enter("running", "")
        if not known and self._live is None:
            kind = "live" if info.live else "recorded"
            self._print(f"{info.camera}: {info.url} {info.width}x{info.height}, {kind}")

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Count a frame and follow the tracks in it."""
        with self._lock:
            camera = self._camera(frame.camera)
            if not camera.frames:
                camera.since, camera.first_pts = time.monotonic(), frame.pts
                camera.marks = [_Mark(camera.since, 0, frame.sequence)]
            camera.frames += 1
            camera.sequence, camera.pts = frame.sequence, frame.pts
            for face in tracked.faces:
                label = labels.get(face.track)
                if label is not None:
                    self._summary.see(frame.camera, face.track, frame.pts, label)

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Follow sightings and the state of cameras."""
        self._begin()
        with self._lock:
            sighting = self._summary.add(event)
            if sighting is not None and sighting.identity is not None:
                self._palette.of(sighting.identity)
            if isinstance(event, CameraState):
                self._camera(event.camera).enter(event.state, event.detail)
        if self._live is not None:
            return
        if isinstance(event, CameraState) and event.state not in ("running", "connecting"):
            self._print(f"{event.camera}: {event.state}, {event.frames} frames: {event.detail}")
        elif isinstance(event, SightingEnded) and sighting is not None:
            self._print(sighting_line(sighting, self._live_cameras()))

    def close(self) -> None:
        """Take the table away and write the closing lines; closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.stop()
        if not self._summary.sightings and not any(c.frames for c in self._cameras.values()):
            return  # no picture was looked at: "nobody" would be said of nothing
        for line in closing_lines(self._summary.sightings, self._live_cameras()):
            self._print(line)

    def _begin(self) -> None:
        """Write the heading, or start the timer, with the first news of a run."""
        if self._begun or self._closed:
            return
        self._begun = True
        if self._live is not None:
            self._live.start()
        elif self._heading:
            self._print(self._heading)

    def _camera(self, name: str) -> _Camera:
        if name not in self._cameras:
            now = time.monotonic()
            self._cameras[name] = _Camera(now, now)
        return self._cameras[name]

    def _live_cameras(self) -> frozenset[str]:
        return frozenset(n for n, c in self._cameras.items() if c.info is not None and c.info.live)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> Group:
        """What is shown now; called by the timer's thread."""
        width, height = self._console.size
        with self._lock:
            heading = Text(self._heading, style="dim", no_wrap=True, overflow="ellipsis")
            progress = self._progress(width, most=max(3, height // 3))
            left = height - progress.row_count - len(heading.plain.splitlines()) - 2
            return Group(heading, progress, self._sightings(width, min(_MOST_ROWS, max(3, left))))

    def _progress(self, width: int, most: int) -> Table:
        """One row per camera: name, how far or in which state, and figures.

        Where there are more cameras than rows, those in trouble come first.
        """
        now = time.monotonic()
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=_camera_width(width))
        table.add_column(no_wrap=True, width=20)
        table.add_column(no_wrap=True, overflow="ellipsis")
        cameras = list(self._cameras.items())
        if len(cameras) > most:
            cameras.sort(key=lambda item: item[1].state not in _TROUBLE)
        for name, camera in cameras[:most]:
            table.add_row(Text(name), *_standing(camera, now))
        if len(cameras) > most:
            table.add_row(Text(f"and {len(cameras) - most} more", style="dim"), "", "")
        return table

    def _sightings(self, width: int, rows: int) -> Table:
        """The newest sightings, those in view last; fewer columns on narrow terminals."""
        shown = _columns(width)
        taken = sum(_WIDTHS.get(name, 0) + 1 for name in shown)
        if "camera" in shown:
            taken += _camera_width(width)
        names = {"camera": _camera_width(width), "who": max(8, min(40, width - taken))}
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for name in shown:
            table.add_column(
                name,
                justify="left" if name in ("camera", "who", "seen") else "right",
                no_wrap=True,
                overflow="ellipsis",
                min_width=8 if name == "who" else None,
                max_width=names.get(name),
            )
        newest = sorted(self._summary.sightings, key=lambda s: (not s.ended, s.wall(s.last)))
        for s in newest[-rows:]:
            cells = self._cells(s)
            table.add_row(*(cells[name] for name in shown), style="dim" if s.ended else "")
        return table

    def _cells(self, s: Sighting) -> dict[str, Text]:
        """One sighting's cells by column."""
        colour = self._palette.of(s.identity, s.state in ("matched", "unknown"))
        camera = self._cameras.get(s.camera)
        live = camera is not None and camera.info is not None and camera.info.live
        first, last = time_of(s, s.first, live), time_of(s, s.last, live)
        if not live:  # tenths of seconds only where there is room: in the plain lines
            first, last = first[:-2], last[:-2]
        return {
            "camera": Text(s.camera),
            "track": Text(str(s.track)),
            "who": Text(s.who, style=f"bold {colour}" if s.identity is not None else colour),
            "score": Text("" if s.score is None else f"{s.score:.3f}"),
            "threshold": Text("" if s.threshold is None else f"{s.threshold:.3f}"),
            "faces": Text(str(s.faces or 0)),
            "fused": Text(str(s.frames or "")),
            "seen": Text(f"{first}-{last}" if s.ended else f"{first}-"),
        }


def _columns(width: int) -> list[str]:
    """The columns of the table of sightings that fit a terminal of this many characters."""
    if width < 50:
        return ["who", "score", "seen"] if width >= 40 else ["who", "seen"]
    if width < 76:
        return ["camera", "who", "score", "seen"]
    shown = ["camera", "track", "who", "score", "threshold", "faces", "seen"]
    return shown if width < 100 else [*shown[:-1], "fused", "seen"]


def _camera_width(width: int) -> int:
    """The most characters of a camera's name on a terminal of this width."""
    return 12 if width < 100 else 24


def _standing(camera: _Camera, now: float) -> tuple[Text | ProgressBar, Text]:
    """How a camera is doing: a bar or its state, and figures or the reason of its trouble."""
    passed = now - camera.since
    if camera.state in _TROUBLE or camera.info is None:
        lasting = clock(now - camera.changed)[:-2]
        style = "yellow" if camera.state in _TROUBLE else ""
        return Text(f"{camera.state} {lasting}", style=style), Text(_reason(camera), style=style)
    rate, read = camera.rates(now)
    done = camera.done
    if camera.info.live:
        words = f"up {clock(passed)[:-2]}, {rate:.1f} of {read:.1f} fps"
        return Text(f"live, {camera.state}"), Text(words)
    if done is None:
        return Text(camera.state), Text(f"{clock(camera.pts)[:-2]}, {rate:.1f} fps")
    words = f"{100 * done:3.0f} %, {rate:.1f} fps"
    if 0.01 < done < 1:
        words += f", {clock(passed * (1 - done) / done)[:-2]} left"
    return ProgressBar(total=1.0, completed=done, width=20), Text(words)


def _reason(camera: _Camera) -> str:
    """Why it is in this state, without the address, which is long and known."""
    return re.sub(r"^\S+://\S+: ", "", camera.detail)


def time_of(s: Sighting, pts: float, live: bool) -> str:
    """A moment of a sighting: of the wall clock here if it is live, else of the recording."""
    return f"{s.wall(pts).astimezone():%H:%M:%S}" if live else clock(pts)


def sighting_line(s: Sighting, live: Collection[str] = ()) -> str:
    """One finished sighting as a plain line; live: the cameras whose times are wall clock."""
    score = ""
    if s.score is not None and s.threshold is not None:
        score = f", score {s.score:.3f} (threshold {s.threshold:.3f})"
    first, last = (time_of(s, pts, s.camera in live) for pts in (s.first, s.last))
    return f"{s.camera} track {s.track}: {s.who}, {first}-{last}{score}"


def closing_lines(sightings: list[Sighting], live: Collection[str] = ()) -> list[str]:
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
    width = max(cell_len(name) for name, _ in rows)
    padded = [(name + " " * (width - cell_len(name)), person) for name, person in rows]
    return [_closing_line(name, person, live) for name, person in padded]


def _closing_line(name: str, person: Person, live: Collection[str]) -> str:
    cameras = list(dict.fromkeys(s.camera for s in person.sightings))
    line = f"{name}  seen {len(person.sightings)}x"
    if len(cameras) == 1 or all(camera in live for camera in cameras):
        # Several recordings have no clock in common.
        first = min(person.sightings, key=lambda s: s.wall(s.first))
        last = max(person.sightings, key=lambda s: s.wall(s.last))
        on_wall = first.camera in live
        line += f", {time_of(first, first.first, on_wall)}-{time_of(last, last.last, on_wall)}"
    thresholds = [s.threshold for s in person.sightings if s.threshold is not None]
    if person.best is not None and thresholds:
        line += f", best score {person.best:.3f} (threshold {thresholds[-1]:.3f})"
    return f"{line}, {', '.join(cameras)}"
