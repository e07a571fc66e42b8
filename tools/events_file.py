"""events.jsonl: every event of a run, one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..stream.events import AnyEvent
from ..stream.records import Frame, FrameRef, Template, Tracked
from ..stream.watcher import Label, SourceInfo


class EventsFile:
    """Watcher that writes FOLDER/events.jsonl, each line with one unbuffered write.

    A reader, or an interrupt, therefore only ever sees whole lines.
    """

    wants_frames = False

    def __init__(self, folder: Path) -> None:
        """Create the folder where it is missing and start an empty file in it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "events.jsonl"
        self._file = self.path.open("wb", buffering=0)
        self._encoder = msgspec.json.Encoder()

    def source(self, info: SourceInfo) -> None:
        """Sources are in the events themselves (camera.state)."""

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Frames are not written."""

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Append one line."""
        self._file.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()
