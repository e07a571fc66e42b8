"""What the sighting store and the gallery have to tell each other: who is who, who is gone."""

from __future__ import annotations

from collections.abc import Collection

from .. import UnknownIdentity
from ..configs.schema import SightingsConfig
from .gallery import Gallery
from .gallery_records import AuditEntry

GONE = ("remove", "purge")

KEEP_ALL = SightingsConfig(keep_days=None, template_days=None, crop_days=None)
"""For a purge of erased people alone: nothing is too old."""


def uid_of(gallery: Gallery, name: str, version: int) -> str:
    """The gallery's id of whoever had a name at a version of it, and has it still; "" for nobody.

    A name may have gone over to somebody else since, who was not seen then.
    """
    try:
        details = gallery.show(name)
    except UnknownIdentity:
        return ""
    since = [one.version for one in details.history if _renamed(one)]
    since += [one.version for one in details.history[:1]]
    return details.identity.id if max(since, default=0) <= version else ""


def _renamed(entry: AuditEntry) -> bool:
    return entry.action == "edit" and "name" in entry.details.split(", ")


def erased_people(gallery: Gallery, uids: Collection[str]) -> frozenset[str]:
    """Those of these gallery ids whose people were erased from this gallery, by its audit trail.

    Ids that the gallery never knew are another gallery's, and not among them.
    """
    if not uids:
        return frozenset()
    gone = {entry.id for entry in gallery.history() if entry.action in GONE}
    return frozenset(gone & set(uids))
