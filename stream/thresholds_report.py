"""What is promised, and what else could be: one record for the command line and the console."""

from __future__ import annotations

import msgspec
import numpy as np

from ..configs.schema import MatchConfig
from ..models.open_set import OpenSetFit
from ..models.search import SearchIndex
from .thresholds import DecisionRule
from .thresholds_fit import FittedRules, rule_of
from .thresholds_seen import Seen

PROMISES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
POINTS = 120


class Promise(msgspec.Struct, frozen=True):
    """A rate, and the threshold that keeps it, with its 95 % interval."""

    fpir: float
    threshold: float
    low: float
    high: float


class CurvePoint(msgspec.Struct, frozen=True):
    """The share of unknown tracks that reach a threshold, with its 95 % interval."""

    threshold: float
    fpir: float
    low: float
    high: float


class ThresholdReport(msgspec.Struct, frozen=True):
    """Thresholds of one gallery. curve: by ascending threshold; empty where nothing is fitted.

    tracks, people: what the fit rests on. seen: unknown tracks of this place; per_week: how many a
    camera sees in a week, None before a day was counted.
    """

    gallery_people: int
    score: str
    threshold: float
    target_fpir: float | None
    interval: tuple[float, float] | None
    why: str
    tracks: int
    people: int
    seen: int
    per_week: float | None
    promises: tuple[Promise, ...]
    curve: tuple[CurvePoint, ...]


def report_thresholds(
    rules: FittedRules, gallery: SearchIndex, config: MatchConfig, seen: Seen
) -> ThresholdReport:
    """What is in force for a gallery, and the whole curve; waits for the fit."""
    plain = rules.fit(gallery, wait=True)
    fit = None if plain is None else plain.moved(seen.shares)
    rule = rules(gallery, None) if fit is None else rule_of(fit, config, seen)
    return describe(rule, fit, gallery.identities, config, seen)


def describe(
    rule: DecisionRule, fit: OpenSetFit | None, people: int, config: MatchConfig, seen: Seen
) -> ThresholdReport:
    """The record of a rule and, where there is one, of the fit behind it."""
    return ThresholdReport(
        people,
        config.score,
        rule.threshold,
        rule.target_fpir,
        rule.interval,
        rule.why,
        0 if fit is None else len(fit.maxima),
        0 if fit is None else fit.people,
        len(seen.shares),
        seen.per_week,
        () if fit is None else tuple(_promise(fit, fpir) for fpir in PROMISES),
        () if fit is None else tuple(_curve(fit)),
    )


def _promise(fit: OpenSetFit, fpir: float) -> Promise:
    return Promise(fpir, fit.threshold(fpir), *fit.threshold_interval(fpir))


def _curve(fit: OpenSetFit) -> list[CurvePoint]:
    """From where half of the tracks pass to where one in 10,000 does."""
    low, high = fit.threshold(0.5), fit.threshold(1e-4)
    return [
        CurvePoint(float(score), fit.fpir(float(score)), *fit.fpir_interval(float(score)))
        for score in np.linspace(low, high, POINTS)
    ]
