"""One colour per identity, the same in the video and on the page, safe for colour-blind eyes."""

from __future__ import annotations

from zlib import crc32

COLOURS = (
    "#56b4e9", "#e69f00", "#2fbf8f", "#cc79a7", "#f0e442", "#5b8def", "#e8743b", "#9fd356",
)  # fmt: skip
"""Okabe-Ito, with its dark blue, green and vermilion lightened to stand out on dark video."""
UNKNOWN = "#b6bcc4"
UNDECIDED = "#8b929c"


class Palette:
    """Gives identities colours: the name's own by checksum, or the next that is free."""

    def __init__(self) -> None:
        """Start with every colour free."""
        self._given: dict[str, str] = {}

    def of(self, identity: str | None, decided: bool = True) -> str:
        """Colour "#rrggbb" of an identity, of the unknown, or of the undecided."""
        if identity is None:
            return UNKNOWN if decided else UNDECIDED
        if identity not in self._given:
            start = crc32(identity.encode()) % len(COLOURS)
            turned = COLOURS[start:] + COLOURS[:start]
            free = [c for c in turned if c not in self._given.values()]
            self._given[identity] = (free or turned)[0]
        return self._given[identity]
