"""Recognition on simulated video, for `facestream bench accuracy`.

Networks see every video once per pack, with given boxes and end to end; each fusion and score is
then decided on the same recordings, with one gallery of everybody who can be enrolled.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import ConfigError
from ..configs.simulation import PRESETS, check, read_simulation
from ..models.pack import Pack, open_pack
from .bench_trackers import compare
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
from .eval_video_identify import Video, build_case, measure_case
from .eval_video_record import Recording, record
from .eval_video_set import Clip, Rules, VideoSet, read_set
from .report_record import Bad, Number, measured
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


class VideoNumbers(NamedTuple):
    """Everything about simulated video; sets are presets, then ALL.

    numbers: by key of the report of `evaluate video`, for a set, a variant, and given boxes or not.
    found: by set and pack. enrolled: people in the gallery; refused: photos that were not enrolled.
    """

    facts: dict[str, Facts]
    numbers: dict[tuple[str, Variant, bool], dict[str, Number]]
    found: dict[tuple[str, str], Found]
    enrolled: int
    refused: int

    @property
    def variants(self) -> list[Variant]:
        """The rows, in order."""
        return list(dict.fromkeys(variant for _, variant, _ in self.numbers))


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
    numbers: dict[tuple[str, Variant, bool], dict[str, Number]] = {}
    found: dict[tuple[str, str], Found] = {}
    refused = 0
    for name in packs:
        pack = open_pack(name)
        looks = {given: _look(sets, pack, store, given=given) for given in (True, False)}
        found |= {(one, name): _find(looks[False], one, bootstrap) for one in _groups(sets)}
        chosen = list(pack_variants(pack))
        with progress_bar(f"deciding, {name}", len(chosen) * 2 * len(_groups(sets))) as advance:
            for variant in chosen:
                bad: list[Bad] = []
                with ExitStack() as stack:
                    config = configure(
                        None, [str(looks[True][0].clip.source)], pack=name,
                        settings=(f"fuse.aggregator={variant.aggregator}",
                                  f"match.score={variant.matcher}"),
                    )  # fmt: skip
                    decider = stack.enter_context(Decider(config, pack, photos, bad))
                    for given, some in looks.items():
                        for group, measure in _decide(decider, some, sets, bootstrap):
                            numbers[group, variant, given] = measure
                            advance(1)
                refused = max(refused, len(bad))
    facts = {one: _facts(sets, one, set(photos)) for one in _groups(sets)}
    return VideoNumbers(facts, numbers, found, len(photos), refused)


def pack_variants(pack: Pack) -> Iterator[Variant]:
    """Every combination of fusion and score that a pack has the parts for."""
    for aggregator in ("mean", "quality", *pack.fusion_heads):
        for matcher in (
            "cosine",
            *(("ida",) if pack.card.ida and pack.anchors is not None else ()),
        ):
            yield Variant(pack.card.name, aggregator, matcher)


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
    decider: Decider, looks: Sequence[_Look], sets: Mapping[str, VideoSet], bootstrap: Bootstrap
) -> Iterator[tuple[str, dict[str, Number]]]:
    """The numbers of every preset and of all together."""
    videos: dict[str, list[Video]] = {}
    for one in looks:
        decisions = decider.decide(one.clip, one.recording, one.watched)
        clip = one.clip._replace(name=f"{one.preset} {one.clip.name}")  # presets share names
        for group in (one.preset, ALL):
            videos.setdefault(group, []).append(Video(clip, one.watched, decisions))
    for group in _groups(sets):
        case = build_case(videos[group], decider.identities, decider.score)
        tables, _, _ = measure_case(case, bootstrap)
        yield group, {key: value for table in tables for key, value in table.keyed().items()}


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
