"""What was seen of strangers here: the best score of each unknown track, and nothing else.

Beside the journal, in a file of its own: no face, no template, no name, no track number. From it
thresholds are moved to the people who really pass, and unknown tracks are counted, which turns
alerts per week into a rate.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import JournalError
from ..models.fusion import Doubles
from .events import AnyEvent, SightingEnded
from .records import Frame, FrameRef, Template, Tracked
from .watcher import Label, SourceInfo

KEEP_DAYS = 90.0
"""Scores older than this are deleted: who passes changes with the season."""
MOST = 100_000
"""So many are kept at the most."""
WEEK = 7 * 86400.0
DAY = 86400.0
BUSY_SECONDS = 5.0

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
    number INTEGER PRIMARY KEY,
    setting TEXT NOT NULL,
    camera TEXT NOT NULL,
    gallery_version INTEGER NOT NULL,
    best_score REAL NOT NULL,
    share REAL NOT NULL,
    ended_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS seen_by_setting ON seen (setting, ended_at);
"""


class Seen(NamedTuple):
    """shares (K,): what the pack's strangers say of each best score (models/open_set).

    per_week: unknown tracks of a camera in a week; None before a day was counted.
    """

    shares: Doubles
    per_week: float | None


def nothing_seen() -> Seen:
    """Where no unknown tracks are kept."""
    return Seen(np.zeros(0), None)


class SeenScores:
    """The file, and the watcher that writes it."""

    wants_frames = False

    def __init__(self, path: Path, setting: str, *, clock: Callable[[], float] = time.time) -> None:
        """setting: pack, aggregator and score in words; scores of others are left alone.

        The file is made, readable by its owner alone, with the first score.
        """
        self.path = path
        self.judge: Callable[[float], float | None] = lambda score: None
        """What the pack's strangers say of a best score (`FittedRules.share`); None: nothing."""
        self._setting, self._clock = setting, clock
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._db: sqlite3.Connection | None = None

    def seen(self) -> Seen:
        """What is known by now. Raises JournalError."""
        now = self._clock()
        with self._lock, self._told():
            if self._db is None and not self.path.exists():
                return nothing_seen()
            db = self._open()
            rows = db.execute(
                "SELECT share FROM seen WHERE setting = ? AND ended_at > ?",
                (self._setting, now - KEEP_DAYS * DAY),
            ).fetchall()
            count, first, cameras = db.execute(
                "SELECT COUNT(*), MIN(ended_at), COUNT(DISTINCT camera) FROM seen"
                " WHERE setting = ? AND ended_at > ?",
                (self._setting, now - WEEK),
            ).fetchone()
        per_week = None
        if count and now - first >= DAY:
            per_week = count / cameras * WEEK / (now - first)
        return Seen(np.array([row[0] for row in rows], np.float64), per_week)

    def source(self, info: SourceInfo) -> None:
        """Note which cameras are live: recordings show the same people as often as they are run."""
        (self._live.add if info.live else self._live.discard)(info.camera)

    def frame(self, frame: Frame | FrameRef, tracked: Tracked, labels: Mapping[int, Label]) -> None:
        """Neither do frames."""

    def event(self, event: AnyEvent, template: Template | None) -> None:
        """Keep the best score of a live track that ended unknown; the log says where it cannot."""
        if not isinstance(event, SightingEnded) or event.reason != "unknown":
            return
        if event.camera not in self._live:
            return
        if event.best_score is None or (share := self.judge(event.best_score)) is None:
            return
        row = (
            self._setting,
            event.camera,
            event.gallery_version,
            event.best_score,
            share,
            event.captured_at.timestamp(),
        )
        try:
            with self._lock, self._told():
                self._keep(row)
        except JournalError as error:  # the event itself is in the journal: the run goes on
            log.warning("%s", error)

    def close(self) -> None:
        """Close the file; it is opened again when it is needed again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _keep(self, row: tuple[object, ...]) -> None:
        db = self._open()
        cursor = db.execute(
            "INSERT INTO seen (setting, camera, gallery_version, best_score, share, ended_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
        db.execute(
            "DELETE FROM seen WHERE ended_at < ? OR number <= ?",
            (self._clock() - KEEP_DAYS * DAY, (cursor.lastrowid or 0) - MOST),
        )

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA secure_delete = ON;")
            self._db.executescript(_SCHEMA)
        return self._db

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the file into one that says what to do."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"{self.path}: scores of unknown tracks cannot be kept there ({error}); give the "
                "journal another place, or remove the file: thresholds then rest on the pack alone"
            ) from error


def scores_path(journal: Path) -> Path:
    """Where scores lie beside a journal.

    >>> scores_path(Path("data/journal.db")).as_posix()
    'data/journal-scores.db'
    """
    return journal.with_name(f"{journal.stem}-scores{journal.suffix or '.db'}")
