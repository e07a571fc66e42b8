"""The gallery: who is known, and by which embeddings.

`Gallery` is the only door to the store: callers see the records of `gallery_records`, never SQL.
It holds embeddings, file names and check sums of photos, and no photos. Every change is one
transaction that also raises the gallery's version and writes the audit trail, so a reader sees
all of a change or nothing, and a killed program leaves nothing half-made.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, select

from ..models.ida import DensityModel
from . import gallery_density as density
from . import gallery_marks as marking
from . import gallery_read as reading
from . import gallery_roster as rosters
from . import gallery_transfer as transfer
from . import gallery_write as writing
from .gallery_archive import ImportSummary, read_archive, write_archive
from .gallery_engine import Database, Store
from .gallery_errors import GALLERY
from .gallery_packs import GalleryPacks
from .gallery_records import (
    Added,
    AuditEntry,
    Change,
    Details,
    GalleryTemplates,
    Identity,
    Mark,
    NewSample,
    Watchlist,
    check_text,
    check_vector,
    normalise_name,
)
from .gallery_roster import Roster
from .gallery_tables import identities, watchlists

Floats = npt.NDArray[np.float32]


class Gallery(Store):
    """The store of identities. Thread-safe, and safe to share between processes and machines.

    Every method may raise GalleryUnreadable (locked, damaged, unreachable) or GalleryError
    (read-only, no space left), `open` also GalleryMissing; what was stored before stays as it was.
    """

    kind = GALLERY

    def __init__(self, database: Database) -> None:
        """Use `Gallery.open` or `Gallery.temporary`."""
        super().__init__(database)
        self.packs = GalleryPacks(database)
        """The packs whose embeddings it holds: which is in use, and going over to another."""

    def version(self) -> int:
        """The number of changes made so far; one small read, meant to be polled."""
        with self._database.transaction() as connection:
            return reading.read_version(connection)

    def holder(self, digest: str, *, pack: str, embedder: str) -> str | None:
        """The name under which a photo is already enrolled with this pack's embedder, if any."""
        with self._database.transaction() as connection:
            return reading.find_holder(connection, digest, pack, embedder)

    def add_sample(
        self,
        identity: str,
        embedding: Floats,
        *,
        norm: float,
        quality: float,
        pack: str,
        embedder: str,
        source: str,
        digest: str,
        notes: str | None = None,
    ) -> bool:
        """Add a photo's embedding to a person, who is made if new. False: it was there already.

        embedding: (C,) float32, not normalised. embedder: SHA-256 of the embedder's file. source:
        file name of the photo, digest: SHA-256 of its bytes. notes: free text that replaces the
        person's notes; None keeps them.

        Raises EnrolmentRefused for a bad name or a photo that is enrolled under another name,
        GalleryError for a vector that cannot be an embedding of this pack.
        """
        new = NewSample(
            identity=normalise_name(identity),
            embedding=np.asarray(embedding, dtype="<f4"),
            norm=norm,
            quality=quality,
            source=source,
            digest=digest,
        )
        check_text("notes", notes or "")
        with self._database.transaction(write=True) as connection:
            return writing.add_sample(connection, new, pack=pack, embedder=embedder, notes=notes)

    def add_samples(self, new: Sequence[NewSample], *, pack: str, embedder: str) -> Added:
        """Add embeddings to people, in one transaction.

        A photo that is enrolled under another name is refused by itself: its place holds the
        refusal, and the others are added. Raises GalleryError for embeddings of another length
        than this pack's, and what `edit` raises for a `NewSample.change`; then nothing is added.
        """
        with self._database.transaction(write=True) as connection:
            return writing.add_samples(connection, new, pack=pack, embedder=embedder)

    def holders(self, digests: Collection[str], *, pack: str, embedder: str) -> dict[str, str]:
        """The names under which photos are enrolled with this pack's embedder, by digest."""
        with self._database.transaction() as connection:
            return reading.find_holders(connection, digests, pack, embedder)

    def identities(self) -> list[Identity]:
        """Everybody, by name."""
        with self._database.transaction() as connection:
            return reading.read_identities(connection)

    def show(self, name: str) -> Details:
        """All that is known of one person. Raises UnknownIdentity, naming the nearest name."""
        with self._database.transaction() as connection:
            row, _ = reading.find_person(connection, name)
            (identity,) = reading.read_identities(connection, row)
            photos = reading.read_samples(connection, row)
            marks = marking.read_marks(connection, name)
            history = reading.read_audit(connection, identity.id)
            return Details(identity, photos, marks, history)

    def edit(self, name: str, change: Change) -> bool:
        """Change what is kept of a person, in one step. False: all of it was so already.

        Raises UnknownIdentity, EnrolmentRefused for a name that cannot be shown, GalleryError for a
        name that is somebody else's, a validity that ends before it begins, or a bad label.
        """
        with self._database.transaction(write=True) as connection:
            return writing.edit(connection, name, change)

    def remove(self, name: str) -> int:
        """Forget a person: samples and embeddings too, overwritten in the file.

        Returns how many samples went. The audit trail keeps the id and the time. Raises
        UnknownIdentity.
        """
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            row, _ = reading.find_person(connection, name)
            (identity,) = reading.read_identities(connection, row)
            marking.forget_faces(connection, [row])
            writing.remove(connection, [row], "remove")
        self._database.forget_deleted()
        return identity.samples

    def purge(self, *, now: float | None = None) -> tuple[str, ...]:
        """Forget everybody whose `keep_until` has passed, in one step; returns their names."""
        due = identities.c.keep_until <= (time.time() if now is None else now)
        query = select(identities.c.id, identities.c.name).where(due).order_by(identities.c.id)
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            people = connection.execute(query).all()
            if people:
                marking.forget_faces(connection, [one.id for one in people])
                writing.remove(connection, [one.id for one in people], "purge")
        if people:
            self._database.forget_deleted()
        return tuple(one.name for one in people)

    def watchlists(self) -> list[Watchlist]:
        """All watchlists with their members, by name."""
        with self._database.transaction() as connection:
            return reading.read_watchlists(connection)

    def make_watchlist(self, name: str, *, notes: str = "") -> None:
        """Make an empty watchlist. Raises GalleryError where there is one of that name."""
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            writing.make_watchlist(connection, name, notes)

    def remove_watchlist(self, name: str) -> None:
        """Remove a watchlist; its people stay. Raises GalleryError where there is none."""
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            row, title = writing.find_watchlist(connection, name)
            connection.execute(delete(watchlists).where(watchlists.c.id == row))
            writing.record(connection, "watchlist", [""], f"removed {title}")

    def put_on(self, watchlist: str, people: Iterable[str]) -> int:
        """Put people on a watchlist, all or nobody; returns how many were not on it.

        Raises GalleryError for an unknown watchlist, UnknownIdentity for an unknown person.
        """
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            return writing.change_members(connection, watchlist, people, add=True)

    def take_off(self, watchlist: str, people: Iterable[str]) -> int:
        """Take people off a watchlist, all or nobody; returns how many were on it.

        Raises as `put_on` does.
        """
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            return writing.change_members(connection, watchlist, people, add=False)

    def mark_not(
        self,
        name: str,
        embedding: Floats,
        *,
        pack: str,
        embedder: str,
        source: str,
        notes: str = "",
    ) -> Mark:
        """Say that a face is not this person: from the next version on it is not taken for them.

        embedding: (C,) float32, of a photo or a track's template. embedder: SHA-256 of the
        embedder's file; source: where the face was seen. A face that is marked already stays so.
        Raises UnknownIdentity, GalleryError for a vector that cannot be an embedding of this pack.
        """
        vector = np.asarray(embedding, np.float32)
        check_vector(vector)
        check_text("source", source)
        check_text("notes", notes)
        unit = vector / np.linalg.norm(vector)
        with self._database.transaction(write=True) as connection:
            return marking.add_mark(
                connection, name, unit, pack=pack, embedder=embedder, source=source, notes=notes
            )

    def unmark_not(self, key: str) -> Mark:
        """Take a mark back, by its id or the beginning of one. Raises GalleryError for no such."""
        with self._database.transaction(write=True) as connection:
            mark = marking.remove_mark(connection, key)
        self._database.forget_deleted()
        return mark

    def marks(self, name: str | None = None) -> tuple[Mark, ...]:
        """All "not this person" marks, or one person's, oldest first. Raises UnknownIdentity."""
        with self._database.transaction() as connection:
            return marking.read_marks(connection, name)

    def export(self, path: str | Path) -> int:
        """Write everybody, with embeddings, marks and watchlists, into a new archive; how many.

        The audit trail stays here. Raises GalleryError where the file exists or cannot be written.
        """
        with self._database.transaction() as connection:
            archive = transfer.collect(connection)
        write_archive(Path(path), archive)
        return len(archive.content.people)

    def import_archive(
        self, path: str | Path, *, skip: bool = False, erased: bool = False
    ) -> ImportSummary:
        """Add an archive's people in one step: all of them, or nobody.

        skip: leave out those who are here already, whose name is somebody else's here, of whom a
        photo is enrolled, or who were erased here; otherwise they are a GalleryError. erased: bring
        back those who were erased. Raises GalleryError too for an archive that is damaged or newer
        than this program, and for a pack whose embeddings have another length here.
        """
        archive = read_archive(Path(path))
        with self._database.transaction(write=True) as connection:
            return transfer.restore(connection, archive, skip=skip, erased=erased)

    def history(self) -> tuple[AuditEntry, ...]:
        """The audit trail, oldest first. It outlives people, without their names."""
        with self._database.transaction() as connection:
            return reading.read_audit(connection)

    def templates(
        self,
        pack: str,
        embedder: str | None = None,
        *,
        model: DensityModel | None = None,
        now: float | None = None,
    ) -> GalleryTemplates:
        """One fused template per identity: t = n(sum_i q_i n(e_i)) with n(x) = x / |x|.

        e_i are the identity's embeddings made with this pack, q_i their qualities (negative ones
        count as 0; all alike when none is positive). embedder: SHA-256 of the embedder's file;
        embeddings of another file are not comparable and are left out. Without it, a gallery with
        embeddings of two embedders of this pack raises GalleryError. model: whose densities come
        along, as far as `measure` has stored them. now: seconds since 1970, for who is valid; the
        clock's, where it is not given.
        """
        moment = time.time() if now is None else now
        return self.roster(pack, embedder, model=model, now=moment).at(moment)

    def roster(
        self,
        pack: str,
        embedder: str | None = None,
        *,
        model: DensityModel | None = None,
        now: float | None = None,
        since: Roster | None = None,
    ) -> Roster:
        """The templates of everybody who is valid or will be, with their times; as `templates`.

        since: an older one, read with the same arguments, of which only what changed after it is
        read again.
        """
        moment = time.time() if now is None else now
        key = "" if model is None else density.model_key(model)
        with self._database.transaction() as connection:
            whose = None if since is None else rosters.find_changed(connection, since.newest)
            roster = rosters.read_roster(connection, pack, embedder, key, moment, whose)
            if since is not None and whose is not None:
                roster = since.changed(roster, whose, moment)
            return roster._replace(negatives=marking.read_vectors(connection, pack, embedder))

    def measure(self, pack: str, embedder: str, model: DensityModel) -> int:
        """Compute and keep the density of every template that has none by this model.

        So each is computed once, at enrolment, and not whenever a matcher starts. Returns how many
        were kept. The version stays as it is. Raises RecordError where the model is of another
        dimension.
        """
        key = density.model_key(model)
        kept = last = 0
        while True:
            with self._database.transaction() as connection:
                pending = density.read_pending(connection, pack, embedder, key, last)
            if not pending.people:
                return kept
            found, last = model.template_density(pending.vectors), pending.last
            with self._database.transaction(write=True) as connection:
                writing.lock(connection)
                kept += density.store(connection, pack, embedder, key, pending, found)

    def forget_densities(self, pack: str, embedder: str, *, but: Iterable[DensityModel]) -> int:
        """Drop what was measured by models that are not in use any more, such as old anchors.

        Returns how many densities went. The version stays as it is.
        """
        keys = [density.model_key(model) for model in but]
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            return density.keep_only(connection, pack, embedder, keys)
