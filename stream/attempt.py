"""What the part that decides knows of a camera's newest attempt, and its own part of a mark."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from .flow import Begin
from .journal import Checkpoint


@dataclass
class Attempt:
    """A camera's newest attempt. told: its state events so far; reached, answered: positions.

    repeats: sequence of the last event that a resumed run may repeat; None once one was new. mark:
    the newest one, until it is stored; marked_at: when one was, in seconds of a steady clock.
    """

    begin: Begin
    fingerprint: str
    run: str
    first_track: int
    repeats: int | None = None
    mark: Checkpoint | None = None
    marked_at: float | None = None
    told: int = 0
    reached: int = -1
    answered: int = -1
    finished: bool = False


class OwnMark(msgspec.Struct, frozen=True):
    """Deciding's own part of a mark. sightings: as `DecideStage.snapshot` gives them."""

    first_track: int
    sightings: bytes


OWN_MARK = msgspec.msgpack.Decoder(OwnMark)
