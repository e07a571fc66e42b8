"""Recognition on simulated video, for `facestream bench accuracy`.

Networks see every video once per pack, with given boxes and end to end; each fusion and score is
then decided on the same recordings, with one gallery of everybody who can be enrolled.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import ConfigError
from ..configs.schema import Config
from ..configs.simulation import PRESETS, check, read_simulation
from ..models.pack import Pack, open_pack
from .bench_trackers import compare
from .build import aggregator_of
from .eval_progress import progress_bar
from .eval_tracks import (
    DetectionCounts,
    TrackingCounts,
    TrackingScores,
    count_detections,
    count_tracking,
    score_tracking,
)
from .eval_video import video_weights
from .eval_video_decide import Decider, Watched, watch
from .eval_video_identify import Video, build_case, measure_case, strangers_named
from .eval_video_record import Recording, record
from .eval_video_set import Clip, Rules, VideoSet, read_set
from .report_record import Bad, Draws, Number, measured
from .run import configure
from .sim_cast import cast_from_assets
from .sim_set import Request, plan_videos, render_set

if TYPE_CHECKING:
    from .bench_accuracy import Size
    from .eval_verification import Bootstrap

ALL = "all presets together"
RULES = Rules()


class Variant(NamedTuple):
    """One row of a table."""

    pack: str
    aggregator: str
    matcher: str


class Facts(NamedTuple):
    """What a table is about.

    known, strangers: ways of one person through one video, of people in the gallery and of others;
    people: how many different people these are, of each kind.
    """

    videos: int
    minutes: float
    known: int
    known_people: int
    strangers: int
    strange_people: int


class Found(NamedTuple):
    """Detection and tracking: recall 0..1 and false positives per frame, and our tracks' scores."""

    recall: Number
    false: Number
    tracking: TrackingScores


class Limit(NamedTuple):
    """One way to draw the line: in words, and as settings of a run; none for what runs do."""

    words: str
    settings: tuple[str, ...] = ()


class Measures(NamedTuple):
    """What came out for one way to fuse, score and draw the line, on one set.

    numbers: by key of the report of `evaluate video`. draws: of the same, draw n of every one is of
    the same resample. named: of `strangers` passes, how many had a name. false: alerts. threshold:
    in force.
    """

    numbers: dict[str, Number]
    draws: dict[str, Draws]
    named: int
    strangers: int
    false: int
    threshold: float


class VideoNumbers(NamedTuple):
    """Everything about simulated video; sets are presets, then ALL, `whole` is the last.

    numbers: for a set, a variant, and given boxes or not: of `whole` for every variant, of presets
    for the defaults alone. limits: for a pack's default on `whole`, end to end, by the name of a
    limit. found: by set and pack. enrolled: people in the gallery; refused: photos that were not
    enrolled.
    """

    facts: dict[str, Facts]
    defaults: dict[str, Variant]
    numbers: dict[tuple[str, Variant, bool], Measures]
    limits: dict[tuple[str, str], Measures]
    found: dict[tuple[str, str], Found]
    enrolled: int
    refused: int

    @property
    def whole(self) -> str:
        """The set of everything."""
        return list(self.facts)[-1]

    def variants(self, pack: str) -> list[Variant]:
        """The rows of a pack, its default first."""
        return list(dict.fromkeys(one for _, one, _ in self.numbers if one.pack == pack))


class _Look(NamedTuple):
    """One video of a preset, laid beside its truth."""

    preset: str
    clip: Clip
    recording: Recording
    watched: Watched


