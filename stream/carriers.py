"""How the pixels of frames cross a hop: in the message, or by reference within one process.

The third way, shared memory between processes, is in ring. All three have the methods that a hop
needs: the earlier end calls `release` and `reclaim`, the later end calls `spent`, each calls
`close`. Crops, boxes and embeddings always travel in the message (see packing).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Literal

from .. import RecordError
from .flow import Work

Unusable = Literal["malformed", "unknown kind", "newer version", "stale"]


class WireError(RecordError):
    """A message between nodes cannot be used; `reason` is what a node counts it under.

    malformed: it is no message of ours. unknown kind: a kind of item that this version does not
    know. newer version: the other node is newer. stale: what it points to is no longer there.
    """

    def __init__(self, message: str, reason: Unusable = "malformed") -> None:
        """message: one line for people."""
        super().__init__(message)
        self.reason: Unusable = reason


class InMessage:
    """Pixels travel in the message itself, as one raw buffer per frame."""

    def release(self, tokens: Iterable[int]) -> None:
        """Nothing was lent, so nothing comes back."""

    def reclaim(self, camera: str, attempt: str) -> None:
        """Nothing was lent."""

    def spent(self) -> list[int]:
        """Nothing is to be given back."""
        return []

    def close(self) -> None:
        """Nothing is held."""


class ByReference:
    """Whole works are handed over within one process; the message holds only a token.

    Both ends of the hop share one of these, from any two threads. A work is taken exactly once.
    """

    def __init__(self, most: int = 1024) -> None:
        """most: works that may wait to be taken."""
        self._most = most
        self._tokens = itertools.count(1)
        self._waiting: dict[int, Work] = {}
        self._lock = threading.Lock()

    def put(self, work: Work) -> int | None:
        """Keep a work until it is taken; gives its token, or None while too many wait."""
        with self._lock:
            if len(self._waiting) >= self._most:
                return None
            token = next(self._tokens)
            self._waiting[token] = work
            return token

    def take(self, token: int) -> Work:
        """The work behind a token. Raises WireError (stale) when it was taken or reclaimed."""
        with self._lock:
            work = self._waiting.pop(token, None)
        if work is None:
            raise WireError(
                f"no work waits under token {token}: it was taken before, or its attempt is over",
                "stale",
            )
        return work

    def release(self, tokens: Iterable[int]) -> None:
        """A work taken is out of the table already."""

    def reclaim(self, camera: str, attempt: str) -> None:
        """Forget the works of an attempt that is over."""
        with self._lock:
            self._waiting = {
                token: work
                for token, work in self._waiting.items()
                if (work.camera, work.attempt) != (camera, attempt)
            }

    def spent(self) -> list[int]:
        """Nothing is to be given back."""
        return []

    def close(self) -> None:
        """Nothing happens: what one end handed over still waits for the other."""
