"""Match: templates in, decisions out.

Faces that are visible together are decided together: one identity goes to at most one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from .. import ConfigError
from ..configs.schema import MatchConfig
from ..models.search import Hit, SearchIndex
from .records import Candidate, Match, TrackKey, TrackTemplate
from .thresholds import DecisionRule, Rules

GalleryIndex = tuple[int, SearchIndex, Sequence[str]]
"""Gallery version, its index, and the identity name of each identity index."""

NOTHING_TAKEN: Mapping[TrackKey, Collection[str]] = {}
# What leaving a face unnamed costs: less than any real difference of scores, so that a score equal
# to the threshold still names.
_UNNAMED = -1e-12


class MatchStage:
    """Ranks the gallery for each template and decides who is who."""

    def __init__(
        self, index: Callable[[], GalleryIndex], config: MatchConfig, rules: Rules
    ) -> None:
        """index: gives the newest gallery at every decision, so that changes need no restart.

        rules: asked with that gallery, so that a threshold fitted to it applies with it. How many
        observations a decision needs (config.least_frames) is for the caller to know.
        """
        if config.top_k < 1:
            raise ConfigError(f"match.top_k must be at least 1, got {config.top_k}")
        self._index = index
        self._config = config
        self._rules = rules

    def rule(self) -> DecisionRule:
        """What holds for the newest gallery in general, whatever the evidence."""
        return self._rules(self._index()[1], None)

    def decide(
        self,
        templates: Sequence[TrackTemplate],
        taken: Mapping[TrackKey, Collection[str]] = NOTHING_TAKEN,
    ) -> list[Match]:
        """One Match per template, in their order; the templates are of faces visible together.

        Names are given so that the sum of (score - threshold) over named faces is largest: no
        identity twice, none below its face's threshold. Without conflicts that is each face's best
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
        rules = [self._rules(index, one.template) for one in templates]
        bars = [rule.threshold for rule in rules]
        ranked = self._search(index, probes, bars, max(map(len, barred)))
        given = self._assign(ranked, names, bars, barred)
        return [
            self._match(one, hits, hit, names, version, rule)
            for one, hits, hit, rule in zip(templates, ranked, given, rules, strict=True)
        ]

    def _search(
        self,
        index: SearchIndex,
        probes: npt.NDArray[np.float32],
        bars: Sequence[float],
        barred: int,
    ) -> list[tuple[Hit, ...]]:
        """Candidates of each probe (Q, C), as many as an optimal assignment can need of it.

        That is one more than the others and the `barred` identities can take from it, but none
        below its threshold (bars): nearly always the few that are listed anyway are enough.
        """
        top, by = self._config.top_k, self._config.score
        ranked = index.search(probes, top, by=by)
        most = len(probes) + barred
        if most > top:
            deeper = [
                i
                for i, (hits, bar) in enumerate(zip(ranked, bars, strict=True))
                if hits and hits[-1].score >= bar
            ]
            for i, hits in zip(deeper, index.search(probes[deeper], most, by=by), strict=True):
                ranked[i] = hits
        return ranked

    def _assign(
        self,
        ranked: Sequence[tuple[Hit, ...]],
        names: Sequence[str],
        bars: Sequence[float],
        barred: Sequence[Collection[str]],
    ) -> list[Hit | None]:
        """The hit each face is given: a maximum-weight matching, with one "nobody" per face."""
        possible = [
            (face, hit)
            for face, hits in enumerate(ranked)
            for hit in hits
            if hit.score >= bars[face] and names[hit.identity] not in barred[face]
        ]
        identities = sorted({hit.identity for _, hit in possible})
        columns = {identity: column for column, identity in enumerate(identities)}
        faces = len(ranked)
        gains = np.full((faces, len(identities) + faces), -1.0)
        gains[:, len(identities) :] = _UNNAMED
        chosen: dict[tuple[int, int], Hit] = {}
        for face, hit in possible:
            column = columns[hit.identity]
            gains[face, column] = hit.score - bars[face]
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
        rule: DecisionRule,
    ) -> Match:
        listed = list(hits[: self._config.top_k])
        if given is not None and given not in listed:
            listed.append(given)
        probability = None
        if listed and rule.probability is not None:
            probability = rule.probability((given or listed[0]).score)
        return Match(
            template.key,
            template.frame,
            None if given is None else names[given.identity],
            tuple(Candidate(names[hit.identity], hit.score, hit.cosine) for hit in listed),
            rule.threshold,
            probability,
            version,
            template.template.frames,
            rule.target_fpir,
            rule.why,
        )
