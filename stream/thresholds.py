"""What a decision is held against: a threshold with its reason, and what a score says of chance.

Rules belong to the gallery that is searched, so that the matcher asks for them at every decision:
thresholds that are fitted to a gallery apply from the moment its version does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..configs.schema import MatchConfig
from ..models.search import SearchIndex, false_positive_probability
from .records import Template


@dataclass(frozen=True)
class DecisionRule:
    """One threshold in force."""

    threshold: float
    """Smallest score that names somebody."""
    why: str
    """Where the threshold comes from, in words for people."""
    target_fpir: float | None = None
    """Share of unknown people's tracks that may be named, which it was set for; None: for none."""
    interval: tuple[float, float] | None = None
    """Between which thresholds 95 % of resamples lie; None where it was not fitted."""
    probability: Callable[[float], float] | None = None
    """Calibrated probability, 0..1, that an unknown person reaches a score; None: not known."""


Rules = Callable[[SearchIndex, Template | None], DecisionRule]
"""The rule for a gallery and the evidence of a template; None asks for what holds in general."""


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
    why: str = "the pack's own threshold"
    """Where the thresholds come from, in words."""


class PackRules:
    """One threshold for every gallery and all evidence: the pack's, or one from the settings."""

    def __init__(self, config: MatchConfig, numbers: DecisionNumbers) -> None:
        """config.threshold, where set, replaces the pack's threshold of the score in use."""
        by_ida = config.score == "ida"
        if config.threshold is not None:
            # A threshold of the operator's own was not set for the pack's rate.
            self._threshold, self._target = config.threshold, None
            self._why = "set in the configuration (match.threshold)"
        else:
            self._threshold = numbers.threshold if by_ida else numbers.cosine_threshold
            self._target, self._why = numbers.target_fpir, numbers.why
        self._centre, self._spread = (
            (numbers.impostor_centre, numbers.impostor_spread)
            if by_ida
            else (numbers.impostor_cosine_centre, numbers.impostor_cosine_spread)
        )

    def __call__(self, gallery: SearchIndex, template: Template | None) -> DecisionRule:
        """The same threshold, with the probability for a gallery of this size."""
        centre, spread = self._centre, self._spread
        probability = None
        if centre is not None and spread is not None and gallery.identities:

            def probability(score: float) -> float:
                people = gallery.identities
                return float(false_positive_probability(score, people, centre, spread))

        return DecisionRule(
            self._threshold, self._why, target_fpir=self._target, probability=probability
        )
