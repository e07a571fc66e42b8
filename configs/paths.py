"""Where facestream keeps what lasts: the data folder and the files in it."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path


def data_folder() -> Path:
    """The folder of $FACESTREAM_DATA, or this system's data folder of the user. Not made here."""
    chosen = os.environ.get("FACESTREAM_DATA")
    return Path(chosen).expanduser() if chosen else user_data_path("facestream", appauthor=False)


def gallery_path() -> Path:
    """The gallery (SQLite) that is used where none is named."""
    return data_folder() / "gallery.db"


def journal_path() -> Path:
    """The event journal (SQLite) that is used where none is named."""
    return data_folder() / "journal.db"


def sightings_path() -> Path:
    """The sighting store (SQLite) that is used where none is named."""
    return data_folder() / "sightings.db"


def keys_folder() -> Path:
    """The folder of CURVE keys that is used where none is named."""
    return data_folder() / "keys"
