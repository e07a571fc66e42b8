"""The gallery: who is known, and by which embeddings.

`Gallery` is the only door to the store: callers see the records of `gallery_records`, never SQL.
It holds embeddings, file names and check sums of photos, and no photos. Every change is one
transaction that also raises the gallery's version and writes the audit trail, so a reader sees
all of a change or nothing, and a killed program leaves nothing half-made.
"""

from __future__ import annotations

import difflib
import getpass
import os
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sqlalchemy import URL, Connection, Table, delete, func, insert, select, update

from .. import EnrolmentRefused, GalleryError, UnknownIdentity
from .gallery_engine import Database, locate
from .gallery_records import (
    AuditEntry,
    Details,
    GalleryTemplates,
    Identity,
    Sample,
    SampleEmbedding,
    fuse,
    normalise_name,
)
from .gallery_tables import audit, embeddings, identities, samples, state

Floats = npt.NDArray[np.float32]


class Gallery:
    """The store of identities. Thread-safe, and safe to share between processes (SQLite file).

    Every method may raise GalleryUnreadable (locked, damaged, unreachable) or GalleryError
    (read-only, no space left); what was stored before stays as it was.
    """

    def __init__(self, database: Database) -> None:
        """Use `Gallery.open` or `Gallery.temporary`."""
        self._database = database

    @classmethod
    def open(cls, place: str | Path, *, create: bool) -> Self:
        """Open the gallery at a path or SQLAlchemy URL; `create` makes it where there is none.

        Raises GalleryUnreadable where there is none, or where it is not a gallery, damaged,
        locked, or written by a newer facestream.
        """
        return cls._prepared(Database(locate(place, create=create)), create=create)

    @classmethod
    def temporary(cls) -> Self:
        """A gallery in memory, shared by this process's threads, gone when closed."""
        return cls._prepared(Database(URL.create("sqlite")), create=True)

    @classmethod
    def _prepared(cls, database: Database, *, create: bool) -> Self:
        try:
            database.prepare(create=create)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def __enter__(self) -> Self:
        """The gallery itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close every connection; a temporary gallery is gone."""
        self._database.close()

    @property
    def place(self) -> str:
        """Where it is, for people: the file, or the URL without its password."""
        return self._database.place

    def version(self) -> int:
        """The number of changes made so far; one small read, meant to be polled."""
        with self._database.transaction() as connection:
            return _version(connection)

    def holder(self, digest: str, *, pack: str, embedder: str) -> str | None:
        """The name under which a photo is already enrolled with this pack's embedder, if any."""
        query = (
            select(identities.c.name)
            .join(samples, samples.c.identity_id == identities.c.id)
            .join(embeddings, embeddings.c.sample_id == samples.c.id)
            .where(samples.c.digest == digest)
            .where(embeddings.c.pack == pack, embeddings.c.embedder == embedder)
        )
        with self._database.transaction() as connection:
            return connection.execute(query).scalar()

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
        name = normalise_name(identity)
        vector = np.asarray(embedding, dtype="<f4")
        if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
            raise GalleryError(
                f"embedding must be (C,), finite and not zero, got {vector.shape} of length "
                f"{np.linalg.norm(vector):g}"
            )
        with self._database.transaction(write=True) as connection:
            _lock(connection)
            _check_dimension(connection, pack, embedder, len(vector))
            now = time.time()
            person = _enrolled(connection, name, now)
            if notes is not None:
                _annotate(connection, person, name, notes, now)
            sample = _photo(connection, person, source, digest, now)
            known = select(embeddings.c.id).where(
                embeddings.c.sample_id == sample,
                embeddings.c.pack == pack,
                embeddings.c.embedder == embedder,
            )
            if connection.execute(known).first() is not None:
                return False
            _insert(
                connection,
                embeddings,
                sample_id=sample,
                pack=pack,
                embedder=embedder,
                dimension=len(vector),
                vector=vector.tobytes(),
                norm=norm,
                quality=quality,
                created_at=now,
            )
            _record(connection, "enrol", name, now)
        return True

    def identities(self) -> list[Identity]:
        """Everybody, by name."""
        with self._database.transaction() as connection:
            return _read_identities(connection, None)

    def show(self, name: str) -> Details:
        """All that is known of one person. Raises UnknownIdentity, naming the nearest name."""
        with self._database.transaction() as connection:
            name = _existing(connection, name)
            (identity,) = _read_identities(connection, name)
            query = (
                select(samples, embeddings)
                .join(embeddings, embeddings.c.sample_id == samples.c.id)
                .join(identities, samples.c.identity_id == identities.c.id)
                .where(identities.c.name == name)
                .order_by(samples.c.id, embeddings.c.id)
            )
            found: dict[str, Sample] = {}
            for row in connection.execute(query).mappings():
                digest = row[samples.c.digest]
                known = found[digest].embeddings if digest in found else ()
                one = SampleEmbedding(
                    row[embeddings.c.pack],
                    row[embeddings.c.embedder],
                    row[embeddings.c.dimension],
                    row[embeddings.c.norm],
                    row[embeddings.c.quality],
                )
                found[digest] = Sample(
                    row[samples.c.source], digest, row[samples.c.created_at], (*known, one)
                )
            return Details(identity, tuple(found.values()), _read_audit(connection, name))

    def remove(self, name: str) -> int:
        """Forget a person: samples and embeddings too, overwritten in the file.

        Returns how many samples went. The audit trail keeps the name and the time. Raises
        UnknownIdentity.
        """
        with self._database.transaction(write=True) as connection:
            _lock(connection)
            name = _existing(connection, name)
            (identity,) = _read_identities(connection, name)
            connection.execute(delete(identities).where(identities.c.name == name))
            _record(connection, "remove", name, time.time())
        self._database.forget_deleted()
        return identity.samples

    def history(self) -> tuple[AuditEntry, ...]:
        """The audit trail, oldest first. It outlives the people it names."""
        with self._database.transaction() as connection:
            return _read_audit(connection, None)

    def templates(self, pack: str, embedder: str | None = None) -> GalleryTemplates:
        """One fused template per identity: t = n(sum_i q_i n(e_i)) with n(x) = x / |x|.

        e_i are the identity's embeddings made with this pack, q_i their qualities (negative ones
        count as 0; all alike when none is positive). embedder: SHA-256 of the embedder's file;
        embeddings of another file are not comparable and are left out. Without it, a gallery with
        embeddings of two embedders of this pack raises GalleryError.
        """
        query = (
            select(
                identities.c.name,
                embeddings.c.embedder,
                embeddings.c.vector,
                embeddings.c.quality,
            )
            .join(samples, samples.c.identity_id == identities.c.id)
            .join(embeddings, embeddings.c.sample_id == samples.c.id)
            .where(embeddings.c.pack == pack)
            .order_by(identities.c.id, embeddings.c.id)
        )
        if embedder is not None:
            query = query.where(embeddings.c.embedder == embedder)
        everybody = select(identities.c.name).order_by(identities.c.id)
        with self._database.transaction() as connection:
            version = _version(connection)
            rows = connection.execute(query).all()
            people = connection.execute(everybody).scalars().all()
        if len({row.embedder for row in rows}) > 1:
            raise GalleryError(
                f"{self.place} holds embeddings of different embedder files of pack {pack}, which "
                "cannot be compared: enrol the photos again into a new gallery"
            )
        known = {row.name for row in rows}
        missing = tuple(name for name in people if name not in known)
        if not rows:
            return GalleryTemplates((), np.zeros((0, 0), np.float32), version, missing)
        raw = np.frombuffer(b"".join(row.vector for row in rows), "<f4").reshape(len(rows), -1)
        # The rows of one person stand together, people in the order they were enrolled.
        starts = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1].name != row.name]
        vectors = fuse(raw, np.array([row.quality for row in rows]), np.array(starts))
        return GalleryTemplates(tuple(rows[i].name for i in starts), vectors, version, missing)


