"""`facestream enroll`: photos, tables and clips into the gallery."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import ConfigError, EnrolmentRefused, FacestreamError
from ..configs.schema import EnrolConfig
from .gallery_text import JSON, PLACE, open_gallery
from .pack_in_use import AUTO, chosen_pack

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..stream.enrol import Enroller
    from ..stream.enrol_records import EnrolmentSummary, PhotoResult
    from ..stream.gallery import Gallery
    from ..stream.gallery_records import Change


Place = Annotated[
    str,
    typer.Argument(
        help="A photo, or a folder: NAME.jpg (more of NAME: NAME#2.jpg), or NAME/*.jpg; a table of "
        "photos (.csv); a clip of one person, or a camera's address."
    ),
]
Duplicates = Annotated[
    Literal["refuse", "merge", "add"],
    typer.Option(help="What becomes of a new person who looks like somebody in the gallery."),
]
AggregatorName = Annotated[
    Literal["auto", "mean", "quality", "learned", "caface"],
    typer.Option(help="What fuses the faces of a clip; auto: what the pack does in a run."),
]

NAME = typer.Option(
    None, help="Whose photos or clip these are; default: the name of the file or its folder."
)
PACK = typer.Option(
    AUTO,
    help="Model pack, or the path of a card; auto: the one the gallery is in use with, open for a "
    "new gallery.",
)
LARGEST = typer.Option(
    False, "--largest", help="Of several people take the one with the largest face."
)
SMALLEST_FACE = typer.Option(
    EnrolConfig.smallest_face, help="Refuse faces lower than this many pixels in the photo."
)
LEAST_QUALITY = typer.Option(
    None, help="Refuse faces of a lower quality, in the pack's unit; default: none is refused."
)
DUPLICATE_SCORE = typer.Option(
    None, help="Cosine from which on a face looks like somebody; default: by pack and gallery."
)
SECONDS = typer.Option(
    None, min=0.1, help="Watch so much of a clip; a camera needs it.", show_default="all"
)
NOTE = typer.Option(None, help="Free text kept with everybody enrolled here.")
BASIS = typer.Option(
    None, help="Legal basis, or reference to the consent, kept with everybody enrolled here."
)


def enroll(
    path: Place,
    name: str | None = NAME,
    gallery: str = PLACE,
    pack: str = PACK,
    largest: bool = LARGEST,
    smallest_face: float = SMALLEST_FACE,
    least_quality: float | None = LEAST_QUALITY,
    duplicates: Duplicates = "refuse",
    duplicate_score: float | None = DUPLICATE_SCORE,
    aggregator: AggregatorName = "auto",
    seconds: float | None = SECONDS,
    note: str | None = NOTE,
    basis: str | None = BASIS,
    json: bool = JSON,
) -> None:
    """Enrol people: exactly one face in each photo, one person in a clip. No pictures are stored.

    A photo that is enrolled already is skipped: an interrupted run can simply be repeated.

    Exit code 5 when everything was refused.

    Example: facestream enroll photos/ --gallery people.db
    """
    # Networks and the database are slow to import, and `--help` needs neither.
    from ..models.pack import open_pack
    from ..stream.enrol import Enroller
    from .build import measure_people

    kind = _kind_of(path)
    _check(path, kind, name=name, texts=(note, basis), seconds=seconds)
    # The pack first: without it no empty gallery is made.
    models = open_pack(chosen_pack(pack, gallery))
    rules = EnrolConfig(smallest_face, least_quality, largest, duplicates, duplicate_score)
    with open_gallery(gallery, create=True) as store:
        enroller = Enroller(models, store, rules, aggregator=aggregator)
        run = _Run(path, store)
        with run.told(as_json=json):
            if kind == "clip":
                run.clip(enroller, name, seconds, _change(note, basis))
            elif kind == "table":
                enroller.enrol_table(path, progress=run.advance)
            else:
                change = _change(note, basis)
                enroller.enrol_folder(path, name=name, change=change, progress=run.advance)
            run.whole = True
            measure_people(store, models)
        run.summary.require_somebody()


def _kind_of(path: str) -> Literal["photos", "table", "clip"]:
    from ..stream.enrol_photos import CLIPS
    from ..stream.redact import redact_address

    if "://" in path or path.startswith(("/dev/", "synthetic:")):
        return "clip"
    place = Path(path)
    if not place.exists():
        raise EnrolmentRefused(f"no photo, folder, table or clip at {redact_address(path)}")
    suffix = place.suffix.lower()
    if place.is_dir() or suffix not in {".csv", *CLIPS}:
        return "photos"
    return "table" if suffix == ".csv" else "clip"


def _check(
    path: str,
    kind: str,
    *,
    name: str | None,
    texts: tuple[str | None, ...],
    seconds: float | None,
) -> None:
    """Raise ConfigError for options that say nothing about this kind of path."""
    if kind == "table" and (name is not None or any(text is not None for text in texts)):
        raise ConfigError("a table says names, notes and bases itself: leave these options out")
    if kind == "clip" and name is None and not Path(path).exists():
        raise ConfigError("a camera's address says nobody's name: give one (--name)")
    if kind == "clip":
        from ..stream.enrol_clip import check_end

        check_end(path, seconds)
    elif seconds is not None:
        raise ConfigError(f"--seconds is for a clip, and {path} is none")


def _change(note: str | None, basis: str | None) -> Change | None:
    from msgspec import UNSET

    from ..stream.gallery_records import Change

    if note is None and basis is None:
        return None
    return Change(notes=UNSET if note is None else note, basis=UNSET if basis is None else basis)


def _shown(place: str) -> str:
    """A path as it can be printed, or a camera's address without its passwords."""
    from ..stream.enrol_records import shown
    from ..stream.redact import redact_address

    return redact_address(place) if "://" in place else shown(place)


