"""Which cameras have come to their end while their run goes on: they are not to be read again.

The journal remembers it, since a node may be killed before the answer to the end was heard, or the
whole run while other recorded cameras are not at their end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from .flow import Begin
from .journal import Checkpoint, Journal

log = logging.getLogger(__name__)


class Endings:
    """Knows which cameras of a run are over; what is to be stored for that is handed back."""

    def __init__(self, journal: Journal, cameras: Iterable[str]) -> None:
        """cameras: names of those of the run. Make it before the run stores anything."""
        self._journal = journal
        self._cameras = tuple(cameras)
        stored = journal.checkpoints()
        marked = [stored[camera] for camera in self._cameras if camera in stored]
        # A mark is left only where a run was killed: this one goes on with it.
        self._goes_on = any(not checkpoint.live for checkpoint in marked)
        self._begun: set[str] = set()

    def look_up(self, begin: Begin, fingerprint: str) -> tuple[bool, dict[str, Checkpoint | None]]:
        """Whether a camera that begins is over already, and what is to be stored now."""
        name, session = begin.camera, begin.session.encode()
        is_first = name not in self._begun
        self._begun.add(name)
        over = self._journal.checkpoint(over_key(name))
        if over is None:
            return False, {}
        if session and over.state == session:
            return True, {}
        goes_on = self._goes_on and is_first and not begin.live
        if goes_on and over.fingerprint == fingerprint:
            log.warning(
                "camera %s had come to its end when the run was killed, and is not read again", name
            )
            return True, {over_key(name): msgspec.structs.replace(over, state=session)}
        return False, {over_key(name): None}

    def finish(
        self, begin: Begin, fingerprint: str, run: str, *, others: bool
    ) -> dict[str, Checkpoint | None]:
        """What to store at the end of a camera; others: recorded ones are not at theirs."""
        self._goes_on = self._goes_on and others
        if begin.session or (others and not begin.live):
            session = begin.session.encode()
            return {over_key(begin.camera): Checkpoint(fingerprint, run, begin.live, session, {})}
        return {} if others else {over_key(camera): None for camera in self._cameras}


def over_key(camera: str) -> str:
    """Where the journal keeps the session that the camera has come to its end in."""
    return f"{camera}/over"


def outline_key(camera: str) -> str:
    """Where the journal keeps a camera's outline, beside its mark; no camera's name has a slash."""
    return f"{camera}/open"
