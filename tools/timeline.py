"""The timeline of one camera on the page: lanes of who was in view when, under marks of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from .palette import Palette
from .summary import Sighting, clock, group

MOST_LANES = 8
"""Sightings without a name that get a lane each; more of them share lanes."""
_STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_GAP = 0.004


class Bar(NamedTuple):
    """A piece of a lane: x and width in permille of the span, colour, tooltip, link to its card.

    decided: whether it was named or called unknown by then.
    """

    x: float
    width: float
    colour: str
    title: str
    decided: bool
    link: str


class Lane(NamedTuple):
    """One row of a timeline."""

    name: str
    colour: str
    bars: list[Bar]


class Tick(NamedTuple):
    """A mark of time: percent of the span, and what it says."""

    x: float
    text: str


class Axis(NamedTuple):
    """The time of one camera, in seconds of its stream.

    began: wall clock (UTC) at second 0 of a live camera, whose times are told by it; None for a
    recording, whose times are its own.
    """

    first: float
    last: float
    began: datetime | None

    def text(self, pts: float) -> str:
        """A moment for people: 00:03.2 into a recording, 08:30:04 (UTC) of a live camera."""
        if self.began is None:
            return clock(pts)
        return f"{self.began + timedelta(seconds=pts):%H:%M:%S}"

    def share(self, pts: float) -> float:
        """How far a moment is along the axis, 0..1."""
        return (pts - self.first) / (self.last - self.first)

    def ticks(self) -> list[Tick]:
        """At most nine marks at round times; fewer of the wall clock's, which are longer."""
        length, most = self.last - self.first, 8 if self.began is None else 5
        step = next((step for step in _STEPS if length / step <= most), _STEPS[-1])
        zero = self.began.timestamp() % 86400 if self.began is not None else 0.0
        first = np.ceil((self.first + zero) / step) * step - zero
        marks = np.arange(first, self.last + step / 100, step)
        return [Tick(100 * self.share(float(m)), self._mark(float(m), step)) for m in marks]

    def _mark(self, pts: float, step: float) -> str:
        if self.began is None:
            return clock(pts)[:-2]
        at = self.began + timedelta(seconds=pts + 0.5)  # the nearest second: pts is not exact
        return f"{at:%d %b}" if step >= 86400 else f"{at:%H:%M:%S}" if step < 60 else f"{at:%H:%M}"


class Timeline(NamedTuple):
    """One camera's lanes and marks."""

    camera: str
    live: bool
    lanes: list[Lane]
    ticks: list[Tick]


def axis_of(sightings: Sequence[Sighting], span: tuple[float, float], live: bool) -> Axis:
    """The axis over one camera's sightings and the span (first, last) of its frames, in s."""
    first = min([span[0], *(s.first for s in sightings)])
    last = max([span[1], *(s.last for s in sightings), first + 1.0])
    return Axis(first, last, sightings[0].began if live and sightings else None)


def build_timeline(
    camera: str,
    sightings: Sequence[Sighting],
    axis: Axis,
    live: bool,
    palette: Palette,
    links: Mapping[tuple[str, int], str],
) -> Timeline:
    """A lane per name; one per sighting without a name, or few shared ones if there are many.

    sightings: of this camera; links: address of a sighting's card, by (camera, track).
    """

    def bars(s: Sighting) -> list[Bar]:
        return _bars(s, axis, palette, links[s.camera, s.track])

    lanes = []
    for person in group(list(sightings)):
        if person.identity is not None:
            pieces = [bar for s in person.sightings for bar in bars(s)]
            lanes.append(Lane(person.identity, palette.of(person.identity), pieces))
        elif len(person.sightings) <= MOST_LANES:
            for s in person.sightings:
                colour = palette.of(None, s.state == "unknown")
                lanes.append(Lane(f"{s.who} #{s.track}", colour, bars(s)))
        else:
            for row in pack(person.sightings, _GAP * (axis.last - axis.first)):
                pieces = [bar for s in row for bar in bars(s)]
                lanes.append(Lane("no name", palette.of(None), pieces))
    return Timeline(camera, live, lanes, axis.ticks())


def pack(sightings: Sequence[Sighting], gap: float) -> list[list[Sighting]]:
    """Rows of sightings that do not overlap, at least gap s apart; as few rows as that takes."""
    rows: list[list[Sighting]] = []
    for s in sorted(sightings, key=lambda s: s.first):
        free = next((row for row in rows if row[-1].last + gap <= s.first), None)
        if free is None:
            rows.append([s])
        else:
            free.append(s)
    return rows


def _bars(s: Sighting, axis: Axis, palette: Palette, link: str) -> list[Bar]:
    """A sighting as pieces, one per name it went by, from its first face to its last."""
    turns: list[tuple[float, str | None, bool]] = [(s.first, None, False)]
    for point in s.points:
        if (point.identity, point.decided) != turns[-1][1:]:
            turns.append((point.pts, point.identity, point.decided))
    ends = [start for start, _, _ in turns[1:]] + [s.last]
    bars = []
    for (start, identity, decided), end in zip(turns, ends, strict=True):
        name = identity or ("unknown" if decided else "undecided")
        x = 1000 * axis.share(start)
        width = max(2.0, 1000 * axis.share(end) - x)
        title = f"{name}, track {s.track}: {axis.text(start)} to {axis.text(end)}"
        bars.append(Bar(x, width, palette.of(identity, decided), title, decided, link))
    return bars
