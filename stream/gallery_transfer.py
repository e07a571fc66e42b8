"""Between a gallery's database and an archive, inside one transaction."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Column, Connection, Table, func, insert, select

from .. import GalleryError
from .gallery_archive import (
    Archive,
    ArchivedEmbedding,
    ArchivedMark,
    ArchivedPerson,
    ArchivedSample,
    ArchivedWatchlist,
    Block,
    ImportSummary,
    People,
)
from .gallery_marks import most_alike
from .gallery_read import read_identities, read_in_use, read_watchlists
from .gallery_records import day, one_line
from .gallery_tables import (
    audit,
    embeddings,
    identities,
    labels,
    members,
    negatives,
    samples,
    watchlists,
)
from .gallery_write import ERASING, adopt, check_dimension, lock, record

Floats = npt.NDArray[np.float32]

AT_ONCE = 1000
"""Rows or values per statement."""


class _Blocks:
    """Vectors as an archive has them: one block for each embedder."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], int] = {}
        self._rows: list[list[bytes]] = []

    def add(self, pack: str, embedder: str, vector: bytes) -> tuple[int, int]:
        """Take a vector; its block and row."""
        block = self.places.setdefault((pack, embedder), len(self._rows))
        if block == len(self._rows):
            self._rows.append([])
        self._rows[block].append(vector)
        return block, len(self._rows[block]) - 1

    def vectors(self) -> tuple[Floats, ...]:
        """(N, C) float32 of each block."""
        return tuple(
            np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1) for rows in self._rows
        )


def collect(connection: Connection) -> Archive:
    """The whole gallery but the audit trail, as it is at one moment."""
    blocks = _Blocks()
    photos = _collect_photos(connection, blocks)
    marks = _collect_marks(connection, blocks)
    order = {uid: place for place, uid in enumerate(_uids(connection))}
    people = tuple(
        ArchivedPerson(
            *(one.id, one.name, one.notes, one.basis, one.created_at),
            *(one.valid_from, one.valid_until, one.keep_until),
            labels=one.labels,
            watchlists=one.watchlists,
            samples=tuple(photos[one.id]),
            marks=tuple(marks[one.id]),
        )
        for one in sorted(read_identities(connection), key=lambda person: order[person.id])
    )
    lists = tuple(
        ArchivedWatchlist(one.name, one.notes, one.created_at)
        for one in read_watchlists(connection)
    )
    used = read_in_use(connection)
    in_use = None if used is None else blocks.places.get(used)
    content = People(people, lists, tuple(Block(*key) for key in blocks.places), in_use)
    return Archive(content, blocks.vectors())


def _collect_photos(connection: Connection, blocks: _Blocks) -> dict[str, list[ArchivedSample]]:
    """Photos by the id of their person."""
    described: dict[int, list[ArchivedEmbedding]] = defaultdict(list)
    for one in connection.execute(select(embeddings).order_by(embeddings.c.id)):
        place = blocks.add(one.pack, one.embedder, one.vector)
        described[one.sample_id].append(
            ArchivedEmbedding(*place, one.norm, one.quality, one.created_at)
        )
    photos: dict[str, list[ArchivedSample]] = defaultdict(list)
    query = select(samples, identities.c.uid).join(identities).order_by(samples.c.id)
    for one in connection.execute(query):
        photos[one.uid].append(
            ArchivedSample(
                one_line(one.source), one.digest, one.created_at, tuple(described[one.id])
            )
        )
    return photos


def _collect_marks(connection: Connection, blocks: _Blocks) -> dict[str, list[ArchivedMark]]:
    """Marks "not this person" by the id of the person."""
    marks: dict[str, list[ArchivedMark]] = defaultdict(list)
    query = select(negatives, identities.c.uid.label("person")).join(identities)
    for one in connection.execute(query.order_by(negatives.c.id)):
        place = blocks.add(one.pack, one.embedder, one.vector)
        told = (one_line(one.source), one.notes, one_line(one.actor), one.created_at)
        marks[one.person].append(ArchivedMark(one.uid, *place, *told))
    return marks


