"""Match: templates in, decisions out.

Faces that are visible together are decided together: one identity goes to at most one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .. import ConfigError
from ..configs.schema import MatchConfig
from ..models.search import Hit, SearchIndex
from .assign import NEW, Options, Standing, assign, find_doubts
from .records import Candidate, Match, TrackKey, TrackTemplate
from .thresholds import DecisionRule, Rules

GalleryIndex = tuple[int, SearchIndex, Sequence[str]]
"""Gallery version, its index, and the identity name of each identity index."""

RELEASE = 0.0
"""match.release where it is not set, in standard deviations of the pack's impostor scores."""
MARGIN = 0.0
"""match.margin where it is not set, in the same unit."""

ALL_NEW: Mapping[TrackKey, Standing] = {}


class MatchStage:
    """Ranks the gallery for each template and decides who is who."""

    def __init__(
        self,
        index: Callable[[], GalleryIndex],
        config: MatchConfig,
        rules: Rules,
        *,
        spread: float = 0.0,
    ) -> None:
        """index: gives the newest gallery at every decision, so that changes need no restart.

        rules: asked with that gallery, so that a threshold fitted to it applies with it. spread:
        standard deviation of impostor scores, in which config.release and config.margin are
        measured where they are not set. How many observations a decision needs
        (config.least_frames) is for the caller to know.
        """
        if config.top_k < 1:
            raise ConfigError(f"match.top_k must be at least 1, got {config.top_k}")
        self._index = index
        self._config = config
        self._rules = rules
        self.release = RELEASE * spread if config.release is None else config.release
        self.margin = MARGIN * spread if config.margin is None else config.margin

    def rule(self) -> DecisionRule:
        """What holds for the newest gallery in general, whatever the evidence."""
        return self._rules(self._index()[1], None)

    def decide(
        self,
        templates: Sequence[TrackTemplate],
        standings: Mapping[TrackKey, Standing] = ALL_NEW,
    ) -> list[Match]:
        """One Match per template, in their order; the templates are of faces visible together.

        Names are given so that the sum of (score - threshold) over named faces is largest: no
        identity twice, none below its face's threshold. Without conflicts that is each face's best
        candidate. A name that a track holds (standings) is kept down to `release` below the
        threshold, and counts `margin` more than it scores.

        Candidates are the top_k whoever was given to whom, with those in question (the identity
        given, and those it might as well be) at their end when they rank lower. The probability is
        that of the identity given, or of the best candidate when nobody is.
        """
        if not templates:
            return []
        version, index, names = self._index()
        probes = np.stack([one.template.embedding for one in templates])
        own = [standings.get(one.key, NEW) for one in templates]
        rules = [self._rules(index, one.template) for one in templates]
        bars = [rule.threshold for rule in rules]
        needed = len(templates) + max(len(one.elsewhere) for one in own)
        ranked = self._search(index, probes, names, own, bars, needed)
        plain = [self._options(*row, names) for row in zip(ranked, own, bars, strict=True)]
        gains = [self._gains(*row) for row in zip(plain, own, strict=True)]
        given = assign(gains)
        free = [{n: row[n] for n in left} for row, left in zip(plain, gains, strict=True)]
        doubts = find_doubts(free, given, own, self.margin)
        return [
            self._match(one, hits, name, alike, names, version, rule)
            for one, hits, name, alike, rule in zip(
                templates, ranked, given, doubts, rules, strict=True
            )
        ]

    def _search(
        self,
        index: SearchIndex,
        probes: npt.NDArray[np.float32],
        names: Sequence[str],
        own: Sequence[Standing],
        bars: Sequence[float],
        needed: int,
    ) -> list[tuple[Hit, ...]]:
        """Candidates of each probe (Q, C), as many as an optimal assignment can need of it.

        That is `needed` possible ones and the one that is held, or else everybody who may be given:
        nearly always the few that are listed anyway are enough.
        """
        by = self._config.score
        count = max(self._config.top_k, 2)  # the second is who the first may be mistaken for
        ranked = index.search(probes, count, by=by)
        while deeper := [
            at
            for at, hits in enumerate(ranked)
            if len(hits) == count
            and hits[-1].score >= self._floor(own[at], bars[at])
            and not self._is_deep(self._options(hits, own[at], bars[at], names), own[at], needed)
        ]:
            count *= 4
            for at, hits in zip(deeper, index.search(probes[deeper], count, by=by), strict=True):
                ranked[at] = hits
        return ranked

    def _floor(self, own: Standing, bar: float) -> float:
        """The lowest score that may matter to a track."""
        return bar if own.held is None else bar - self.release

    @staticmethod
    def _is_deep(options: Options, own: Standing, needed: int) -> bool:
        sought = own.held is not None and own.held not in own.barred
        return len(options) > needed and (not sought or own.held in options)

    def _options(
        self, hits: Sequence[Hit], own: Standing, bar: float, names: Sequence[str]
    ) -> Options:
        """(Score - threshold) of whomever a track may be, best first."""
        found = {}
        for hit in hits:
            name = names[hit.identity]
            lowest = bar - self.release if name == own.held else bar
            if hit.score >= lowest and name not in own.barred:
                found[name] = hit.score - bar
        return found

    def _gains(self, options: Options, own: Standing) -> Options:
        """What naming a track adds to the total, without what is lost by it elsewhere."""
        gains = {}
        for name, gain in options.items():
            gain = self.gain(gain) if name == own.held else gain
            if name not in own.elsewhere:
                gains[name] = gain
            elif gain > own.elsewhere[name]:
                gains[name] = gain - own.elsewhere[name]
        return gains

    def gain(self, above: float) -> float:
        """What keeping a name is worth that scores `above` the threshold, or so much below."""
        return max(above + self.margin, 0.0)

    def _match(
        self,
        template: TrackTemplate,
        hits: tuple[Hit, ...],
        given: str | None,
        alike: tuple[str, ...],
        names: Sequence[str],
        version: int,
        rule: DecisionRule,
    ) -> Match:
        ranked = [Candidate(names[hit.identity], hit.score, hit.cosine) for hit in hits]
        named = {given, *alike}
        listed = ranked[: self._config.top_k]
        listed += [one for one in ranked[self._config.top_k :] if one.identity in named]
        probability = None
        if listed and rule.probability is not None:
            best = next((one for one in listed if one.identity == given), listed[0])
            probability = rule.probability(best.score)
        return Match(
            template.key,
            template.frame,
            given,
            tuple(listed),
            rule.threshold,
            probability,
            version,
            template.template.frames,
            rule.target_fpir,
            rule.why,
            alike,
        )
