"""What a database says when it fails, in words and in the errors of what it holds."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from .. import FacestreamError, GalleryError, GalleryMissing, GalleryUnreadable
from .gallery_tables import REVISION, REVISION_TABLE
from .redact import HIDDEN, redact


@dataclass(frozen=True)
class Kind:
    """What a database holds, and how its errors are called.

    error: it cannot be changed; unreadable: not even read; missing: there is none. versions: folder
    of its migrations; personal: tables that space is freed in when somebody is erased, children
    first.
    """

    noun: str
    file: str
    hint: str
    error: type[FacestreamError]
    unreadable: type[FacestreamError]
    missing: type[FacestreamError]
    revision: str
    revision_table: str
    versions: str
    personal: tuple[str, ...]


GALLERY = Kind(
    noun="gallery",
    file="gallery.db",
    hint="make one with `facestream enroll FOLDER`",
    error=GalleryError,
    unreadable=GalleryUnreadable,
    missing=GalleryMissing,
    revision=REVISION,
    revision_table=REVISION_TABLE,
    versions="versions",
    personal=("negative", "embedding", "sample", "identity"),
)

_READ_ONLY = ("25006", "42501")
_FULL = ("53100", "58030")
_BUSY = ("55P03", "40P01", "40001")


def explain(
    error: DBAPIError,
    place: str,
    patience: float,
    secret: str | None = None,
    kind: Kind = GALLERY,
) -> FacestreamError:
    """Our error for one of the database's; patience: seconds that a writer waits for another.

    secret: the password in use, which is taken out of what the database says.
    """
    if isinstance(error.orig, sqlite3.Error):
        return explain_sqlite(error.orig, place, patience, kind)
    state = getattr(error.orig, "sqlstate", None) or ""  # PostgreSQL's five characters
    if state in _BUSY:
        return _locked(place, patience, kind)
    reason = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    if secret:
        reason = reason.replace(secret, HIDDEN)
    reason = redact(reason)
    if state in _READ_ONLY:
        return _read_only(place, kind)
    if state in _FULL:
        return _full(place, reason, kind)
    return kind.unreadable(f"the {kind.noun} {place} cannot be used: {reason}")


def explain_sqlite(
    error: sqlite3.Error, place: str, patience: float, kind: Kind = GALLERY
) -> FacestreamError:
    """The same for what SQLite's driver raises."""
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _locked(place, patience, kind)
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return kind.unreadable(f"{place} is not a {kind.noun}, or is damaged: {error}")
    if code.startswith("SQLITE_READONLY"):
        return _read_only(place, kind)
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return _full(place, str(error), kind)
    return kind.unreadable(f"{place} cannot be used: {error}")


def _locked(place: str, patience: float, kind: Kind) -> FacestreamError:
    return kind.unreadable(
        f"{place} is locked by another program for more than {patience:g} s: try again"
    )


def _read_only(place: str, kind: Kind) -> FacestreamError:
    return kind.error(f"{place} is read-only: nothing was changed; check its permissions")


def _full(place: str, reason: str, kind: Kind) -> FacestreamError:
    return kind.error(
        f"the disk under {place} is full or failing: what was stored is intact; "
        f"free space and repeat ({reason})"
    )
