"""Identification end to end: TPIR@FPIR per track and per video, time to match, false alerts.

A track is decided many times, and any of these decisions may raise an alert: against each person
of the gallery it has the best score of all its decisions, mates and non-mates alike. The same by
the last decision alone is told beside it. Whoever is not found counts as missed: a person of the
gallery whom no decided track shows scores -inf to everybody. Intervals are bootstrap over people;
what shows nobody of the truth counts as one more person per video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..models.counts import share_interval
from ..models.fusion import Floats
from ..models.identification import ProbeRanks, closed_set, open_set, rank_probes
from ..models.scores import identity_weights
from .eval_identify import FPIRS, Search, column_names, identification_plots
from .eval_verification import Bootstrap
from .eval_video_decide import Decisions, Seen, SystemTrack, Watched
from .eval_video_set import Clip
from .report_record import Curve, Draws, Number, Plot, Row, Table, measured

RANKS = (1, 5)
_LAST = np.iinfo(np.int32).max
"""Rank of a person who was not found, whatever the size of the gallery."""
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Video(NamedTuple):
    """One video: its truth, what was seen, and what was decided."""

    clip: Clip
    watched: Watched
    decisions: Decisions


class Pass(NamedTuple):
    """One person's way through one video: a track of the truth with faces that must be found.

    start: time of the first such face, s. matched: s until the first correct match, inf for none.
    misnamed: whether an alert on these faces named somebody else.
    """

    person: int
    video: int
    track: int
    start: float
    matched: float
    misnamed: bool


class Probes(NamedTuple):
    """Searches: persons (P,), scores (P, G), and which of them nobody made (P,)."""

    persons: Integers
    scores: Doubles
    missed: npt.NDArray[np.bool_]


class DecidedTrack(NamedTuple):
    """A track that was decided. track, person: whom it shows in most frames, by the truth.

    scores: the best of all its decisions (G,). last: those of its last decision (G,). best: where
    to see it, with the person whom the truth has there; see `_best_frame`.
    """

    video: int
    track: int
    person: int
    scores: Doubles
    last: Doubles
    best: tuple[Seen, int] | None


class Case(NamedTuple):
    """Everything that the numbers are made of.

    people: names by person number, those of the gallery (G of them) first. tracks: those that were
    decided. searches: by name. false: the person whom each false alert shows (F,). hours: of video.
    """

    people: list[str]
    enrolled: int
    passes: list[Pass]
    tracks: list[DecidedTrack]
    searches: dict[str, Probes]
    false: Integers
    hours: float


def build_case(
    videos: Sequence[Video], identities: Sequence[str], score: Callable[[Floats], Doubles]
) -> Case:
    """Put together what was decided on all videos. score: of templates (T, C), (T, G)."""
    names = {face.subject for one in videos for face in one.clip.truth.faces}
    people = [*identities, *sorted(names - set(identities))]
    people += [f"nobody in {one.clip.name}" for one in videos]
    numbers = {name: number for number, name in enumerate(people)}
    passes: list[Pass] = []
    tracks: list[DecidedTrack] = []
    false: list[int] = []
    for place, one in enumerate(videos):
        persons = {face.track: numbers[face.subject] for face in one.clip.truth.faces}
        persons[0] = numbers[f"nobody in {one.clip.name}"]
        passes += _passes(one, place, persons, people)
        for track in one.decisions.tracks:
            if track.templates:
                scores = score(np.stack(track.templates))
                person = persons[track.shown]
                best = _best_frame(track, persons)
                tracks.append(
                    DecidedTrack(place, track.shown, person, scores.max(axis=0), scores[-1], best)
                )
        for alert in one.decisions.alerts:
            if people[persons[alert.shown]] != alert.identity:
                false.append(persons[alert.shown])
    hours = sum(one.clip.truth.frames / one.clip.truth.fps for one in videos) / 3600
    return Case(
        people,
        len(identities),
        passes,
        tracks,
        _searches(passes, tracks, len(identities)),
        np.array(false, np.int64),
        hours,
    )


def _best_frame(track: SystemTrack, persons: dict[int, int]) -> tuple[Seen, int] | None:
    """The frame that weighs most of those that show the track's own person, and this person.

    A track that goes over to another person may have no such frame: then the one that weighs most,
    and whom it shows. None where no frame was kept. persons: by the truth's track, 0 for nobody.
    """
    seen = [(one, persons[one.shown]) for one in track.seen]
    own = [one for one in seen if one[1] == persons[track.shown]]
    return next(iter([*own, *seen]), None)


def _passes(one: Video, place: int, persons: dict[int, int], people: list[str]) -> list[Pass]:
    """The ways of all people through a video, with the time of their first correct match."""
    fps = one.clip.truth.fps
    starts: dict[int, float] = {}
    watched = one.watched
    for number, truth, judged in zip(
        watched.numbers, watched.truth, watched.judged_tracked, strict=True
    ):
        for track in truth.ids[judged.counted]:
            starts.setdefault(int(track), number / fps)
    passes = []
    for track, start in sorted(starts.items()):
        name = people[persons[track]]
        here = [alert for alert in one.decisions.alerts if alert.shown == track]
        times = [alert.seconds for alert in here if alert.identity == name]
        waited = max(0.0, min(times) - start) if times else float("inf")
        misnamed = len(times) < len(here)
        passes.append(Pass(persons[track], place, track, start, waited, misnamed))
    return passes


def _searches(
    passes: Sequence[Pass], tracks: Sequence[DecidedTrack], enrolled: int
) -> dict[str, Probes]:
    best = np.array([one.scores for one in tracks]).reshape(len(tracks), enrolled)
    last = np.array([one.last for one in tracks]).reshape(len(tracks), enrolled)
    return {
        "per track": _per_track(passes, tracks, best),
        "per video": _per_video(passes, tracks, best),
        "per track, last decision": _per_track(passes, tracks, last),
        "per video, last decisions": _per_video(passes, tracks, last),
    }


def _per_track(passes: Sequence[Pass], tracks: Sequence[DecidedTrack], scores: Doubles) -> Probes:
    """Every decided track is a probe, and every pass of the gallery's people that has none."""
    enrolled = scores.shape[1]
    followed = {(one.video, one.track) for one in tracks}
    missed = [
        p.person for p in passes if p.person < enrolled and (p.video, p.track) not in followed
    ]
    persons = [one.person for one in tracks] + missed
    rows = np.concatenate([scores, np.full((len(missed), enrolled), -np.inf)])
    return Probes(np.array(persons, np.int64), rows, np.arange(len(rows)) >= len(tracks))


