"""`facestream run`: sources in, events out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from .. import ConfigError, FacestreamError
from ..configs.load import check, load, override
from ..configs.schema import CameraConfig, Config

if TYPE_CHECKING:
    from ..models.pack import Pack
    from ..stream.totals import Totals
    from ..stream.watcher import Watcher
    from .build import Parts

INTERRUPTED = 130


def run(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration file (YAML); options below go on top.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Address, file, folder or device; may be given several times."),
    ] = None,
    gallery: Annotated[
        str | None,
        typer.Option(help="Folder of photos (enrolled for this run), gallery file or URL."),
    ] = None,
    pack: Annotated[str | None, typer.Option(help="Model pack.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for events.jsonl, and what is asked for below.")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Write annotated-CAMERA.mp4 too. It shows faces.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Write report.html too. It shows faces.")
    ] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Newest frame wins, also for files (played in real time)."),
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="ZeroMQ endpoint for events; '' publishes nowhere.")
    ] = None,
    journal: Annotated[str | None, typer.Option(help="Event journal (SQLite file).")] = None,
    sightings: Annotated[
        str | None,
        typer.Option(help="Keep sightings, in this file or database (SQLAlchemy URL)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as in --set match.threshold=0.4."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end, no live table.")
    ] = False,
) -> None:
    """Recognise faces in video until the sources end, or Ctrl-C.

    Example: facestream run --source lobby.mp4 --gallery photos/ --output out --page
    """
    chosen = configure(
        config,
        source or [],
        gallery=gallery,
        pack=pack,
        output=output,
        video=video,
        page=page,
        live=live,
        endpoint=endpoint,
        journal=journal,
        sightings=sightings,
        settings=settings or [],
    )
    from ..stream.totals import describe

    totals = execute(chosen, quiet=as_json)
    for camera, why in totals.failed.items():
        typer.echo(f"camera {camera} failed: {why}", err=True)
    if as_json:
        typer.echo(json.dumps(describe(totals), indent=2))
    if totals.interrupted:
        raise typer.Exit(INTERRUPTED)


def configure(
    path: Path | None,
    sources: Sequence[str],
    *,
    gallery: str | None = None,
    pack: str | None = None,
    output: Path | None = None,
    video: bool = False,
    page: bool = False,
    live: bool = False,
    endpoint: str | None = None,
    journal: str | None = None,
    sightings: str | None = None,
    settings: Sequence[str] = (),
) -> Config:
    """The configuration of a file with command-line options on top. Raises ConfigError."""
    if path is None and not sources:
        raise ConfigError("nothing to run: give a configuration file or --source")
    config = load(path) if path is not None else Config(cameras=())
    if sources:
        config = dataclasses.replace(config, cameras=name_cameras(sources))
    if live:
        cameras = tuple(dataclasses.replace(c, mode="live") for c in config.cameras)
        config = dataclasses.replace(config, cameras=cameras)
    if pack is not None:
        models = dataclasses.replace(config.models, pack=pack)
        config = dataclasses.replace(config, models=models)
    if gallery is not None:
        known = {"folder": gallery} if Path(gallery).is_dir() else {"url": gallery}
        blank = dataclasses.replace(config.gallery, folder="", url="")
        config = dataclasses.replace(config, gallery=dataclasses.replace(blank, **known))
    if endpoint is not None:
        publish = dataclasses.replace(config.publish, endpoint=endpoint)
        config = dataclasses.replace(config, publish=publish)
    if journal is not None:
        publish = dataclasses.replace(config.publish, journal=journal)
        config = dataclasses.replace(config, publish=publish)
    if sightings is not None:
        kept = dataclasses.replace(config.sightings, keep=True, url=sightings)
        config = dataclasses.replace(config, sightings=kept)
    if output is not None or video or page:
        shown = dataclasses.replace(
            config.output,
            folder=str(output) if output is not None else config.output.folder or "output",
            video=video or config.output.video,
            page=page or config.output.page,
        )
        config = dataclasses.replace(config, output=shown)
    for setting in settings:
        config = override(config, setting)
    check(config)
    return config


def name_cameras(sources: Sequence[str]) -> tuple[CameraConfig, ...]:
    """Cameras cam1, cam2, ... for the addresses given."""
    return tuple(
        CameraConfig(name=f"cam{number}", url=url) for number, url in enumerate(sources, start=1)
    )


def execute(
    config: Config, *, pack: Pack | None = None, quiet: bool = False, note: str = ""
) -> Totals:
    """Run a configuration with the watchers it asks for; Ctrl-C ends it cleanly.

    pack: one that is open already, for nodes in this process. quiet: no live table. note: what the
    page says of the clip.
    """
    from .build import Parts
    from .pack_in_use import with_gallery_pack
    from .topology import has_nodes, run_nodes

    config = with_gallery_pack(config)
    if has_nodes(config):
        return run_nodes(config, quiet=quiet, note=note, pack=pack)
    with Parts(config, pack) as parts:
        tell_refusals(parts)
        watchers = make_watchers(parts, quiet=quiet, note=note)
        pipeline = parts.pipeline(watchers)
        share_counts(pipeline.totals, watchers)
        try:
            with interruptible(pipeline):
                return pipeline.run()
        except OSError as error:
            # Sources, gallery and journal have errors of their own: this is a file for people.
            raise FacestreamError(
                f"output.folder {config.output.folder} cannot be written: {error.strerror}; every "
                f"event is in the journal {parts.journal.path}"
            ) from error


class Stoppable(Protocol):
    """What runs until it is asked to end."""

    def stop(self) -> None:
        """Ask it to; safe from a signal handler."""
        ...


@contextlib.contextmanager
def interruptible(running: Stoppable) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end what runs cleanly, the second at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        running.stop()
        for caught, previous in before.items():
            signal.signal(caught, previous)

    before = {caught: signal.signal(caught, stop) for caught in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for caught, previous in before.items():
            signal.signal(caught, previous)


def heading(parts: Parts) -> str:
    """What a user should know before anything is seen: where events go, who cannot be named."""
    where = parts.publisher.endpoint or f"the journal {parts.journal.path}"
    lines = [f"events are at {where}; Ctrl-C ends the run"]
    if not parts.gallery.identities():
        lines.append(f"nobody is enrolled in {parts.gallery.place}, so nobody will be named")
    elif missing := parts.known.missing:
        people = "1 person is" if len(missing) == 1 else f"{len(missing)} people are"
        lines.append(f"{people} not enrolled with pack {parts.pack.card.name}: not to be named")
    if expired := parts.known.expired:
        lines.append(f"outside their validity, and not to be named: {', '.join(expired)}")
    return "\n".join(lines)


def tell_refusals(parts: Parts) -> None:
    """Say who of the photos' people was not enrolled, and why."""
    if parts.enrolment is not None:
        for refusal in parts.enrolment.refusals:
            typer.echo(f"not enrolled: {refusal.source}: {refusal.reason}", err=True)


