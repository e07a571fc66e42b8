"""`facestream gallery not`: say that a face is not somebody, see what was said, take it back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from .. import ConfigError, EnrolmentRefused
from .gallery_text import JSON, PLACE, clock, echo, open_gallery, show, table
from .pack_in_use import AUTO, PACK, pack_of
from .sightings_open import STORE, open_store

if TYPE_CHECKING:
    from ..stream.gallery import Gallery
    from ..stream.gallery_records import Mark
    from ..stream.records import Floats

EXAMPLE = "Example: facestream gallery not 'Anna Smith' --sighting 3f2a --note 'her sister'"


class _Marked(NamedTuple):
    """A face (C,), where it was seen, and by which pack and embedder file (SHA-256)."""

    embedding: Floats
    source: str
    pack: str
    embedder: str


def mark_not(
    name: str = typer.Argument("", help="Whom the face was taken for; with --list, only theirs."),
    sighting: str | None = typer.Option(
        None, help="The sighting that shows who it is not: its id, or the beginning of one."
    ),
    photo: Path | None = typer.Option(None, help="Or a photo; its tallest face."),  # noqa: B008
    note: str = typer.Option("", help="Why, in your own words."),
    list_marks: bool = typer.Option(False, "--list", help="List the marks there are."),
    undo: str | None = typer.Option(None, help="Take back the mark of this id, or its beginning."),
    pack: str = PACK,
    place: str = PLACE,
    store: str = STORE,
    json: bool = JSON,
) -> None:
    """Say "this is not NAME" of a sighting or a photo; running matchers follow at once.

    From then on a face is not taken for NAME while it is at least as much like the marked one as
    like NAME. The mark keeps an embedding of the face, no picture, until NAME is removed or the
    mark is taken back. A sighting can be marked where its template is kept.
    """
    if list_marks + (undo is not None) + (sighting is not None) + (photo is not None) != 1:
        raise ConfigError("give one of --sighting, --photo, --list and --undo (see --help)")
    if (sighting or photo) and not name:
        raise ConfigError("NAME is missing: say who it is not")
    with open_gallery(place) as gallery:
        if list_marks:
            _list(gallery, name or None, json=json)
            return
        if undo is not None:
            mark, done = gallery.unmark_not(undo), "taken back"
        else:
            pack = pack_of(gallery) if pack == AUTO else pack
            marked = (
                _of_photo(gallery, name, photo, pack)
                if photo
                else _of_sighting(str(sighting), pack, store)
            )
            mark = gallery.mark_not(
                name,
                marked.embedding,
                pack=marked.pack,
                embedder=marked.embedder,
                source=marked.source,
                notes=note,
            )
            done = "marked"
        version = gallery.version()
    if json:
        echo({done.replace(" ", "_"): mark, "version": version})
    else:
        words = f"{done}: {mark.source} is not {mark.name}"
        if undo is not None:
            words = f"{done}: that {mark.source} is not {mark.name}"
        show(Text(f"{words} (mark {mark.id[:8]}), gallery version {version}"))


def _of_photo(gallery: Gallery, name: str, photo: Path, pack: str) -> _Marked:
    """The tallest face of a photo. Raises EnrolmentRefused, also for a photo of NAME's own."""
    from ..models.pack import open_pack
    from ..models.photo import describe_face, find_faces, tallest_face
    from ..stream.enrol_photos import decode, read_bytes

    content = read_bytes(photo)
    models = open_pack(pack)
    key, embedder = models.card.name, models.card.checksum(models.card.embedder.file)
    digest = hashlib.sha256(content).hexdigest()
    if gallery.holder(digest, pack=key, embedder=embedder) == gallery.show(name).identity.name:
        raise EnrolmentRefused(
            f"{photo} is enrolled as {name}: remove {name} and enrol the right photos instead"
        )
    image = decode(content)
    face = tallest_face(find_faces(models.detector, image))
    if face is None:
        raise EnrolmentRefused(f"no face found in {photo}")
    return _Marked(describe_face(models, image, face).embedding, photo.name, key, embedder)


def _of_sighting(key: str, pack: str, place: str) -> _Marked:
    """The template of a sighting. Raises ConfigError where none is kept."""
    from ..models.store import load_card
    from ..stream.sighting_records import SightingFilter

    card = load_card(pack)
    embedder = card.checksum(card.embedder.file)
    with open_store(place) as store:
        found = store.find(key)
        kept = store.templates(card.name, embedder, SightingFilter(camera=found.camera))
    rows = [row for row, one in enumerate(kept.sightings) if one.id == found.id]
    if not rows:
        raise ConfigError(
            f"no template of sighting {found.id[:8]} by pack {card.name} is kept: set "
            "sightings.templates for those to come, and mark this one by a photo (--photo)"
        )
    source = f"sighting {found.id[:8]}, camera {found.camera}"
    return _Marked(kept.vectors[rows[0]], source, card.name, embedder)


def _list(gallery: Gallery, name: str | None, *, json: bool) -> None:
    marks: tuple[Mark, ...] = gallery.marks(name)
    if json:
        echo({"gallery": gallery.place, "version": gallery.version(), "marks": marks})
        return
    if marks:
        show(marks_table(marks, names=True))
    show(Text(f"marks: {len(marks)}, in {gallery.place}"))


def marks_table(marks: tuple[Mark, ...], *, names: bool) -> Table:
    """Marks, one a line; names: with whom each is not."""
    shown = table("mark", *(["not"] if names else []), "seen in", "pack", "when", "who", "notes")
    for one in marks:
        whom = [one.name] if names else []
        told = [one.source, one.pack, clock(one.created_at), one.actor, one.notes]
        shown.add_row(*map(Text, [one.id[:8], *whom, *told]))
    return shown