@dataclass
class _Run:
    """What was done so far. It is told at the end, and where the end comes early, too."""

    path: str
    gallery: Gallery
    results: list[PhotoResult] = field(default_factory=list)
    whole: bool = False
    begun: float = field(default_factory=time.monotonic)
    bar: Progress | None = None

    @property
    def summary(self) -> EnrolmentSummary:
        """All results so far."""
        from ..stream.enrol_records import EnrolmentSummary

        return EnrolmentSummary(_shown(self.path), tuple(self.results))

    def advance(self, done: int, total: int, result: PhotoResult) -> None:
        """One more is done."""
        self.results.append(result)
        if self.bar is not None:
            # By the whole run: photos come in batches, which misleads rich's own estimate.
            rate = done / max(time.monotonic() - self.begun, 1e-3)
            left = timedelta(seconds=round((total - done) / rate))
            words = f"{rate:.1f} photos/s, {left} left"
            self.bar.update(self.bar.task_ids[0], completed=done, total=total, rate=words)

    def clip(
        self, enroller: Enroller, name: str | None, seconds: float | None, change: Change | None
    ) -> None:
        """Enrol one clip."""
        from ..stream.enrol_photos import person_of
        from ..stream.enrol_records import refused, shown

        person = name or person_of(Path(self.path))
        try:
            result = enroller.enrol_clip(person, self.path, seconds=seconds, change=change)
        except EnrolmentRefused as refusal:
            place = self.path if "://" in self.path else Path(self.path).name
            result = refused(_shown(place), shown(person), refusal)
        self.advance(1, 1, result)

    @contextmanager
    def told(self, *, as_json: bool) -> Iterator[None]:
        """Show progress while the block runs, and at its end, or where it breaks off, what is done.

        A run that broke off before anything was done has nothing to tell.
        """
        from .enroll_text import RunFacts, enrolment_progress, print_json, print_summary

        def tell() -> None:
            seconds = round(time.monotonic() - self.begun, 3)
            facts = RunFacts(self.gallery.place, self.gallery.version(), self.whole, seconds)
            (print_json if as_json else print_summary)(self.summary, facts)

        try:
            with enrolment_progress() as self.bar:
                yield
        except (FacestreamError, KeyboardInterrupt):
            if self.results:
                tell()
            raise
        tell()
