"""`facestream bench accuracy`: recognition on simulated video, by preset, pack, fusion and matcher.

Renders the presets, evaluates each with given boxes and end to end, and writes one Markdown page.
Everything is kept in a folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from .. import ConfigError, __version__
from ..configs.simulation import PRESETS

COLUMNS = (
    ("rank 1", "Identification / per video / rank 1"),
    ("TPIR@FPIR 10 %", "Identification / per video / TPIR@FPIR=1e-1"),
    ("TPIR@FPIR 1 %", "Identification / per video / TPIR@FPIR=1e-2"),
    ("matched", "Alerts / threshold in force / matched correctly"),
    ("time to match", "Alerts / threshold in force / time to first correct match"),
    ("false alerts per hour", "Alerts / threshold in force / false alerts per camera-hour"),
)
"""What is told of every variant: heading, and key in the report."""
TRACKING = ("HOTA", "DetA", "AssA", "IDF1", "ID switches")


class Size(NamedTuple):
    """How much is rendered; None: as the preset says."""

    scenes: int | None
    cameras: int | None
    seconds: float | None


class Variant(NamedTuple):
    """One row: pack, aggregator and matcher, with given boxes or end to end."""

    pack: str
    given: bool
    aggregator: str
    matcher: str

    def cells(self) -> list[str]:
        """In words."""
        return [self.pack, "given" if self.given else "ours", self.aggregator, self.matcher]


def bench_accuracy(
    folder: Annotated[Path, typer.Option(help="Folder for videos, and what was seen in them.")],
    out: Annotated[Path, typer.Option(help="Markdown page to write.")] = Path(
        "docs/benchmarks/accuracy.md"
    ),
    assets: Annotated[
        Path | None, typer.Option(help="Faces by the split; default: $FACESTREAM_ASSETS.")
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    pack: Annotated[list[str] | None, typer.Option(help="Default: open.")] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="Scenes of a preset.")] = None,
    cameras: Annotated[int | None, typer.Option(min=1, help="Cameras of a scene.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.2, help="Of each video.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of simulation and bootstrap.")] = 1,
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap; 0: no intervals.")] = 1000,
) -> None:
    """Measure recognition on simulated video for every pack, aggregator and matcher.

    Example: facestream bench accuracy --folder simulated --scenes 2 --seconds 8
    """
    from .eval_tracks import tracking_library

    tracking_library()
    place = assets or (Path(found) if (found := os.environ.get("FACESTREAM_ASSETS")) else None)
    if place is None:
        raise ConfigError("no faces: give --assets FOLDER with london/ and anchors/")
    size, packs = Size(scenes, cameras, seconds), pack or ["open"]
    parts = [heading(size, seed, resamples)]
    for name in preset or PRESETS:
        render(name, size, seed, place, folder / name)
        parts.append(measure_preset(name, folder, packs, seed, resamples))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(parts), encoding="utf-8")
    typer.echo(f"{out}: simulated video only, {len(preset or PRESETS)} presets")


def heading(size: Size, seed: int, resamples: int) -> str:
    """What the page is about."""
    asked = [
        f"--{option} {value:g}"
        for option, value in zip(Size._fields, size, strict=True)
        if value is not None
    ]
    command = " ".join(["facestream bench accuracy", *asked, f"--seed {seed}"])
    machine = platform.processor() or platform.machine()
    return f"""# Accuracy on simulated video

All numbers here are of **simulated** video ([how it is made, and how far it is from real
clips](../simulate.md)): they compare variants with each other, and say little about your cameras.
Written by `{command}` on {datetime.now(UTC):%Y-%m-%d} with facestream {__version__} on {machine}.

Definitions are those of [evaluation.md](../evaluation.md), "Video". Faces *given*: boxes, landmarks
and tracks of the truth; *ours*: end to end, where whoever is not found is missed. Rank 1 and TPIR
are per video; matched, time and false alerts are of the events that a run publishes, at the pack's
threshold. In brackets: 95 % bootstrap intervals over people (over videos for detection and
tracking; {resamples} resamples). With fewer than 100 strangers TPIR@FPIR 1 % is TPIR without any
false positive.
"""


def render(name: str, size: Size, seed: int, assets: Path, out: Path) -> None:
    """Render what of a preset is not there yet."""
    from ..configs.simulation import check, read_simulation
    from ..models.pack import open_pack
    from .eval_progress import progress_bar
    from .sim_cast import cast_from_assets
    from .sim_set import Request, plan_videos, render_set

    asked = {key: value for key, value in size._asdict().items() if value is not None}
    settings = dataclasses.replace(read_simulation(name), **asked)
    check(settings)
    request = Request(name, settings, seed, cast_from_assets(assets), "open")
    frames = round(settings.seconds * settings.fps) * len(plan_videos(request))
    before = 0
    with progress_bar(f"rendering {name}", frames) as advance:

        def show(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        render_set(request, open_pack("open").detector, out, show)


def measure_preset(name: str, folder: Path, packs: Sequence[str], seed: int, resamples: int) -> str:
    """The section of one preset."""
    from .eval_verification import Bootstrap
    from .eval_video import VideoChoices, evaluate_video
    from .report_text import number_words

    rows: list[list[str]] = []
    found: list[list[str]] = []
    for variant in variants(packs):
        result = evaluate_video(
            folder / name,
            VideoChoices(
                "own",
                pack=variant.pack,
                settings=(
                    f"fuse.aggregator={variant.aggregator}",
                    f"match.score={variant.matcher}",
                ),
                given=variant.given,
                store=folder / "seen",
                bootstrap=Bootstrap(resamples, seed),
            ),
        )
        numbers = result.report.numbers()
        rows.append([*variant.cells(), *(number_words(numbers[key]) for _, key in COLUMNS)])
        if not variant.given and variant.pack not in [row[0] for row in found]:
            keys = ["Detection / all / recall"]
            keys += ["Detection / all / false positives per frame"]
            keys += [f"Tracking / all videos / {column}" for column in TRACKING]
            found.append([variant.pack, *(number_words(numbers[key]) for key in keys)])
    facts = result.report.data.facts
    about = f"{facts['videos']} simulated videos, {facts['minutes']} minutes, {rows_words(facts)}."
    head = ["Pack", "Faces", "Fusion", "Score", *(name for name, _ in COLUMNS)]
    detection = ["Pack", "Recall", "False positives per frame", *TRACKING]
    return "\n".join(
        [f"## Simulated: {name}", "", about, "", *markdown(detection, found), "",
         *markdown(head, rows), ""]
    )  # fmt: skip


def rows_words(facts: dict[str, str]) -> str:
    """How many faces there are, in words."""
    return f"{facts['that must be found']} of {facts['annotated faces']} faces must be found"


def variants(packs: Sequence[str]) -> Iterator[Variant]:
    """Every combination that a pack has the parts for."""
    from ..models.pack import open_pack

    for name in packs:
        pack = open_pack(name)
        aggregators = ["mean", "quality", *(["caface"] if pack.caface_head else [])]
        matchers = [*(["ida"] if pack.card.ida and pack.anchors is not None else []), "cosine"]
        for given in (True, False):
            for aggregator in aggregators:
                for matcher in matchers:
                    yield Variant(name, given, aggregator, matcher)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]
