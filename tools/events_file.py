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

    def __init__(self, folder: Path, *, append: bool = False) -> None:
        """Create the folder where it is missing and start an empty file in it.

        append: go on in the file that is there, since the run goes on that wrote it; what that run
        makes a second time is not written again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "events.jsonl"
        self._written = ids_in(self.path) if append else frozenset()
        self._file = self.path.open("ab" if append else "wb", buffering=0)
        self._encoder = msgspec.json.Encoder()

    def source(self, info: SourceInfo) -> None:
        """Sources are in the events themselves (camera.state)."""

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Frames are not written."""

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Append one line."""
        if event.id not in self._written:
            self._file.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()


class _Line(msgspec.Struct):
    id: str


def ids_in(path: Path) -> frozenset[str]:
    """Ids of the events in a file; of none where there is none, or it was written by others."""
    try:
        lines = path.read_bytes().splitlines()
        return frozenset(msgspec.json.decode(line, type=_Line).id for line in lines)
    except (FileNotFoundError, msgspec.DecodeError):
        return frozenset()
