"""Marks that say "not this person", inside one transaction of the gallery.

A mark is the embedding of a face that was taken for somebody. It is a face of whoever was
mistaken, who may be nobody that the gallery knows; it goes when the person does, when whoever it
shows is erased, or when it is taken back.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Collection
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, delete, select

from .. import GalleryError
from .gallery_read import find_person
from .gallery_records import Mark
from .gallery_tables import embeddings, identities, negatives, samples
from .gallery_write import actor_name, check_dimension, insert_row, lock, record

Floats = npt.NDArray[np.float32]

AT_ONCE = 1000
"""People in one query."""


def add_mark(
    connection: Connection,
    name: str,
    vector: Floats,
    *,
    pack: str,
    embedder: str,
    source: str,
    notes: str,
) -> Mark:
    """What `Gallery.mark_not` does with a checked vector (C,) of unit length."""
    lock(connection)
    row, name = find_person(connection, name)
    check_dimension(connection, pack, embedder, len(vector))
    content = vector.astype("<f4").tobytes()
    digest = hashlib.sha256(content).hexdigest()
    of = (negatives.c.identity_id == row) & (negatives.c.digest == digest)
    known = connection.execute(select(negatives.c.uid).where(of)).scalar()
    if known is None:
        known = uuid.uuid4().hex
        insert_row(
            connection,
            negatives,
            uid=known,
            identity_id=row,
            pack=pack,
            embedder=embedder,
            vector=content,
            digest=digest,
            source=source,
            notes=notes,
            actor=actor_name(),
            created_at=time.time(),
        )
        uid = connection.execute(
            select(identities.c.uid).where(identities.c.id == row)
        ).scalar_one()
        record(connection, "not", [uid], f"marked, pack {pack}")
    (mark,) = (one for one in read_marks(connection, name) if one.id == known)
    return mark


def remove_mark(connection: Connection, key: str) -> Mark:
    """What `Gallery.unmark_not` does."""
    lock(connection)
    found = [one for one in read_marks(connection) if key and one.id.startswith(key)]
    if len(found) != 1:
        what = f"{len(found)} marks begin with" if found else "there is no mark"
        raise GalleryError(
            f"{what} {key[:32]!r}: `facestream gallery not --list` shows those there are"
        )
    (mark,) = found
    query = (
        select(negatives.c.id, identities.c.uid)
        .join(identities, negatives.c.identity_id == identities.c.id)
        .where(negatives.c.uid == mark.id)
    )
    row = connection.execute(query).one()
    connection.execute(delete(negatives).where(negatives.c.id == row.id))
    record(connection, "not", [row.uid], f"taken back, pack {mark.pack}")
    return mark


def forget_faces(connection: Connection, rows: Collection[int]) -> None:
    """Erase marks on others that show the people of these rows, who are about to be erased.

    A mark does not say whose face it is: it is taken to be theirs where it is as much like one of
    their faces as like any of the person's who it is not.
    """
    marks: dict[tuple[str, str], list[Row[Any]]] = defaultdict(list)
    for one in connection.execute(select(negatives).where(negatives.c.identity_id.not_in(rows))):
        marks[one.pack, one.embedder].append(one)
    for model, some in marks.items():
        faces = _read_faces(connection, {*rows, *(one.identity_id for one in some)}, *model)
        none = np.zeros((0, len(some[0].vector) // 4), np.float32)
        going = np.concatenate([none, *(faces[row] for row in rows if row in faces)])
        for one in some:
            face = np.frombuffer(one.vector, "<f4")
            own = most_alike(faces.get(one.identity_id, none), face)
            if most_alike(going, face) >= max(own, -1.0):
                connection.execute(delete(negatives).where(negatives.c.id == one.id))


def _read_faces(
    connection: Connection, rows: Collection[int], pack: str, embedder: str
) -> dict[int, Floats]:
    """The faces (N, C) of people by one embedder, by the row of the person."""
    found: dict[int, list[Floats]] = defaultdict(list)
    people = iter(sorted(rows))
    while some := list(islice(people, AT_ONCE)):
        query = (
            select(samples.c.identity_id, embeddings.c.vector)
            .join(embeddings, embeddings.c.sample_id == samples.c.id)
            .where(samples.c.identity_id.in_(some))
            .where(embeddings.c.pack == pack, embeddings.c.embedder == embedder)
        )
        for row, vector in connection.execute(query):
            found[row].append(np.frombuffer(vector, "<f4"))
    return {row: np.stack(vectors) for row, vectors in found.items()}


def most_alike(faces: Floats, face: npt.NDArray[np.floating]) -> float:
    """The largest cosine of a unit face (C,) to any of the faces (N, C); -inf without any."""
    if not len(faces):
        return -math.inf
    rows = faces.astype(np.float64)
    return float((rows @ face.astype(np.float64) / np.linalg.norm(rows, axis=1)).max())


def read_marks(connection: Connection, name: str | None = None) -> tuple[Mark, ...]:
    """All marks, or those of one person, oldest first, without their vectors."""
    query = (
        select(negatives, identities.c.name)
        .join(identities, negatives.c.identity_id == identities.c.id)
        .order_by(negatives.c.id)
    )
    if name is not None:
        row, _ = find_person(connection, name)
        query = query.where(negatives.c.identity_id == row)
    return tuple(
        Mark(
            id=one.uid,
            name=one.name,
            pack=one.pack,
            embedder=one.embedder,
            source=one.source,
            notes=one.notes,
            actor=one.actor,
            created_at=one.created_at,
        )
        for one in connection.execute(query)
    )


def read_vectors(connection: Connection, pack: str, embedder: str | None) -> dict[str, Floats]:
    """The marked faces (K, C) of each person who has any, by name, as one embedder made them."""
    query = (
        select(identities.c.name, negatives.c.vector)
        .join(identities, negatives.c.identity_id == identities.c.id)
        .where(negatives.c.pack == pack)
        .order_by(negatives.c.id)
    )
    if embedder is not None:
        query = query.where(negatives.c.embedder == embedder)
    rows: dict[str, list[Floats]] = defaultdict(list)
    for name, vector in connection.execute(query):
        rows[name].append(np.frombuffer(vector, "<f4"))
    return {name: np.stack(vectors) for name, vectors in rows.items()}
