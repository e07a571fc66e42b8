"""Thresholds fitted to the gallery that is searched, for a rate of false alerts that is promised.

The pack's strangers are scored against the gallery, each at every decision of its track, and the
tail of their tracks' maxima is fitted (models/open_set). A new version of the gallery is a new fit:
at once where that takes a moment, else in a thread, and until it is there the last one is scaled.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from .. import FacestreamError
from ..configs.schema import MatchConfig
from ..models.fusion import Doubles
from ..models.open_set import OpenSetFit, fit_open_set, outlying_people
from ..models.open_set_evidence import TRACKS, find_gap
from ..models.open_set_tracks import StrangerTracks
from ..models.search import SearchIndex
from .records import Template
from .thresholds import DecisionRule, Rules
from .thresholds_seen import Seen, nothing_seen

TARGET_FPIR = 0.01
"""What is promised where the operator says nothing."""
TRACKS_PER_WEEK = 1000.0
"""Unknown tracks of a camera in a week, where nobody stated or counted them."""
LEAST_FPIR, MOST_FPIR = 1e-5, 0.5
"""A promise outside is none: nothing near it can be seen in a few hundred people."""
AT_ONCE = 20_000_000
"""Scores (decisions of strangers x people) that are computed while a decision waits: a moment."""
LOOK_SECONDS = 600.0
"""How often what was seen of strangers is looked up."""

log = logging.getLogger(__name__)


class Target(NamedTuple):
    """What is promised: a share of unknown people's tracks, and how the operator put it."""

    fpir: float
    words: str