def render(name: str, size: Size, seed: int, assets: Path, out: Path) -> None:
    """Render what of a preset is not there yet; each preset has its own seed, so other people.

    Raises ConfigError for an unknown preset, and where the folder holds another simulation.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {name}")
    asked = {key: value for key, value in size._asdict().items() if value is not None}
    settings = dataclasses.replace(read_simulation(name), **asked)
    check(settings)
    own_seed = seed + PRESETS.index(name)
    request = Request(name, settings, own_seed, cast_from_assets(assets), "open")
    frames = round(settings.seconds * settings.fps) * len(plan_videos(request))
    before = 0
    with progress_bar(f"rendering {name}", frames) as advance:

        def show(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        render_set(request, open_pack("open").detector, out, show)


def measure_videos(
    roots: Mapping[str, Path], packs: Sequence[str], store: Path, bootstrap: Bootstrap
) -> VideoNumbers:
    """Record what is not in `store` yet, and measure every variant on it. roots: by preset."""
    sets = {
        name: read_set(root, "own", None, skip_bad=False, bad=[]) for name, root in roots.items()
    }
    photos = {who: some for one in sets.values() for who, some in sorted(one.photos.items())}
    facts = {one: _facts(sets, one, set(photos)) for one in _groups(sets)}
    made = VideoNumbers(facts, {}, {}, {}, {}, len(photos), 0)
    for name in packs:
        pack = open_pack(name)
        looks = {given: _look(sets, pack, store, given=given) for given in (True, False)}
        made.found.update({(one, name): _find(looks[False], one, bootstrap) for one in facts})
        bad: list[Bad] = []
        source = str(looks[True][0].clip.source)
        with Decider(configure(None, [source], pack=name), pack, photos, bad) as decider:
            _measure_pack(made, decider, pack, looks, bootstrap)
        made = made._replace(refused=max(made.refused, len(bad)))
    return made


def _measure_pack(
    made: VideoNumbers,
    decider: Decider,
    pack: Pack,
    looks: Mapping[bool, Sequence[_Look]],
    bootstrap: Bootstrap,
) -> None:
    """Decide a pack's recordings in every way, into `made`. looks: given boxes, and not."""
    name, source = pack.card.name, str(looks[True][0].clip.source)
    default = made.defaults[name] = default_of(pack)
    chosen, limits = pack_variants(pack), limits_of(pack)
    with progress_bar(f"deciding, {name}", 2 * len(chosen) + len(limits)) as advance:
        for variant in chosen:
            settings = f"fuse.aggregator={variant.aggregator}", f"match.score={variant.matcher}"
            config = configure(None, [source], pack=name, settings=settings)
            groups = list(made.facts) if variant == default else [made.whole]
            for given, some in looks.items():
                for group, measures in _decide(decider, config, some, groups, bootstrap):
                    made.numbers[group, variant, given] = measures
                advance(1)
        for limit in limits:
            config = configure(None, [source], pack=name, settings=limit.settings)
            found = _decide(decider, config, looks[False], [made.whole], bootstrap)
            made.limits[name, limit.words] = dict(found)[made.whole]
            advance(1)


def default_of(pack: Pack) -> Variant:
    """What a run does that is told nothing."""
    config = Config(())
    return Variant(pack.card.name, aggregator_of(pack.card, config), config.match.score)


def limits_of(pack: Pack) -> list[Limit]:
    """Where else than by default the line can be drawn: other promises, the pack's own number."""
    if pack.strangers is None:
        return []
    promises = [Limit(f"FPIR {100 * f:g} %", (f"match.target_fpir={f}",)) for f in (0.001, 0.1)]
    if pack.card.decision is None:
        return promises
    own = pack.card.decision.cosine_threshold
    return [*promises, Limit("fixed: the pack's own", (f"match.threshold={own}",))]


def pack_variants(pack: Pack) -> list[Variant]:
    """Every combination of fusion and score that a pack has the parts for, its default first."""
    scores = ["cosine", *(["ida"] if pack.card.ida and pack.anchors is not None else [])]
    rows = [
        Variant(pack.card.name, aggregator, score)
        for score in scores
        for aggregator in ("mean", "quality", *pack.fusion_heads)
    ]
    default = default_of(pack)
    return sorted(rows, key=lambda variant: variant != default)


