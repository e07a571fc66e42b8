"""What a run did, in numbers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

LATENCIES = 10_000
"""Latencies kept, the newest: a camera may run for months."""


@dataclass
class Totals:
    """What a run did.

    rejected: faces left out, by reason; dropped: frames left out, by camera and reason; failed:
    cameras given up, with the reason; latencies: capture to event of the newest events, seconds.
    """

    frames: int = 0
    faces: int = 0
    embedded: int = 0
    events: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    interrupted: bool = False


def describe(totals: Totals) -> dict[str, Any]:
    """Totals as plain data for JSON."""
    return {
        "frames": totals.frames,
        "faces": totals.faces,
        "embedded": totals.embedded,
        "events": totals.events,
        "rejected": dict(totals.rejected),
        "dropped": {camera: dict(by) for camera, by in totals.dropped.items()},
        "failed": dict(totals.failed),
        "seconds": totals.seconds,
        "interrupted": totals.interrupted,
    }
