"""Match: templates in, decisions out.

Faces that are visible together are decided together: one identity goes to at most one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from .. import ConfigError
from ..configs.schema import MatchConfig
from ..models.search import Hit, SearchIndex, false_positive_probability
from .records import Candidate, Match, TrackKey, TrackTemplate

GalleryIndex = tuple[int, SearchIndex, Sequence[str]]
"""Gallery version, its index, and the identity name of each identity index."""

NOTHING_TAKEN: Mapping[TrackKey, Collection[str]] = {}
# What leaving a face unnamed costs: less than any real difference of scores, so that a score equal
# to the threshold still names.
_UNNAMED = -1e-12


@dataclass(frozen=True)
class DecisionNumbers:
    """What a pack's card says about its scores, in cosine units.

    An impostor score is a stranger's against one identity; these numbers may be unknown.
    """

    threshold: float
    """Smallest IDA score that names somebody."""
    cosine_threshold: float
    """Smallest cosine that names somebody."""
    impostor_centre: float | None = None
    """Centre of the normal that fits the upper tail of impostor IDA scores."""
    impostor_spread: float | None = None
    """Standard deviation of that normal, > 0."""
    impostor_cosine_centre: float | None = None
    """The same for cosines."""
    impostor_cosine_spread: float | None = None
    """Standard deviation of that normal, > 0."""
    target_fpir: float | None = None
    """False-positive identification rate the thresholds were set for, where it is known."""


class MatchStage:
    """Ranks the gallery for each template and decides who is who."""

    def __init__(
        self, index: Callable[[], GalleryIndex], config: MatchConfig, numbers: DecisionNumbers
    ) -> None:
        """index: gives the newest gallery at every decision, so that changes need no restart.

        config.threshold, where set, replaces the pack's threshold of the score in use. How many
        observations a decision needs (config.least_frames) is for the caller to know.
        """
        if config.top_k < 1:
            raise ConfigError(f"match.top_k must be at least 1, got {config.top_k}")
        by_ida = config.score == "ida"
        self._index = index
        self._config = config
        threshold = numbers.threshold if by_ida else numbers.cosine_threshold
        self.threshold = threshold if config.threshold is None else config.threshold
        # A threshold of the operator's own was not set for the pack's rate.
        self.target_fpir = numbers.target_fpir if config.threshold is None else None
        self._impostors = (
            (numbers.impostor_centre, numbers.impostor_spread)
            if by_ida
            else (numbers.impostor_cosine_centre, numbers.impostor_cosine_spread)
        )

    def decide(
        self,
        templates: Sequence[TrackTemplate],
        taken: Mapping[TrackKey, Collection[str]] = NOTHING_TAKEN,
    ) -> list[Match]:
        """One Match per template, in their order; the templates are of faces visible together.

        Names are given so that the sum of (score - threshold) over named faces is largest: no
        identity twice, none below the threshold. Without conflicts that is each face's best
        candidate. taken: the identities a track cannot be, since a track that was seen beside it
        and is not decided here holds them.

        Candidates are the top_k whoever was given to whom, with the identity given at their end
        when it ranks lower. The probability is that of the identity given, or of the best candidate
        when nobody is.
        """
        if not templates:
            return []
        version, index, names = self._index()
        probes = np.stack([one.template.embedding for one in templates])
        barred = [taken.get(one.key, ()) for one in templates]
        ranked = self._search(index, probes, max(map(len, barred)))
        given = self._assign(ranked, names, barred)
        return [
            self._match(one, hits, hit, names, version, index.identities)
            for one, hits, hit in zip(templates, ranked, given, strict=True)
        ]

    def _search(
        self, index: SearchIndex, probes: npt.NDArray[np.float32], barred: int
    ) -> list[tuple[Hit, ...]]:
        """Candidates of each probe (Q, C), as many as an optimal assignment can need of it.

        That is one more than the others and the `barred` identities can take from it, but none
        below the threshold: nearly always the few that are listed anyway are enough.
        """
        top, by = self._config.top_k, self._config.score
        ranked = index.search(probes, top, by=by)
        most = len(probes) + barred
        if most > top:
            deeper = [
                i for i, hits in enumerate(ranked) if hits and hits[-1].score >= self.threshold
            ]
            for i, hits in zip(deeper, index.search(probes[deeper], most, by=by), strict=True):
                ranked[i] = hits
        return ranked

    def _assign(
        self,
        ranked: Sequence[tuple[Hit, ...]],
        names: Sequence[str],
        barred: Sequence[Collection[str]],
    ) -> list[Hit | None]:
        """The hit each face is given: a maximum-weight matching, with one "nobody" per face."""
        possible = [
            (face, hit)
            for face, hits in enumerate(ranked)
            for hit in hits
            if hit.score >= self.threshold and names[hit.identity] not in barred[face]
        ]
        identities = sorted({hit.identity for _, hit in possible})
        columns = {identity: column for column, identity in enumerate(identities)}
        faces = len(ranked)
        gains = np.full((faces, len(identities) + faces), -1.0)
        gains[:, len(identities) :] = _UNNAMED
        chosen: dict[tuple[int, int], Hit] = {}
        for face, hit in possible:
            column = columns[hit.identity]
            gains[face, column] = hit.score - self.threshold
            chosen[face, column] = hit
        rows, best = linear_sum_assignment(gains, maximize=True)
        return [
            chosen.get((int(face), int(column))) for face, column in zip(rows, best, strict=True)
        ]

    def _match(
        self,
        template: TrackTemplate,
        hits: tuple[Hit, ...],
        given: Hit | None,
        names: Sequence[str],
        version: int,
        identities: int,
    ) -> Match:
        listed = list(hits[: self._config.top_k])
        if given is not None and given not in listed:
            listed.append(given)
        probability = None
        mean, std = self._impostors
        if listed and mean is not None and std is not None:
            score = (given or listed[0]).score
            probability = float(false_positive_probability(score, identities, mean, std))
        return Match(
            template.key,
            template.frame,
            None if given is None else names[given.identity],
            tuple(Candidate(names[hit.identity], hit.score, hit.cosine) for hit in listed),
            self.threshold,
            probability,
            version,
            template.template.frames,
        )