def _per_video(passes: Sequence[Pass], tracks: Sequence[DecidedTrack], scores: Doubles) -> Probes:
    """Every person in every video is a probe, with the best scores of all tracks that show them."""
    rows: dict[tuple[int, int], list[Doubles]] = {(p.video, p.person): [] for p in passes}
    for one, row in zip(tracks, scores, strict=True):
        rows.setdefault((one.video, one.person), []).append(row)
    nothing = np.full(scores.shape[1], -np.inf)
    best = [np.max(some, axis=0) if some else nothing for some in rows.values()]
    persons = np.array([person for _, person in rows], np.int64)
    missed = np.array([not some for some in rows.values()], np.bool_)
    return Probes(persons, np.array(best).reshape(len(rows), scores.shape[1]), missed)


def rank(probes: Probes) -> ProbeRanks:
    """Ranks of the probes; a probe that nobody made is behind everybody."""
    ranks = rank_probes(probes.scores, probes.persons, np.arange(probes.scores.shape[1]))
    lost = probes.missed & ranks.mated
    return ranks._replace(ranks=np.where(lost, _LAST, ranks.ranks))


def measure_case(
    case: Case, bootstrap: Bootstrap
) -> tuple[list[Table], list[Plot], dict[str, Draws]]:
    """Tables, plots and draws."""
    weights = np.zeros((0, len(case.people)), np.uint16)
    if bootstrap.resamples and len(case.people) > 1:
        weights = identity_weights(len(case.people), bootstrap.resamples, seed=bootstrap.seed)
    searches = [Search(name, rank(probes)) for name, probes in case.searches.items()]
    draws: dict[str, Draws] = {}
    tables = [
        _search_table(searches, case, weights, draws),
        _alert_table(case, weights, draws),
    ]
    plots = [_time_plot(case)] if _known(case) else []
    if all(one.ranks.mated.any() for one in searches):
        plots += identification_plots(searches, longest=min(50, max(2, case.enrolled)))
    return tables, plots, draws


