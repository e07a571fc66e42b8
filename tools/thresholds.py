"""`facestream thresholds`: what is promised for this gallery, and what promises rest on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from .. import ConfigError
from .gallery_text import JSON, PLACE, echo, open_gallery, table
from .pack_in_use import AUTO, with_gallery_pack

if TYPE_CHECKING:
    from ..configs.schema import Config, MatchConfig
    from ..models.card import Card
    from ..models.ida import DensityModel
    from ..stream.thresholds_report import ThresholdReport

app = typer.Typer(
    help="Thresholds for a promised rate of false alerts: show what is in force for a gallery, "
    "fit what a pack carries to promise it with.",
    no_args_is_help=True,
)


@app.command(epilog="Example: facestream thresholds show --set match.alerts_per_week=1")
def show(
    config: Annotated[Path | None, typer.Argument(help="Configuration file (YAML).")] = None,
    place: str = PLACE,
    pack: Annotated[
        str | None,
        typer.Option(
            help="Model pack; default: the configuration's, or the one the gallery is in use with."
        ),
    ] = None,
    journal: Annotated[
        str | None, typer.Option(help="Event journal; scores of unknown tracks lie beside it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="As in --set match.target_fpir=0.001.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the curve to this page (.html) too.")
    ] = None,
    json: bool = JSON,
) -> None:
    """Show the threshold in force for a gallery, why, and what other promises would take."""
    chosen = _configure(config, place, pack, journal, settings or [])
    report = measure(chosen)
    if plot is not None:
        from .thresholds_page import write_page

        write_page(report, chosen.models.pack, plot)
    if json:
        echo(report)
        return
    console = Console(highlight=False)
    console.print(Text(f"threshold {report.threshold:.3f}: {report.why}"))
    if report.promises:
        shown = table("FPIR", "threshold", "95 %")
        for one in report.promises:
            shown.add_row(
                f"{100 * one.fpir:g} %", f"{one.threshold:.3f}", f"{one.low:.3f} to {one.high:.3f}"
            )
        console.print(shown)
    counted = "" if report.per_week is None else f", {report.per_week:,.0f} a camera and week"
    console.print(Text(f"unknown tracks seen here: {report.seen:,}{counted}"))


@app.command(epilog="Example: facestream thresholds fit FACES/ --pack packs/mine.yaml")
def fit(
    faces: Annotated[
        Path | None,
        typer.Argument(help="Folder with a folder of pictures for each person (or a picture)."),
    ] = None,
    assets: Annotated[
        Path | None,
        typer.Option(help="Instead: where london/ and anchors/ lie; takes role calibration."),
    ] = None,
    pack: str = typer.Option("open", help="Pack to fit."),
    tracks: int = typer.Option(4, min=1, help="Pseudo-tracks of each person."),
    seed: int = typer.Option(1, min=0, help="Of all that is drawn."),
    data: str = typer.Option("", help="Whose faces these are and their licence, for the card."),
    licence: str = typer.Option("", help="Licence of the vectors, for the card."),
    keep: bool = typer.Option(False, help="Keep the embedded views, to fit the same faces again."),
) -> None:
    """Make the tracks of strangers that a pack carries, from faces of people never enrolled.

    They are degraded as cameras see them, decided as a run does, fused by every aggregator, and
    kept beside the card as vectors. Thresholds are then fitted to every gallery by themselves.
    """
    from .thresholds_make import fit_pack

    if (faces is None) == (assets is None):
        raise ConfigError("give a folder of faces, or --assets for the people of the split")
    made = fit_pack(
        pack, faces, assets, tracks=tracks, seed=seed, data=data, licence=licence, keep=keep
    )
    typer.echo(
        f"{made.path}: {made.tracks:,} tracks of {made.people:,} people, {made.decisions:,} "
        f"decisions, fused by {', '.join(made.aggregators)}"
    )


def measure(config: Config) -> ThresholdReport:
    """What holds for the gallery of a configuration. No network is run."""
    from ..configs.paths import journal_path
    from ..models.pack import strangers_of
    from ..models.store import load_card
    from ..stream.known import KnownPeople
    from ..stream.thresholds_fit import FittedRules
    from ..stream.thresholds_report import describe, report_thresholds
    from ..stream.thresholds_seen import SeenScores, scores_path
    from .build import rules_for, setting_words

    card = load_card(config.models.pack)
    journal = Path(config.publish.journal or journal_path())
    seen = SeenScores(scores_path(journal), setting_words(card, config))
    rules = rules_for(card, strangers_of(card), config, seen)
    with (
        open_gallery(config.gallery.url) as gallery,
        KnownPeople(
            gallery,
            pack=card.name,
            embedder=card.checksum(card.embedder.file),
            dimension=card.embedder.dimension,
            anchors=_density(card, config.match),
        ) as known,
    ):
        index = known()[1]
    found = seen.seen()
    seen.close()
    if isinstance(rules, FittedRules):
        return report_thresholds(rules, index, config.match, found)
    return describe(rules(index, None), None, index.identities, config.match, found)


def _density(card: Card, match: MatchConfig) -> DensityModel | None:
    """What a run takes densities from. Raises ConfigError where IDA needs one that is not there."""
    from ..models.anchor_check import card_anchors
    from ..models.pack import load_anchors, load_learned

    anchors = load_anchors(card)
    found: DensityModel | None = None
    if match.density == "learned":
        found = load_learned(card)
    elif anchors is not None:
        found = card_anchors(card, anchors)
    if found is None and match.score == "ida":
        raise ConfigError(
            f"pack {card.name} has nothing for match.density={match.density}: set another one, or "
            "match.score=cosine"
        )
    return found


def _configure(
    path: Path | None, place: str, pack: str | None, journal: str | None, settings: list[str]
) -> Config:
    from ..configs.load import load, override
    from ..configs.schema import CameraConfig, Config, ModelsConfig

    # A camera is needed for a whole configuration, and not looked at here.
    camera = CameraConfig("none", "synthetic:")
    usual = Config((camera,), models=ModelsConfig(pack=AUTO))
    config = load(path) if path is not None else usual
    if place:
        gallery = dataclasses.replace(config.gallery, url=place, folder="")
        config = dataclasses.replace(config, gallery=gallery)
    if pack is not None:
        config = dataclasses.replace(config, models=dataclasses.replace(config.models, pack=pack))
    if journal is not None:
        publish = dataclasses.replace(config.publish, journal=journal)
        config = dataclasses.replace(config, publish=publish)
    for setting in settings:
        config = override(config, setting)
    if config.gallery.folder:
        raise ConfigError(
            "gallery.folder is enrolled for one run alone: enrol it with `facestream enroll`, and "
            "name the gallery with --gallery"
        )
    return with_gallery_pack(config)
