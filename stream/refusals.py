"""What was refused on a socket: counted by reason, and logged once per source and reason."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict

from .redact import redact

log = logging.getLogger(__name__)

SOURCES_MOST = 1000
REMEMBER_SECONDS = 3600.0
SHOWN_MOST = 200


class Refusals:
    """Counts what a socket refused. Safe to share by threads; memory and log lines are bounded.

    Of at most 1000 pairs of source and reason it is remembered that they were logged. While all of
    them are younger than an hour, a new source is counted and not logged: whoever invents names of
    sources cannot fill the log.
    """

    def __init__(self, name: str) -> None:
        """name: what refuses, as the log shall call it: "replay", "hop detect"."""
        self.name = name
        self.counts: Counter[str] = Counter()
        """How often, by reason."""
        self._guard = threading.Lock()
        self._logged: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._full = False

    def count(self, source: str, reason: str, detail: str) -> None:
        """Count one refusal, and log the first of this source for this reason.

        source: who sent it: a key's name, an address, a peer's identity. reason: one of a few fixed
        texts, "malformed". detail: what was wrong, for people; never what the peer sent, nor a key.
        """
        with self._guard:
            self.counts[reason] += 1
            if (source, reason) in self._logged:
                return
            now = time.monotonic()
            while self._logged and next(iter(self._logged.values())) < now - REMEMBER_SECONDS:
                self._logged.popitem(last=False)
            if len(self._logged) >= SOURCES_MOST:
                first, self._full = not self._full, True
            else:
                first, self._full = False, False
                self._logged[source, reason] = now
            full = self._full
        if not full:
            told = (self.name, _shown(reason), _shown(source), _shown(detail))
            log.warning("%s: refused (%s) from %s: %s; more of it is only counted", *told)
        elif first:
            log.warning(
                "%s: refusals from more than %d sources within the hour; new ones are only counted",
                self.name,
                SOURCES_MOST,
            )


def _shown(text: str) -> str:
    """One short line: a peer that chooses its own name cannot write lines of the log."""
    text = redact("".join(c if c.isprintable() else "?" for c in text))
    return text if len(text) <= SHOWN_MOST else f"{text[: SHOWN_MOST - 1]}…"
