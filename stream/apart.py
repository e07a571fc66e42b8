"""Cameras that cannot show one person at the same moment, as the operator declares them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from .sightings import Sighting

log = logging.getLogger(__name__)


class Apart:
    """Knows of each camera which others are apart from it, and who may be in view of two at once.

    That is held to among live cameras only: recordings are read each at its own pace, so what
    is decided on one must not depend on how far another has come.
    """

    def __init__(self, groups: Iterable[Sequence[str]], seconds: float) -> None:
        """groups: of cameras that share no view; seconds: the least time from one to another."""
        self._seconds = seconds
        self._others: dict[str, set[str]] = {}
        for group in groups:
            for camera in group:
                self._others.setdefault(camera, set()).update(set(group) - {camera})
        self._live: set[str] = set()
        self._told: set[str] = set()

    def begin(self, camera: str, *, live: bool) -> None:
        """Note what a camera is from now on."""
        if live:
            self._live.add(camera)
            return
        self._live.discard(camera)
        if camera in self._others and camera not in self._told:
            self._told.add(camera)
            log.warning("camera %s is a recording: match.apart does not hold for it", camera)

    def others(self, camera: str) -> tuple[str, ...]:
        """The live cameras that are apart from a live one, by name."""
        if camera not in self._live:
            return ()
        return tuple(sorted(self._others.get(camera, set()) & self._live))

    def overlap(self, one: Sighting, other: Sighting) -> bool:
        """Whether two tracks of cameras that are apart cannot be of one person.

        A track is taken to be in view from its first face to its newest, by the wall clock of its
        camera's frames, however far one camera lags behind the other.
        """
        return (
            one.started.captured_at - self._seconds <= other.seen.captured_at
            and other.started.captured_at - self._seconds <= one.seen.captured_at
        )