def share_counts(totals: Totals, watchers: Sequence[Watcher]) -> None:
    """Let the page show how many faces are left out: no event tells it."""
    from .page import ReportPage

    for watcher in watchers:
        if isinstance(watcher, ReportPage):
            watcher.rejected = totals.rejected


def goes_on(parts: Parts) -> bool:
    """Whether a run was killed that this one takes up: some camera of it was left in the middle."""
    from ..stream.endings import outline_key

    left = parts.journal.checkpoints()
    names = [camera.name for camera in parts.config.cameras]
    return any(name in left or outline_key(name) in left for name in names)


def make_watchers(parts: Parts, *, quiet: bool, note: str) -> list[Watcher]:
    """The watchers that the configuration asks for."""
    from rich.console import Console

    from .annotate import AnnotatedVideo
    from .events_file import EventsFile
    from .live import LiveTable
    from .page import ReportPage
    from .palette import Palette

    output = parts.config.output
    palette = Palette()
    watchers: list[Watcher] = [parts.seen]
    if not quiet:
        watchers.append(LiveTable(Console(), palette, heading(parts)))
    if not output.folder:
        return watchers
    folder = Path(output.folder)
    try:
        if output.events:
            watchers.append(EventsFile(folder, append=goes_on(parts)))
        if output.video:
            watchers.append(AnnotatedVideo(folder, palette))
        if output.page:
            people = len(parts.gallery.identities())
            watchers.append(
                ReportPage(
                    folder,
                    note=note,
                    gallery_size=people,
                    palette=palette,
                    blur_faces=output.blur_faces,
                )
            )
    except OSError as error:
        raise ConfigError(f"output.folder {folder} cannot be written: {error.strerror}") from error
    return watchers