def compare_trackers(
    roots: Mapping[str, Path], packs: Sequence[str], store: Path
) -> dict[tuple[str, str], dict[str, TrackingScores]] | None:
    """Scores by tracker, for each preset and pack; None where the other trackers are not here."""
    if any(importlib.util.find_spec(name) is None for name in ("trackers", "supervision")):
        return None
    return {(name, pack): compare(roots[name], store, pack) for name in roots for pack in packs}


def _groups(sets: Mapping[str, VideoSet]) -> list[str]:
    return [*sets, *([ALL] if len(sets) > 1 else [])]


def _look(sets: Mapping[str, VideoSet], pack: Pack, store: Path, *, given: bool) -> list[_Look]:
    clips = [(name, clip) for name, one in sets.items() for clip in one.clips]
    looks = []
    what = f"watching, {pack.card.name}, {'given boxes' if given else 'end to end'}"
    with progress_bar(what, sum(clip.truth.frames for _, clip in clips)) as advance:
        for name, clip in clips:
            config = configure(None, [str(clip.source)], pack=pack.card.name)
            rules = RULES if given else None
            recording = record(clip, config, pack, store, advance, given=rules)
            looks.append(_Look(name, clip, recording, watch(clip, recording, RULES)))
    return looks


def _decide(
    decider: Decider,
    config: Config,
    looks: Sequence[_Look],
    groups: Sequence[str],
    bootstrap: Bootstrap,
) -> Iterator[tuple[str, Measures]]:
    """What comes out under a configuration, for presets, or ALL of them together."""
    under = decider.under(config)
    videos: list[tuple[str, Video]] = []
    for one in looks:
        decisions = under.decide(one.clip, one.recording, one.watched)
        clip = one.clip._replace(name=f"{one.preset} {one.clip.name}")  # presets share names
        videos.append((one.preset, Video(clip, one.watched, decisions)))
    for group in groups:
        some = [video for preset, video in videos if group in (preset, ALL)]
        case = build_case(some, under.identities, under.score)
        tables, _, draws = measure_case(case, bootstrap)
        numbers = {key: value for table in tables for key, value in table.keyed().items()}
        named = strangers_named(case)
        yield group, Measures(numbers, draws, *named, len(case.false), under.threshold)


def _find(looks: Sequence[_Look], group: str, bootstrap: Bootstrap) -> Found:
    """Detection and tracking of one preset or of all, intervals over videos."""
    seen = [one.watched for one in looks if group in (one.preset, ALL)]
    counts: list[DetectionCounts] = []
    tracks: list[TrackingCounts] = []
    for one in seen:
        counts.append(count_detections(one.truth, one.found, one.judged_found))
        tracks.append(count_tracking(one.truth, one.tracked, one.judged_tracked))
    weights = video_weights(len(seen), bootstrap)
    faces, hits, false = (
        np.array([np.sum(column) for column in columns], np.float64)
        for columns in zip(*((one.faces, one.found, one.false) for one in counts), strict=True)
    )
    frames = np.array([one.frames for one in counts], np.float64)
    some = weights @ faces > 0
    return Found(
        measured(hits.sum() / faces.sum(), (weights @ hits)[some] / (weights @ faces)[some]),
        measured(
            false.sum() / frames.sum(), weights @ false / (weights @ frames),
            unit="score", better="lower",
        ),
        score_tracking(tracks, np.ones(len(tracks))),
    )  # fmt: skip


def _facts(sets: Mapping[str, VideoSet], group: str, enrolled: set[str]) -> Facts:
    clips = [clip for name, one in sets.items() if group in (name, ALL) for clip in one.clips]
    ways = {
        (place, face.subject)
        for place, clip in enumerate(clips)
        for face in clip.truth.faces
        if RULES.must_find(face)
    }
    known = [who for _, who in ways if who in enrolled]
    strange = [who for _, who in ways if who not in enrolled]
    seconds = sum(clip.truth.frames / clip.truth.fps for clip in clips)
    return Facts(
        len(clips), seconds / 60, len(known), len(set(known)), len(strange), len(set(strange))
    )