def restore(connection: Connection, archive: Archive, *, skip: bool, erased: bool) -> ImportSummary:
    """Add an archive's people. Raises GalleryError for conflicts, which `skip` leaves out.

    erased: add those too who were erased here.
    """
    lock(connection)
    content = archive.content
    for block, vectors in zip(content.blocks, archive.vectors, strict=True):
        check_dimension(connection, block.pack, block.embedder, vectors.shape[1])
    gone = {} if erased else _erased(connection, content.people)
    clashes = dict(_clashes(connection, content.people)) | gone
    if clashes and not skip:
        first = next(iter(gone.values() or clashes.values()))
        more = f" (and {len(clashes) - 1} more)" if len(clashes) > 1 else ""
        way = "--skip leaves out whoever is in the way"
        way += ", --erased brings back whoever was erased" if gone else ""
        raise GalleryError(f"nothing was imported: {first}{more}; {way}")
    chosen = [person for person in content.people if person.id not in clashes]
    photos = [(person, sample) for person in chosen for sample in person.samples]
    marks = _marks_of(chosen, [one for one in content.people if one.id in gone], archive)
    if chosen:
        _insert_people(connection, chosen)
        _insert_lists(connection, chosen, content.watchlists)
        _adopt_block(connection, content)
        _insert_photos(connection, photos, archive)
        _insert_marks(connection, marks, archive)
        record(connection, "import", [person.id for person in chosen], "from an archive")
    names = {person.id: person.name for person in content.people}
    return ImportSummary(
        people=len(chosen),
        samples=len(photos),
        embeddings=sum(len(sample.embeddings) for _, sample in photos),
        marks=len(marks),
        skipped={names[key]: reason for key, reason in clashes.items()},
    )


def _marks_of(
    chosen: Sequence[ArchivedPerson], gone: Sequence[ArchivedPerson], archive: Archive
) -> list[tuple[ArchivedPerson, ArchivedMark]]:
    """The marks of people who are added, each face once.

    Those that show somebody who is `gone`, as `forget_faces` tells, stay away with them.
    """
    found: dict[tuple[str, bytes], tuple[ArchivedPerson, ArchivedMark]] = {}
    erased_faces = [_faces(gone, block, archive) for block in range(len(archive.vectors))]
    for person in chosen:
        for mark in person.marks:
            face = archive.vectors[mark.block][mark.row]
            theirs = most_alike(erased_faces[mark.block], face)
            if theirs < max(most_alike(_faces([person], mark.block, archive), face), -1.0):
                found.setdefault((person.id, face.tobytes()), (person, mark))
    return list(found.values())


def _faces(people: Sequence[ArchivedPerson], block: int, archive: Archive) -> Floats:
    """The faces (N, C) of people by the embedder of a block."""
    samples = (sample for person in people for sample in person.samples)
    rows = [one.row for sample in samples for one in sample.embeddings if one.block == block]
    return archive.vectors[block][rows]


def _erased(connection: Connection, people: Sequence[ArchivedPerson]) -> dict[str, str]:
    """Ids of those who were erased here, whom an old archive must not bring back unasked."""
    query = select(audit.c.identity, func.max(audit.c.at)).where(audit.c.action.in_(ERASING))
    when = {uid: at for uid, at in connection.execute(query.group_by(audit.c.identity))}
    held = set(_uids(connection))
    return {
        one.id: f"{one.name} was erased from this gallery on {day(when[one.id])}"
        for one in people
        if one.id in when and one.id not in held
    }


def _clashes(connection: Connection, people: Sequence[ArchivedPerson]) -> Iterator[tuple[str, str]]:
    """Yield the ids of people who cannot be added, and why."""
    held = _lookup(connection, identities.c.uid, identities.c.name, (one.id for one in people))
    taken = _lookup(connection, identities.c.name, identities.c.uid, (one.name for one in people))
    digests = (sample.digest for one in people for sample in one.samples)
    known = _lookup(connection, samples.c.digest, samples.c.identity_id, digests)
    owners = _lookup(connection, identities.c.id, identities.c.name, set(known.values()))
    for one in people:
        if one.id in held:
            as_whom = "" if held[one.id] == one.name else f", as {held[one.id]}"
            yield one.id, f"{one.name} is in the gallery already{as_whom}"
        elif one.name in taken:
            yield one.id, f"the name {one.name} belongs to somebody else in the gallery"
        else:
            for sample in one.samples:
                if sample.digest in known:
                    owner = owners[known[sample.digest]]
                    yield one.id, f"a photo of {one.name} is enrolled as {owner}"
                    break


def _adopt_block(connection: Connection, content: People) -> None:
    """Put the archive's pack in use in a gallery that has no embeddings yet."""
    block = content.in_use
    if block is None and len(content.blocks) == 1:
        block = 0  # written before a gallery knew which is in use
    if block is not None:
        adopt(connection, content.blocks[block].pack, content.blocks[block].embedder)


