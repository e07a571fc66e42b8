"""Match: templates in, decisions out.

Faces that are visible together are decided together: one identity goes to at most one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .. import ConfigError
from ..configs.schema import MatchConfig
from ..models.search import Hit, SearchIndex
from .assign import NEW, Options, Standing, assign, find_doubts
from .negatives import NONE, Negatives
from .records import Candidate, Match, TrackKey, TrackTemplate
from .thresholds import DecisionRule, Rules


class GalleryIndex(NamedTuple):
    """One version of a gallery, whole: what is searched, by which names, and who is not whom.

    names: of each identity index. negatives: faces that were marked as not being somebody.
    """

    version: int
    vectors: SearchIndex
    names: Sequence[str]
    negatives: Negatives = NONE


RELEASE = 0.5
"""match.release where it is not set, in standard deviations of the pack's impostor scores."""
MARGIN = 0.25
"""match.margin where it is not set, in the same unit."""

ALL_NEW: Mapping[TrackKey, Standing] = {}


class _Asked(NamedTuple):
    """What is to be decided on a track, and by which threshold. release: as `MatchStage` has it."""

    template: TrackTemplate
    own: Standing
    rule: DecisionRule
    release: float

    @property
    def floor(self) -> float:
        """The smallest score that matters."""
        return self.rule.threshold - (0.0 if self.own.held is None else self.release)

    def options(self, ranked: Sequence[tuple[str, Hit]]) -> Options:
        """(Score - threshold) of whomever the track may be, best first."""
        return {
            name: hit.score - self.rule.threshold
            for name, hit in ranked
            if hit.score >= (self.floor if name == self.own.held else self.rule.threshold)
            and name not in self.own.barred
        }

    def is_enough(self, options: Options, needed: int) -> bool:
        """Whether an assignment can want nobody else: `needed` others, and the one that is held."""
        sought = self.own.held is not None and self.own.held not in self.own.barred
        return len(options) > needed and (not sought or self.own.held in options)


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
        """index: gives the newest gallery at every decision, so that changes need no restart; the
        whole of it at once, so that no decision mixes two versions.

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
        return self._rules(self._index().vectors, None)

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
        people = self._index()
        asked = [
            _Asked(
                one,
                standings.get(one.key, NEW),
                self._rules(people.vectors, one.template),
                self.release,
            )
            for one in templates
        ]
        ranked = self._search(asked, people)
        plain = [one.options(row) for one, row in zip(asked, ranked, strict=True)]
        gains = [self._gains(row, one.own) for row, one in zip(plain, asked, strict=True)]
        given = assign(gains)
        free = [{n: row[n] for n in left} for row, left in zip(plain, gains, strict=True)]
        doubts = find_doubts(free, given, [one.own for one in asked], self.margin)
        return [
            self._match(one, row, name, alike, people.version)
            for one, row, name, alike in zip(asked, ranked, given, doubts, strict=True)
        ]

    def _search(
        self, asked: Sequence[_Asked], people: GalleryIndex
    ) -> list[tuple[tuple[str, Hit], ...]]:
        """Candidates of each, best first, as many as an optimal assignment can need.

        Nearly always the few that are listed anyway are enough. Whoever a face was marked as not
        being is no candidate.
        """
        by = self._config.score
        probes = np.stack([one.template.template.embedding for one in asked])
        needed = len(asked) + max(len(one.own.elsewhere) for one in asked)
        count = max(self._config.top_k, 2)  # the second is who the first may be mistaken for
        ranked: list[tuple[tuple[str, Hit], ...]] = [()] * len(asked)
        left = list(range(len(asked)))
        while left:
            deeper = []
            for at, hits in zip(
                left, people.vectors.search(probes[left], count, by=by), strict=True
            ):
                found = ((people.names[hit.identity], hit) for hit in hits)
                ranked[at] = tuple(
                    (name, hit)
                    for name, hit in found
                    if not people.negatives.exclude(name, probes[at], hit.cosine)
                )
                one = asked[at]
                is_all = len(hits) < count or hits[-1].score < one.floor
                if not is_all and not one.is_enough(one.options(ranked[at]), needed):
                    deeper.append(at)
            left, count = deeper, 4 * count
        return ranked

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
        asked: _Asked,
        ranked: tuple[tuple[str, Hit], ...],
        given: str | None,
        alike: tuple[str, ...],
        version: int,
    ) -> Match:
        found = [Candidate(name, hit.score, hit.cosine) for name, hit in ranked]
        named = {given, *alike}
        top = self._config.top_k
        listed = found[:top] + [one for one in found[top:] if one.identity in named]
        rule, probability = asked.rule, None
        if listed and rule.probability is not None:
            best = next((one for one in listed if one.identity == given), listed[0])
            probability = rule.probability(best.score)
        return Match(
            asked.template.key,
            asked.template.frame,
            given,
            tuple(listed),
            rule.threshold,
            probability,
            version,
            asked.template.template.frames,
            rule.target_fpir,
            rule.why,
            alike,
        )
