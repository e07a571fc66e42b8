"""What a pack's features depend on, in words: the key of whatever is kept of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .feature_store import fingerprint_parts

if TYPE_CHECKING:
    from .card import Card


def feature_words(card: Card) -> str:
    """Detector, embedder and quality of a pack, each with a mark of its settings and files.

    The marks change with whatever changes a box, an embedding or a quality: every field of the
    card's three sections and the checksums of their files. Heads count by their checksum alone, not
    by what is told of them.
    """
    quality = card.quality
    files = {
        "detector": card.checksum(card.detector.file),
        "embedder": card.checksum(card.embedder.file),
        "quality": "" if quality.file is None else card.checksum(quality.file),
    }
    if quality.head is not None:
        files["quality"] += quality.head.sha256
    specs = {
        "detector": repr(card.detector),
        "embedder": repr(card.embedder),
        "quality": repr(replace(quality, head=None)),
    }
    marks = {what: fingerprint_parts([(specs[what], files[what].encode())])[:12] for what in specs}
    return (
        f"detector {card.detector.kind} {marks['detector']}, embedder {marks['embedder']}, "
        f"quality {quality.kind} {marks['quality']}"
    )
