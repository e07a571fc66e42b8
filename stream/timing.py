"""The clock of one camera: sequence numbers, stream time and wall clock of its frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

# A frame this far behind its predecessor starts a new stretch of time; a smaller step back is
# a muxing flaw and costs one frame its exact time only.
_STEP_BACK = 1.0
# A live stream that gains more than this on the wall clock between two frames has set its clock.
_STEP_AHEAD = 10.0
_NUDGE = 1e-3
# How fast the estimate of capture time may drift up, seconds per second: ten times the error of a
# bad quartz, a tenth of what a viewer would notice in an hour's recording.
_DRIFT = 1e-3
_RELOCK = 1.0


class Stamp(NamedTuple):
    """sequence from 0; pts in seconds, strictly increasing; captured_at in seconds since 1970."""

    sequence: int
    pts: float
    captured_at: float


class Timeline:
    """Numbers and times the frames of one camera for a whole run, over all reconnections.

    pts: recorded sources keep the file's own time from the start of the file; live sources begin at
    0 with the first frame, follow the stream's clock, and after a reconnection go on as much later
    as the wall clock went on. A frame without a time is placed one frame interval (recorded) or the
    wall-clock distance (live) after its predecessor.

    captured_at: recorded, the wall clock when the source was opened plus the frame's time in the
    file. Live, the stream's clock mapped onto the wall clock: the smallest delay between the two
    seen so far, which rises by at most 1 ms a second, so that a frame held up by the network keeps
    its own time. It is never later than the arrival and holds the camera's constant latency.
    """

    def __init__(
        self,
        *,
        live: bool,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a run; `wall` and `clock` are the wall clock and a steady clock, in seconds."""
        self._live = live
        self._wall = wall
        self._clock = clock
        self._interval = 0.04
        self._shift: float | None = None
        self._next = 0
        self._pts: float | None = None
        self._at = 0.0
        self.opened_at = 0.0
        """When the source was opened by the wall clock, in seconds; set it to repeat a run."""
        self._offset: float | None = None

    def begin(self, interval: float, origin: float | None = None) -> None:
        """Tell that the source was opened (again).

        interval: seconds between frames where frames carry no time; origin: the stream time that is
        0 for a recorded source, None for that of its first frame.
        """
        self._interval = interval
        self._shift = None if origin is None or self._live else -origin
        self.opened_at = self._wall()
        self._offset = None

    def stamp(self, raw: float | None) -> Stamp:
        """Number and time the next decoded frame; raw: its time in the stream, None if unknown."""
        at = self._clock()
        pts = self._advance(raw, at - self._at)
        captured_at = self._arrived(pts, at - self._at) if self._live else self.opened_at + pts
        stamp = Stamp(self._next, pts, captured_at)
        self._next += 1
        self._pts, self._at = pts, at
        return stamp

    def _advance(self, raw: float | None, elapsed: float) -> float:
        """Return the pts of a frame `elapsed` seconds after the last one, later than that one's."""
        step = max(elapsed, _NUDGE) if self._live else self._interval
        expected = 0.0 if self._pts is None else self._pts + step
        if raw is None:
            return expected
        if self._shift is None:
            self._shift = expected - raw
        pts = raw + self._shift
        if self._pts is None:
            return pts
        ahead = self._live and pts - self._pts > elapsed + _STEP_AHEAD
        if ahead or pts < self._pts - _STEP_BACK:
            self._shift = expected - raw
            return expected
        return max(pts, self._pts + _NUDGE)

    def _arrived(self, pts: float, elapsed: float) -> float:
        offset = self._wall() - pts
        if self._offset is None or offset - self._offset > _RELOCK:
            self._offset = offset
        else:
            self._offset = min(offset, self._offset + _DRIFT * elapsed)
        return pts + self._offset
