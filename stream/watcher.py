"""What the pipeline tells those who look on: tables, files, videos, pages.

Watchers are for people; integrators subscribe to events instead. A watcher never changes what the
pipeline decides, and is called from the pipeline's own thread in the order of the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from .events import AnyEvent
from .records import Frame, FrameRef, Template, Tracked


class SourceInfo(NamedTuple):
    """What is known of a source once it is open. url carries no credentials.

    fps, frames and duration (seconds) are None where the source does not say (live cameras).
    """

    camera: str
    url: str
    live: bool
    width: int
    height: int
    fps: float | None
    frames: int | None
    duration: float | None


class Label(NamedTuple):
    """What to write beside a face now: identity None means unknown if decided, else undecided.

    ambiguous: all whom it might be, where that is in doubt.
    """

    identity: str | None
    decided: bool
    score: float | None
    ambiguous: tuple[str, ...] = ()


class Watcher(Protocol):
    """Looks on."""

    wants_frames: bool
    """Whether it needs the pixels of frames, which are let go early when nobody does."""

    def source(self, info: SourceInfo) -> None:
        """A source was opened (again)."""
        ...

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """A frame was decided; labels by track id. A FrameRef where no watcher wants pixels, or
        they are in another process."""
        ...

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """An event was published; the template behind a decision, with its evidence pictures."""
        ...

    def close(self) -> None:
        """The run is over, or was interrupted: write what there is."""
        ...
