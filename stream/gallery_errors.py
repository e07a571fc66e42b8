"""What a database says when it fails, in the gallery's own errors and in words."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from .. import GalleryError, GalleryUnreadable
from .redact import HIDDEN, redact

_READ_ONLY = ("25006", "42501")
_FULL = ("53100", "58030")
_BUSY = ("55P03", "40P01", "40001")


def explain(
    error: DBAPIError, place: str, patience: float, secret: str | None = None
) -> GalleryError:
    """Our error for one of the database's; patience: seconds that a writer waits for another.

    secret: the password in use, which is taken out of what the database says.
    """
    if isinstance(error.orig, sqlite3.Error):
        return explain_sqlite(error.orig, place, patience)
    state = getattr(error.orig, "sqlstate", None) or ""  # PostgreSQL's five characters
    if state in _BUSY:
        return _locked(place, patience)
    reason = (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
    if secret:
        reason = reason.replace(secret, HIDDEN)
    reason = redact(reason)
    if state in _READ_ONLY:
        return _read_only(place)
    if state in _FULL:
        return _full(place, reason)
    return GalleryUnreadable(f"the gallery {place} cannot be used: {reason}")


def explain_sqlite(error: sqlite3.Error, place: str, patience: float) -> GalleryError:
    """The same for what SQLite's driver raises."""
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _locked(place, patience)
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return GalleryUnreadable(f"{place} is not a gallery, or is damaged: {error}")
    if code.startswith("SQLITE_READONLY"):
        return _read_only(place)
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return _full(place, str(error))
    return GalleryUnreadable(f"{place} cannot be used: {error}")


def _locked(place: str, patience: float) -> GalleryError:
    return GalleryUnreadable(
        f"{place} is locked by another program for more than {patience:g} s: try again"
    )


def _read_only(place: str) -> GalleryError:
    return GalleryError(f"{place} is read-only: nothing was changed; check its permissions")


def _full(place: str, reason: str) -> GalleryError:
    return GalleryError(
        f"the disk under {place} is full or failing: what was stored is intact; "
        f"free space and repeat ({reason})"
    )