def _lock(connection: Connection) -> None:
    """Let one writer at a time pass, on a server too (SQLite has locked the file already)."""
    connection.execute(select(state.c.version).with_for_update())


def _version(connection: Connection) -> int:
    return int(connection.execute(select(state.c.version)).scalar_one())


def _record(connection: Connection, action: str, name: str, now: float) -> None:
    """Raise the version and say in the audit trail who did what."""
    version = _version(connection) + 1
    connection.execute(update(state).values(version=version))
    _insert(
        connection, audit, at=now, actor=_actor(), action=action, identity=name, version=version
    )


def _insert(connection: Connection, table: Table, **values: Any) -> int:
    """Insert one row; returns its id."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _enrolled(connection: Connection, name: str, now: float) -> int:
    """The id of a person, who is made if new."""
    known = connection.execute(select(identities.c.id).where(identities.c.name == name)).scalar()
    if known is not None:
        return int(known)
    return _insert(connection, identities, name=name, notes="", created_at=now)


def _annotate(connection: Connection, person: int, name: str, notes: str, now: float) -> None:
    row = identities.c.id == person
    if connection.execute(select(identities.c.notes).where(row)).scalar() != notes:
        connection.execute(update(identities).where(row).values(notes=notes))
        _record(connection, "annotate", name, now)


def _photo(connection: Connection, person: int, source: str, digest: str, now: float) -> int:
    """The id of a person's sample, which is made if new. Raises EnrolmentRefused if another's."""
    query = (
        select(samples.c.id, samples.c.identity_id, identities.c.name)
        .join(identities, samples.c.identity_id == identities.c.id)
        .where(samples.c.digest == digest)
    )
    known = connection.execute(query).first()
    if known is None:
        return _insert(
            connection, samples, identity_id=person, source=source, digest=digest, created_at=now
        )
    if known.identity_id != person:
        raise EnrolmentRefused(f"duplicate photo: already enrolled as {known.name}")
    return int(known.id)


def _check_dimension(connection: Connection, pack: str, embedder: str, got: int) -> None:
    query = select(embeddings.c.dimension).where(
        embeddings.c.pack == pack, embeddings.c.embedder == embedder
    )
    stored = connection.execute(query.limit(1)).scalar()
    if stored is not None and stored != got:
        raise GalleryError(
            f"embeddings of pack {pack} in this gallery have {stored} numbers, got {got}"
        )


def _existing(connection: Connection, name: str) -> str:
    """The name as it is stored, or UnknownIdentity."""
    wanted = normalise_name(name)
    names = select(identities.c.name)
    if connection.execute(names.where(identities.c.name == wanted)).first() is not None:
        return wanted
    everybody = connection.execute(names).scalars().all()
    if not everybody:
        raise UnknownIdentity(f"no identity {wanted} in the gallery, which is empty")
    near = difflib.get_close_matches(wanted, everybody, n=1)
    hint = f"the nearest name is {near[0]}" if near else "`facestream gallery list` shows who is"
    raise UnknownIdentity(f"no identity {wanted} in the gallery: {hint}")


def _read_identities(connection: Connection, name: str | None) -> list[Identity]:
    count = func.count(samples.c.id.distinct())
    people = (
        select(identities, count.label("samples"))
        .outerjoin(samples, samples.c.identity_id == identities.c.id)
        .group_by(identities.c.id)
        .order_by(identities.c.name)
    )
    packs = (
        select(samples.c.identity_id, embeddings.c.pack)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .distinct()
        .order_by(embeddings.c.pack)
    )
    if name is not None:
        people = people.where(identities.c.name == name)
        one = select(identities.c.id).where(identities.c.name == name).scalar_subquery()
        packs = packs.where(samples.c.identity_id == one)
    found: dict[int, list[str]] = {}
    for row in connection.execute(packs):
        found.setdefault(row.identity_id, []).append(row.pack)
    return [
        Identity(row.name, row.notes, row.created_at, row.samples, tuple(found.get(row.id, ())))
        for row in connection.execute(people)
    ]


def _read_audit(connection: Connection, name: str | None) -> tuple[AuditEntry, ...]:
    query = select(audit).order_by(audit.c.id)
    if name is not None:
        query = query.where(audit.c.identity == name)
    return tuple(
        AuditEntry(row.at, row.actor, row.action, row.identity, row.version)
        for row in connection.execute(query)
    )


def _actor() -> str:
    """The user of this process, by name where the system knows one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