def _search_table(
    searches: Sequence[Search], case: Case, weights: npt.NDArray[np.uint16], draws: dict[str, Draws]
) -> Table:
    title, columns = "Identification", column_names(RANKS, FPIRS)
    rows = []
    for one, probes in zip(searches, case.searches.values(), strict=True):
        everyone = np.arange(len(probes.persons))
        drawn = [
            _rates(one.ranks.take(np.repeat(everyone, row[probes.persons]))) for row in weights
        ]
        sample = np.array(drawn).reshape(len(weights), len(columns))
        values = _rates(one.ranks)
        cells: list[Number | str] = [
            _number(f"{title} / {one.name} / {column}", value, sample[:, place], draws)
            for place, (column, value) in enumerate(zip(columns, values, strict=True))
        ]
        mated = one.ranks.mated
        counts = (int(mated.sum()), int((mated & probes.missed).sum()), int((~mated).sum()))
        rows.append(Row(one.name, [*cells, *(f"{count:,}" for count in counts)]))
    return Table(
        title,
        "probes",
        [*columns, "of the gallery", "of these not found", "others"],
        rows,
        "Per track: each decided track, and each person of the gallery passing without one. Per "
        "video: each person in each video, by the best of their tracks. By the best score of all "
        "decisions of a track, or of its last one.",
    )


def _rates(ranks: ProbeRanks) -> list[float]:
    """Closed-set rates and TPIRs; NaN where there are no probes to say it."""
    mated = ranks.mated
    closed = [closed_set(ranks, n) if mated.any() else float("nan") for n in RANKS]
    both = mated.any() and not mated.all()
    return closed + [open_set(ranks, fpir).tpir if both else float("nan") for fpir in FPIRS]


def _alert_table(case: Case, weights: npt.NDArray[np.uint16], draws: dict[str, Draws]) -> Table:
    """What somebody at the screen gets, at the threshold in force."""
    title = "Alerts"
    known = _known(case)
    persons = np.array([one.person for one in known], np.int64)
    times = np.array([one.matched for one in known])
    hit = np.isfinite(times)
    false = np.bincount(case.false, minlength=len(case.people))

    def values(times_each: npt.NDArray[np.integer], false_alerts: float) -> list[float]:
        drawn = np.repeat(times, times_each)
        found = drawn[np.isfinite(drawn)]
        return [
            len(found) / len(drawn) if len(drawn) else float("nan"),
            float(np.median(found)) if len(found) else float("nan"),
            false_alerts / case.hours,
        ]

    sample = np.array(
        [values(row[persons], float((row * false).sum())) for row in weights]
    ).reshape(len(weights), 3)
    whole = values(np.ones(len(known), np.int64), float(false.sum()))
    name = "threshold in force"
    columns = ["matched correctly", "time to first correct match", "false alerts per camera-hour"]
    key = [f"{title} / {name} / {column}" for column in columns]
    cells: list[Number | str] = [
        _number(key[0], whole[0], sample[:, 0], draws),
        _number(key[1], whole[1], sample[:, 1], draws, unit="seconds", better="lower"),
        _number(key[2], whole[2], sample[:, 2], draws, unit="count", better="lower"),
    ]
    others = int((case.false >= case.enrolled).sum())
    named, strangers = strangers_named(case)
    share = Number(None, better="lower")
    if strangers:
        share = Number(
            named / strangers, "share", *share_interval(named, strangers), better="lower"
        )
    cells += [
        share,
        f"{int(hit.sum())} of {len(known)}",
        f"{named} of {strangers}",
        f"{len(case.false)}",
        f"{others}",
    ]
    columns += ["strangers named", "passes matched", "strangers", "false alerts"]
    return Table(
        title,
        "at the",
        [*columns, "of these not of the gallery"],
        [Row(name, cells)],
        "Matched correctly: passes of the gallery's people with a correct match event. Time: "
        "median of these, from the first face that had to be found. Strangers named: passes of "
        "others with any match event; its interval is exact (Clopper and Pearson).",
    )


def strangers_named(case: Case) -> tuple[int, int]:
    """How many passes of people who are not enrolled had any name, and how many there were."""
    strange = [one for one in case.passes if one.person >= case.enrolled]
    return sum(one.misnamed for one in strange), len(strange)


def _number(
    key: str, value: float, sample: Doubles, draws: dict[str, Draws], **more: object
) -> Number:
    if len(sample):
        draws[key] = sample
    return measured(value, sample, **more)  # type: ignore[arg-type]


def _known(case: Case) -> list[Pass]:
    """The passes of people of the gallery."""
    return [one for one in case.passes if one.person < case.enrolled]


def _time_plot(case: Case) -> Plot:
    """Share of passes with a correct match, by the time since the first face."""
    known = _known(case)
    times = np.sort([one.matched for one in known if np.isfinite(one.matched)])
    shares = np.arange(1, len(times) + 1) / len(known)
    x, y = [0.0, *times.tolist()], [0.0, *shares.tolist()]
    return Plot(
        "Time to first correct match",
        "seconds since the first face that had to be found",
        "share of passes matched",
        [Curve("passes", x, y, steps=True)],
    )