class FittedRules:
    """One threshold for each gallery, fitted to it; ask from any thread."""

    def __init__(
        self,
        strangers: StrangerTracks,
        config: MatchConfig,
        instead: Rules,
        *,
        seen: Callable[[], Seen] = nothing_seen,
        doubts: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """strangers: the pack's. config: its score, and what is promised (`target_of`).

        instead: rules for galleries that nothing can be fitted to, such as an empty one. seen: what
        is known of unknown tracks here, asked every LOOK_SECONDS of the clock. doubts: why the
        strangers may say less than they seem to; every rule tells it.
        """
        self._strangers, self._config, self._instead = strangers, config, instead
        self._ask, self._clock = seen, clock
        self._doubts = f"; {doubts}" if doubts else ""
        self._lock = threading.Lock()
        # Galleries by weak reference: nothing of one is kept here that is not in use any more.
        self._fitted: tuple[weakref.ref[SearchIndex], OpenSetFit] | None = None
        self._under_way = False
        self._refused: weakref.ref[SearchIndex] | None = None
        self._seen, self._look_at = seen(), clock() + LOOK_SECONDS
        self._rule: tuple[OpenSetFit, Seen, DecisionRule] | None = None
        self._scaled: tuple[OpenSetFit, OpenSetFit] | None = None

    def __call__(self, gallery: SearchIndex, template: Template | None) -> DecisionRule:
        """The rule in force for this gallery. All evidence has the same: see thresholds.md."""
        fit = self.fit(gallery)
        if fit is None:
            return self._instead(gallery, template)
        kept = self._rule
        if kept is None or kept[0] is not fit or kept[1] is not self._seen:
            seen = self._seen
            rule = rule_of(fit.moved(seen.shares), self._config, seen)
            kept = self._rule = fit, seen, replace(rule, why=rule.why + self._doubts)
        return kept[2]

    def fit(self, gallery: SearchIndex, *, wait: bool = False) -> OpenSetFit | None:
        """What the pack's strangers say of this gallery, as far as is known by now; None: nothing.

        wait: for the fit to this very gallery, however long it takes.
        """
        if not gallery.identities:
            return None
        with self._lock:
            if self._clock() >= self._look_at:
                self._look()
            fitted = self._fitted
            if fitted is not None and fitted[0]() is gallery:
                return fitted[1]
            if self._refused is not None and self._refused() is gallery:
                return None
            at_once = len(self._strangers.vectors) * gallery.identities <= AT_ONCE
            if fitted is not None and not (at_once or wait):
                if not self._under_way:
                    self._under_way = True
                    threading.Thread(
                        target=self._fit_beside, args=(gallery,), name="thresholds", daemon=True
                    ).start()
                return self._scale(fitted[1], gallery.identities)
        return self._fit_now(gallery)

    def share(self, gallery: SearchIndex, score: float) -> float | None:
        """What the pack's strangers alone say of a track's best score; None without a fit."""
        fit = self.fit(gallery)
        return None if fit is None else fit.fpir(score)

    def _look(self) -> None:
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            self._seen = self._ask()
        except FacestreamError as error:  # decisions go on with what was known
            log.warning("unknown tracks are not looked up: %s", error)

    def _scale(self, fit: OpenSetFit, identities: int) -> OpenSetFit:
        kept = self._scaled
        if kept is None or kept[0] is not fit or kept[1].identities != identities:
            kept = self._scaled = fit, fit.scaled(identities)
        return kept[1]

    def _fit_now(self, gallery: SearchIndex) -> OpenSetFit | None:
        try:
            fit = fit_to(gallery, self._strangers, self._config.score)
        except FacestreamError as error:
            log.warning("no threshold can be fitted to this gallery: %s", error)
            with self._lock:
                self._refused = weakref.ref(gallery)
            return None
        with self._lock:
            self._fitted = weakref.ref(gallery), fit
        return fit

    def _fit_beside(self, gallery: SearchIndex) -> None:
        try:
            self._fit_now(gallery)
        finally:
            with self._lock:
                self._under_way = False


def target_of(config: MatchConfig, seen: Seen) -> Target:
    """The share of unknown tracks that the operator's words come to.

    Alerts per week are divided by unknown tracks per week: the operator's number, else what was
    counted here, else a guess that the words name as one.
    """
    if config.alerts_per_week is None:
        fpir = TARGET_FPIR if config.target_fpir is None else config.target_fpir
        return Target(fpir, f"FPIR {percent(fpir)}")
    alerts, tracks, how = config.alerts_per_week, config.unknown_tracks_per_week, "stated"
    if tracks is None:
        tracks, how = seen.per_week, "counted"
    if tracks is None:
        tracks, how = TRACKS_PER_WEEK, "assumed until a day is counted"
    fpir = min(max(alerts / tracks, LEAST_FPIR), MOST_FPIR)
    return Target(
        fpir,
        f"{alerts:g} false alerts per camera and week at {tracks:,.0f} unknown tracks ({how}), "
        f"FPIR {percent(fpir)}",
    )


def fit_to(
    gallery: SearchIndex, strangers: StrangerTracks, by: Literal["ida", "cosine"]
) -> OpenSetFit:
    """Fit the maxima of strangers' tracks against a gallery that holds somebody.

    Left out are strangers who are enrolled after all, as far as that shows (`outlying_people`), and
    by IDA synthetic ones: a pack's anchors are their siblings, which makes them score too low.
    Raises ConfigError where too few are left, RecordError for strangers of another embedder.
    """
    if by == "ida":
        strangers = strangers.without(strangers.people[strangers.synthetic])
    scores, cosines = best_scores(gallery, strangers, by)
    maxima = strangers.maxima(scores)
    known = outlying_people(strangers.maxima(cosines), strangers.people, strangers.own_likeness())
    kept = ~np.isin(strangers.people, known)
    fit = fit_open_set(maxima[kept], strangers.people[kept], gallery.identities)
    rows = kept[strangers.tracks]
    reached = scores[rows] >= fit.threshold(TRACKS)
    owners = strangers.people[strangers.tracks[rows]]
    return replace(fit, gap=find_gap(reached, strangers.frames[rows], owners))


def best_scores(
    gallery: SearchIndex, strangers: StrangerTracks, by: Literal["ida", "cosine"]
) -> tuple[Doubles, Doubles]:
    """Each decision's best score in the gallery (T,), and the cosine of that hit."""
    hits = gallery.search(strangers.vectors, 1, by=by)
    found = np.array([(best[0].score, best[0].cosine) for best in hits])
    return found[:, 0], found[:, 1]


def rule_of(fit: OpenSetFit, config: MatchConfig, seen: Seen) -> DecisionRule:
    """The rule that keeps the promise, by a fit; or match.threshold, and what it comes to."""
    gap = "" if fit.gap is None else f"; {fit.gap.words}"
    if config.threshold is not None:
        low, high = fit.fpir_interval(config.threshold)
        return DecisionRule(
            config.threshold,
            "set in the configuration (match.threshold): FPIR "
            f"{percent(fit.fpir(config.threshold))} (95 %: {percent(low)} to {percent(high)}) by "
            f"{fit.words}{gap}",
            probability=fit.fpir,
        )
    target = target_of(config, seen)
    interval = fit.threshold_interval(target.fpir)
    promised = fit.fpir_interval(fit.threshold(target.fpir))
    return DecisionRule(
        fit.threshold(target.fpir),
        f"fitted for {target.words} to {fit.words} (95 %: {interval.low:.3f} to "
        f"{interval.high:.3f}, FPIR {percent(promised.low)} to {percent(promised.high)}){gap}",
        target.fpir,
        (interval.low, interval.high),
        fit.fpir,
    )


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.01), percent(0.00042), percent(0.0)
    ('1 %', '0.042 %', '0 %')
    """
    return f"{100 * share:.2g} %"
