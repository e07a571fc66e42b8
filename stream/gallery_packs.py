"""The packs of a gallery: their embeddings lie side by side, one is in use, and another takes over.

A gallery is matched with the pack in use. Photos are embedded anew with another pack beside it, as
long as that takes; then one change puts the other one in use, and the old embeddings can go.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import msgspec

from . import gallery_pack_rows as rows
from . import gallery_write as writing
from .gallery_engine import Database
from .gallery_pack_rows import PackKey, WaitingSample
from .gallery_read import read_version
from .gallery_records import Floats, check_line, check_measures, check_vector


class PackStatus(msgspec.Struct, frozen=True):
    """What a gallery holds of one pack.

    dimension: numbers of an embedding. people, samples: how many have an embedding. waiting: who
    has one of the pack in use (or, while none is in use, any) and none of this one, in the order
    of enrolment, without those whose time is over. samples_waiting: samples without an embedding
    of this pack.
    """

    pack: str
    embedder: str
    in_use: bool
    dimension: int
    people: int
    samples: int
    waiting: tuple[str, ...]
    samples_waiting: int


class NewEmbedding(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What a pack makes of a sample that is in the gallery, known by the digest of its photo.

    embedding: (C,) float32, not normalised. Raises GalleryError for what cannot be one.
    """

    digest: str
    embedding: Floats
    norm: float
    quality: float

    def __post_init__(self) -> None:
        """Check the vector and its numbers."""
        check_vector(self.embedding)
        check_measures(self.norm, self.quality)
        check_line("digest", self.digest)


class Switch(msgspec.Struct, frozen=True):
    """A pack that is in use now. before: the one before, "" for none; changed: False if it was so.

    without: people who were matched before and have no embedding of this pack. marks: how many "not
    this person" marks were made with the pack before, and hold with it alone.
    """

    pack: str
    embedder: str
    before: str
    changed: bool
    without: tuple[str, ...]
    marks: int
    version: int


class Dropped(msgspec.Struct, frozen=True):
    """What went with a pack.

    samples: those that had no other embedding; without: people who are left without any; marks:
    "not this person" marks that were made with it.
    """

    pack: str
    embeddings: int
    samples: int
    without: tuple[str, ...]
    marks: int
    version: int


class GalleryPacks:
    """`Gallery.packs`. Thread-safe; raises what every method of the gallery may raise."""

    def __init__(self, database: Database) -> None:
        """Use `Gallery.packs`."""
        self._database = database

    def in_use(self) -> PackKey | None:
        """The pack that the gallery is matched with; None as long as nothing was enrolled."""
        with self._database.transaction() as connection:
            return rows.read_key_in_use(connection)

    def list(self, *, now: float | None = None) -> tuple[PackStatus, ...]:
        """Every pack and embedder that somebody has an embedding of, by name; how far each is."""
        moment = time.time() if now is None else now
        with self._database.transaction() as connection:
            used = rows.read_key_in_use(connection)
            counts = rows.count_embeddings(connection)
            samples = rows.count_samples(connection)
            return tuple(
                PackStatus(
                    pack=key.pack,
                    embedder=key.embedder,
                    in_use=key == used,
                    dimension=one.dimension,
                    people=one.people,
                    samples=one.samples,
                    waiting=tuple(rows.find_waiting(connection, key, used, moment)),
                    samples_waiting=samples - one.samples,
                )
                for key, one in sorted(counts.items())
            )

    def waiting(self, pack: str, embedder: str) -> tuple[WaitingSample, ...]:
        """The samples without an embedding of this pack's embedder, in the order of enrolment."""
        with self._database.transaction() as connection:
            return rows.find_waiting_samples(connection, PackKey(pack, embedder))

    def add(self, new: Sequence[NewEmbedding], *, pack: str, embedder: str) -> tuple[bool, ...]:
        """Add embeddings to samples that are there, in one step: one version, if there are any.

        False in the place of one whose sample is gone, or has an embedding of this embedder
        already: nobody comes back who was removed meanwhile. Raises GalleryError for embeddings of
        another length than this embedder's.
        """
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            return rows.add_embeddings(connection, new, PackKey(pack, embedder))

    def switch(
        self,
        pack: str,
        *,
        embedder: str = "",
        without: Iterable[str] = (),
        now: float | None = None,
    ) -> Switch:
        """Put another pack in use, in one step.

        embedder: how the SHA-256 of its file begins, where the gallery holds embeddings of
        several. without: people who need no embedding of it. Raises GalleryError where the gallery
        has nothing of this pack, or somebody else who is matched today would not be recognised any
        more; UnknownIdentity for a name of `without` that is nobody's.
        """
        moment = time.time() if now is None else now
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            key = rows.find_key(connection, pack, embedder)
            before = rows.read_key_in_use(connection)
            left = rows.find_waiting(connection, key, before, moment)
            rows.require_named(connection, left, without, f" of pack {pack}")
            if key != before:
                rows.use(connection, key)
            return Switch(
                pack=key.pack,
                embedder=key.embedder,
                before="" if before is None else before.pack,
                changed=key != before,
                without=tuple(left),
                marks=0
                if before is None or before == key
                else rows.count_marks(connection, before),
                version=read_version(connection),
            )

    def drop(self, pack: str, *, embedder: str = "", without: Collection[str] = ()) -> Dropped:
        """Erase the embeddings of a pack that is not in use, overwritten in the file.

        Marks that were made with it go too, and samples that are left without any. embedder: as for
        `switch`; all that are not in use, where it is not given. without: people who may be left
        without any sample. Raises GalleryError for a pack in use or one that is not there, and
        where somebody else would be left without any; UnknownIdentity for a name of `without` that
        is nobody's.
        """
        with self._database.transaction(write=True) as connection:
            writing.lock(connection)
            keys = rows.find_unused(connection, pack, embedder)
            left = rows.find_dependent(connection, keys)
            rows.require_named(connection, left, without, "")
            embeddings, samples, marks = rows.drop(connection, keys)
            version = read_version(connection)
        self._database.forget_deleted()
        return Dropped(pack, embeddings, samples, tuple(left), marks, version)
