"""What the sighting store and the gallery have to tell each other: who is who, who is gone."""

from __future__ import annotations

from collections.abc import Collection

from .gallery import Gallery

GONE = ("remove", "purge")


def erased_people(gallery: Gallery, uids: Collection[str]) -> frozenset[str]:
    """Those of these gallery ids whose people were erased from this gallery, by its audit trail.

    Ids that the gallery never knew are another gallery's, and not among them.
    """
    if not uids:
        return frozenset()
    gone = {entry.id for entry in gallery.history() if entry.action in GONE}
    return frozenset(gone & set(uids))
