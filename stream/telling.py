"""How what was decided on a track is told: its events, with ids that repeats have too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from .events import (
    AnyEvent,
    CandidateScore,
    Cause,
    MatchEvent,
    MatchRevised,
    SightingEnded,
    SightingStarted,
    Unknown,
    event_id,
)
from .records import Candidate, FrameRef, Match, Template, TrackEnd, TrackKey, TrackTemplate
from .sightings import Basis, Sighting, basis_of, instant
from .thresholds import DecisionRule


class Decided(NamedTuple):
    """An event still to be published, with the template behind it (None: nothing was decided)."""

    event: AnyEvent
    template: Template | None


class Teller:
    """Makes the events of sightings."""

    def __init__(
        self,
        rule: Callable[[], DecisionRule],
        *,
        pack: str,
        epoch: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """rule: what is in force where nothing was decided; clock: UTC s, stamps `decided_at`."""
        self._rule = rule
        self._pack = pack
        self._epoch = epoch
        self._clock = clock

    def started(self, key: TrackKey, frame: FrameRef) -> Decided:
        """Somebody is in view."""
        return Decided(SightingStarted(**self._common(key, frame, "started")), None)

    def first(self, sighting: Sighting, match: Match, template: Template | None) -> Decided:
        """The first decision: a match, or unknown."""
        kind = Unknown if match.identity is None else MatchEvent
        return Decided(kind(**self._decision(sighting, match)), template)

    def revised(
        self,
        sighting: Sighting,
        match: Match,
        template: Template | None,
        before: str | None,
        cause: Cause,
    ) -> Decided:
        """Another decision than before."""
        more: dict[str, Any] = {"previous_identity": before, "cause": cause}
        return Decided(MatchRevised(**self._decision(sighting, match), **more), template)

    def ended(self, end: TrackEnd, sighting: Sighting, found: TrackTemplate | None) -> Decided:
        """The track is over."""
        reason: Literal["matched", "unknown", "too few frames", "no usable face"]
        if sighting.observations == 0:
            reason = "no usable face"
        elif sighting.last is None:
            reason = "too few frames"
        else:
            reason = "matched" if sighting.identity is not None else "unknown"
        template = found.template if found is not None else None
        basis = basis_of(template) if template is not None else sighting.basis
        event = SightingEnded(
            **self._common(end.key, end.last, "ended"),
            **self._evidence(sighting.last, basis),
            started_at=instant(sighting.started.captured_at),
            duration=end.last.pts - sighting.started.pts,
            faces=end.faces,
            reason=reason,
            best_score=sighting.highest,
        )
        return Decided(event, template)

    def _decision(self, sighting: Sighting, match: Match) -> dict[str, Any]:
        sighting.changes += 1
        return {
            **self._common(match.key, match.frame, f"decision-{sighting.changes}"),
            **self._evidence(match, sighting.basis),
        }

    def _common(self, key: TrackKey, frame: FrameRef, what: str) -> dict[str, Any]:
        return {
            "id": event_id(self._epoch, key.camera, str(key.track), what),
            "camera": key.camera,
            "decided_at": instant(self._clock()),
            "track": key.track,
            "frame": frame.sequence,
            "pts": frame.pts,
            "captured_at": instant(frame.captured_at),
        }

    def _evidence(self, match: Match | None, basis: Basis) -> dict[str, Any]:
        best = named_candidate(match)
        rule = match or self._rule()  # nothing was decided: what would have been in force
        return {
            "identity": match.identity if match is not None else None,
            "score": best.score if best is not None else None,
            "cosine": best.cosine if best is not None else None,
            "threshold": rule.threshold,
            "target_fpir": rule.target_fpir,
            "threshold_why": rule.why,
            "false_positive_probability": (
                match.false_positive_probability if match is not None else None
            ),
            "candidates": tuple(
                CandidateScore(c.identity, c.score, c.cosine)
                for c in (match.candidates if match is not None else ())
            ),
            "ambiguous": match.ambiguous if match is not None else (),
            "frames": basis.frames,
            "quality_min": basis.quality_min,
            "quality_median": basis.quality_median,
            "quality_max": basis.quality_max,
            "evidence": basis.evidence,
            "pack": self._pack,
            "gallery_version": match.gallery_version if match is not None else 0,
        }


def named_candidate(match: Match | None) -> Candidate | None:
    """The candidate that a match names, or the best one where it names nobody."""
    if match is None or not match.candidates:
        return None
    named = [c for c in match.candidates if c.identity == match.identity]
    return named[0] if named else match.candidates[0]
