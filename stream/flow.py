"""What passes between the parts of a running system, whether they share a thread or an ocean.

One camera's video is a stream of works, cut into attempts. `Begin` opens an attempt and travels
down to the part that decides, which answers `Resume`: where to go on. Then come works, numbered
from 0 by the source: what a part makes of a work keeps that work's position. `Done` travels up as
works are decided: a source has at most a window of works under way, so no queue outgrows it. A part
that lost its memory answers works it cannot place with `Restart`, and the source begins again.

A `Mark` is a barrier (Carbone et al., Lightweight Asynchronous Snapshots, 2015): each part adds its
own state on the way down, and the part that decides stores them all in one transaction with the
events decided so far. A recorded camera resumes from its newest mark: every frame after it is
processed again, and makes the same events, with the same ids, which the journal knows already.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .records import Frame, Observed, Tracked, TrackEnd
from .watcher import SourceInfo

State = Literal["connecting", "running", "stalled", "reconnecting", "ended", "failed"]


class StateChange(msgspec.Struct, frozen=True):
    """A camera changed state; the fields are those of events.CameraState.

    detail: one line without credentials; frames: read so far; dropped: frames left out, by reason.
    """

    camera: str
    state: State
    detail: str
    frames: int
    dropped: dict[str, int]


class Begin(msgspec.Struct, frozen=True):
    """A camera's stream begins, or begins again.

    attempt: different every time. live: nothing is to be resumed. fingerprint: of a recorded
    source, what it reads and how (32 hexadecimal digits); another one is another run. session:
    names the run of the whole system, where its nodes may be started again one by one: a camera
    comes to its end once in a session.
    """

    camera: str
    attempt: str
    live: bool
    fingerprint: str
    session: str = ""


class Resume(msgspec.Struct, frozen=True):
    """Where a camera's stream is to go on.

    run: names the run in event ids; the same in every attempt of a recorded run. first_track: the
    first track id to hand out where `states` does not say. states: what each part put in the mark
    that is resumed from, by its name; empty where there is none. over: the camera has come to its
    end already in this session, so that nothing is to be sent.
    """

    camera: str
    attempt: str
    epoch: str
    run: str
    first_track: int
    states: dict[str, bytes] = {}
    over: bool = False


class TracksEnded(msgspec.Struct, frozen=True):
    """All tracks of a camera ended, because its source did."""

    camera: str
    ends: tuple[TrackEnd, ...]


class Mark(msgspec.Struct, frozen=True):
    """A point that a recorded camera can resume from; states as in Resume."""

    states: dict[str, bytes] = {}


class Finish(msgspec.Struct, frozen=True):
    """The camera's run is over: nothing is left to resume. how: one line for people.

    dropped: frames left out in all, by reason.
    """

    how: str
    dropped: dict[str, int] = {}


Item = Frame | Tracked | Observed | SourceInfo | StateChange | TracksEnded | Mark | Finish


class Work(msgspec.Struct, frozen=True, eq=False):
    """One item of a camera's attempt, in the order of its positions."""

    camera: str
    attempt: str
    position: int
    item: Item


class Done(msgspec.Struct, frozen=True):
    """Every work up to `position` was decided and, where it made events, they are stored."""

    camera: str
    attempt: str
    position: int


class Restart(msgspec.Struct, frozen=True):
    """A part below knows nothing of this attempt: begin again. why: one line for people."""

    camera: str
    attempt: str
    why: str


class Refuse(msgspec.Struct, frozen=True):
    """The camera cannot be taken at all, and trying again will not help. why: as in Restart."""

    camera: str
    attempt: str
    why: str


Down = Begin | Work
Up = Resume | Done | Restart | Refuse
