"""What enrolment says of each face that it was given, and of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from .. import EnrolmentRefused, GalleryEmpty

Status = Literal["enrolled", "known", "refused"]

Cause = Literal[
    "unreadable",
    "no face",
    "several people",
    "too small",
    "low quality",
    "bad name",
    "duplicate photo",
    "looks like somebody else",
    "out of date",
    "too few frames",
]
"""Why something is refused, in few words, by which a summary counts."""


class Refusal(EnrolmentRefused):
    """A refusal with its cause; the message gives the reason in words."""

    def __init__(self, cause: Cause, reason: str) -> None:
        """cause: for counting; reason: for people."""
        super().__init__(reason)
        self.cause = cause


class PhotoResult(msgspec.Struct, frozen=True):
    """What became of one photo, clip or template.

    source: as the user knows it (path below the folder). identity: as whom it is in the gallery, or
    would have been. status: enrolled, known (the same photo was enrolled before), or refused for
    `reason`, of the kind `cause`. face_height in px of the photo and quality in the pack's unit are
    None where nothing was measured. remark: what else there is to say of an enrolled one, in words.
    """

    source: str
    identity: str
    status: Status
    reason: str = ""
    face_height: float | None = None
    quality: float | None = None
    cause: Cause | None = None
    remark: str = ""


class EnrolmentSummary(msgspec.Struct, frozen=True):
    """What became of a folder or of one photo, photo by photo in the order of their names."""

    path: str
    results: tuple[PhotoResult, ...]

    def count(self, status: Status) -> int:
        """How many photos ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def refusals(self) -> tuple[PhotoResult, ...]:
        """The refused photos."""
        return tuple(result for result in self.results if result.status == "refused")

    @property
    def causes(self) -> dict[str, int]:
        """How many were refused for which cause, most frequent first."""
        return dict(Counter(str(one.cause) for one in self.refusals).most_common())

    def require_somebody(self) -> None:
        """Raise GalleryEmpty, with the first reason, when not one photo is in the gallery."""
        if len(self.refusals) == len(self.results):
            first, count = self.refusals[0], len(self.results)
            which = "the photo was" if count == 1 else f"all {count} photos were"
            raise GalleryEmpty(
                f"nobody was enrolled from {self.path}: {which} refused ({first.source}: "
                f"{first.reason})"
            )


Progress = Callable[[int, int, PhotoResult], None]
"""Called after each photo with how many are done, how many there are, and its result."""


def refused(
    source: str, identity: str, refusal: EnrolmentRefused, cause: Cause = "bad name"
) -> PhotoResult:
    """The result of a refusal; `cause` where it does not say its own, as those of names do not."""
    own = refusal.cause if isinstance(refusal, Refusal) else cause
    return PhotoResult(source, identity, "refused", str(refusal), cause=own)


def shown(text: str) -> str:
    """A path or name as it can be printed: bytes that are no text become question marks."""
    return text.encode(errors="replace").decode()