def _insert_people(connection: Connection, people: Sequence[ArchivedPerson]) -> None:
    fields = ("name", "notes", "basis", "created_at", "valid_from", "valid_until", "keep_until")
    rows = ({"uid": one.id, **{key: getattr(one, key) for key in fields}} for one in people)
    _insert(connection, identities, rows)


def _insert_lists(
    connection: Connection,
    people: Sequence[ArchivedPerson],
    lists: Sequence[ArchivedWatchlist],
) -> None:
    """Labels, and watchlists; one that is here already under the same name is used as it is."""
    names = [one.name for one in lists]
    held = _lookup(connection, watchlists.c.name, watchlists.c.id, names)
    new = (one for one in lists if one.name not in held)
    _insert(
        connection,
        watchlists,
        ({"name": one.name, "notes": one.notes, "created_at": one.created_at} for one in new),
    )
    held = _lookup(connection, watchlists.c.name, watchlists.c.id, names)
    keys = _lookup(connection, identities.c.uid, identities.c.id, (one.id for one in people))
    _insert(
        connection,
        members,
        (
            {"watchlist_id": held[name], "identity_id": keys[one.id]}
            for one in people
            for name in dict.fromkeys(one.watchlists)
        ),
    )
    _insert(
        connection,
        labels,
        (
            {"identity_id": keys[one.id], "key": key, "value": value}
            for one in people
            for key, value in one.labels.items()
        ),
    )


def _insert_photos(
    connection: Connection,
    photos: Sequence[tuple[ArchivedPerson, ArchivedSample]],
    archive: Archive,
) -> None:
    keys = _lookup(connection, identities.c.uid, identities.c.id, {one.id for one, _ in photos})
    _insert(
        connection,
        samples,
        (
            {
                "identity_id": keys[person.id],
                "source": sample.source,
                "digest": sample.digest,
                "created_at": sample.created_at,
            }
            for person, sample in photos
        ),
    )
    places = _lookup(
        connection, samples.c.digest, samples.c.id, (sample.digest for _, sample in photos)
    )
    _insert(
        connection,
        embeddings,
        (
            {
                "sample_id": places[sample.digest],
                "pack": archive.content.blocks[one.block].pack,
                "embedder": archive.content.blocks[one.block].embedder,
                "dimension": archive.vectors[one.block].shape[1],
                "vector": archive.vectors[one.block][one.row].astype("<f4").tobytes(),
                "norm": one.norm,
                "quality": one.quality,
                "created_at": one.created_at,
            }
            for _, sample in photos
            for one in sample.embeddings
        ),
    )


def _insert_marks(
    connection: Connection, marks: Sequence[tuple[ArchivedPerson, ArchivedMark]], archive: Archive
) -> None:
    """Add marks; one whose id is that of another here gets a new one."""
    keys = _lookup(connection, identities.c.uid, identities.c.id, {one.id for one, _ in marks})
    taken = _lookup(connection, negatives.c.uid, negatives.c.id, (mark.id for _, mark in marks))
    rows = []
    for person, mark in marks:
        vector = archive.vectors[mark.block][mark.row].astype("<f4").tobytes()
        rows.append(
            {
                "uid": uuid.uuid4().hex if mark.id in taken else mark.id,
                "identity_id": keys[person.id],
                "pack": archive.content.blocks[mark.block].pack,
                "embedder": archive.content.blocks[mark.block].embedder,
                "vector": vector,
                "digest": hashlib.sha256(vector).hexdigest(),
                **{key: getattr(mark, key) for key in ("source", "notes", "actor", "created_at")},
            }
        )
    _insert(connection, negatives, rows)


def _insert(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    rows = iter(rows)
    while some := list(islice(rows, AT_ONCE)):
        connection.execute(insert(table), some)


def _lookup(
    connection: Connection, key: Column[Any], value: Column[Any], wanted: Iterable[Any]
) -> dict[Any, Any]:
    """Values by key, of those rows whose key is wanted."""
    found: dict[Any, Any] = {}
    wanted = iter(wanted)
    while some := list(islice(wanted, AT_ONCE)):
        query = select(key, value).where(key.in_(some))
        found.update({one: other for one, other in connection.execute(query)})
    return found


def _uids(connection: Connection) -> Sequence[str]:
    return connection.execute(select(identities.c.uid).order_by(identities.c.id)).scalars().all()
