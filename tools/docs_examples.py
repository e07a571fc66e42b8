"""One message of every kind, with made-up names: for documents, golden messages and tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ..stream.events import (
    AnyEvent,
    CameraState,
    CandidateScore,
    EvidenceFrame,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    System,
    Unknown,
    encode,
    event_id,
)
from ..stream.protocol import (
    Answer,
    Heartbeat,
    Question,
    ReplayCancel,
    ReplayCredit,
    ReplayDone,
    ReplayEvents,
    ReplayRefused,
    ReplayRequest,
)

EPOCH = "5f1c0e9ab2d47783"


def examples() -> list[AnyEvent]:
    """One event of every kind, as the journal stores it: a morning at the entrance."""
    start = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)

    def header(kind: str, camera: str, sequence: int, second: float) -> dict[str, Any]:
        return {
            "id": event_id(EPOCH, camera, kind, sequence),
            "camera": camera,
            "decided_at": start + timedelta(seconds=second + 0.031),
            "epoch": EPOCH,
            "sequence": sequence,
            "previous": sequence - 17,
            "published_at": start + timedelta(seconds=second + 0.033),
        }

    def track(kind: str, number: int, sequence: int, second: float) -> dict[str, Any]:
        return {
            **header(kind, "entrance", sequence, second),
            "track": number,
            "frame": int(25 * second),
            "pts": second,
            "captured_at": start + timedelta(seconds=second),
        }

    ada = _decision("ada", (("ada", 0.47, 0.52), ("grace", 0.41, 0.5)), start)
    grace = _decision("grace", (("grace", 0.58, 0.61), ("ada", 0.29, 0.4)), start)
    nobody = _decision(None, (("ada", 0.11, 0.21), ("grace", 0.04, 0.17)), start)
    return [
        System(**header("system", "-", 101, 0.0), state="started", detail="facestream 0.1.0"),
        CameraState(
            **header("camera.state", "entrance", 102, 0.4),
            state="running",
            detail="1920x1080, h264",
            frames=1,
            dropped={},
        ),
        SightingStarted(**track("sighting.started", 7, 103, 4.0)),
        MatchEvent(**track("match", 7, 104, 4.48), **ada),
        MatchRevised(**track("match.revised", 7, 105, 5.6), **grace, previous_identity="ada"),
        Unknown(**track("unknown", 8, 106, 9.2), **nobody),
        SightingEnded(
            **track("sighting.ended", 8, 107, 11.0),
            **nobody,
            started_at=start + timedelta(seconds=8.6),
            duration=2.4,
            faces=51,
            reason="unknown",
            best_score=0.34,
        ),
    ]


def _decision(
    identity: str | None, scores: tuple[tuple[str, float, float], ...], start: datetime
) -> dict[str, Any]:
    candidates = tuple(CandidateScore(*score) for score in scores)
    frame = EvidenceFrame(
        sequence=110,
        pts=4.4,
        captured_at=start + timedelta(seconds=4.4),
        box=(812.5, 240.0, 871.0, 318.5),
        quality=0.71,
        weight=0.24,
    )
    return {
        "identity": identity,
        "score": candidates[0].score,
        "cosine": candidates[0].cosine,
        "threshold": 0.38,
        "target_fpir": 0.01,
        "false_positive_probability": None,
        "candidates": candidates,
        "frames": 9,
        "quality_min": 0.32,
        "quality_median": 0.55,
        "quality_max": 0.71,
        "evidence": (frame,),
        "pack": "omz",
        "gallery_version": 12,
        "threshold_why": "fitted for FPIR 1 % to this gallery of 412",
    }


def heartbeat_example() -> Heartbeat:
    """The heartbeat of the topic that the example's match is on."""
    match = _match()
    return Heartbeat(
        epoch=EPOCH, topic=match.topic, newest=match.sequence, head=107, oldest=1, interval=1.0
    )


def replay_examples() -> list[Question | Answer]:
    """One replay message of every type: a subscriber that knows the events up to 95 comes back."""
    return [
        ReplayRequest(
            number=1, epoch=EPOCH, after=95, topics=("facestream/v1/match/",), credit=500
        ),
        ReplayCredit(number=1, credit=250),
        ReplayCancel(number=1),
        ReplayEvents(number=1, payloads=(encode(_match()),)),
        ReplayDone(number=1, epoch=EPOCH, head=107),
        ReplayRefused(
            number=1,
            reason="expired",
            detail="events up to 99 were deleted; the oldest still held is 100",
            epoch=EPOCH,
            oldest=100,
        ),
    ]


def _match() -> MatchEvent:
    return next(event for event in examples() if isinstance(event, MatchEvent))
