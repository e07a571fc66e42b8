"""Densities of templates, kept so that they are computed once: F_g of equation 4 (models/ida) as r.

They follow from the embeddings alone, so keeping them is no change of the gallery: no version, no
line in the audit trail.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, delete, func, insert, select

from ..models.ida import DensityModel
from .gallery_records import fuse, join_vectors
from .gallery_tables import densities, embeddings, identities, samples

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


AT_ONCE = 4096
"""Templates that are measured between two transactions: what is kept then is not lost any more."""


class Pending(NamedTuple):
    """Templates without a density: ids of P people, vectors (P, C) float32 of unit length, and the
    newest embedding in each. Embeddings go only with their person, and SQLite gives numbers of rows
    again but never an id: so both together tell whether a template is still the same. last: the
    largest row of a person here, behind which the others stand."""

    people: tuple[str, ...]
    vectors: Floats
    newest: tuple[int, ...]
    last: int


def model_key(model: DensityModel) -> str:
    """What a density depends on beside the template."""
    own = f" own={model.own!r}" if math.isfinite(model.own) else ""
    return f"{model.version} k={model.k} tau={model.tau!r}{own}"


def read_pending(
    connection: Connection, pack: str, embedder: str, model: str, after: int
) -> Pending:
    """The next AT_ONCE people who have embeddings of this embedder and no density by this model.

    after: their rows come behind this one.
    """
    of = (embeddings.c.pack == pack) & (embeddings.c.embedder == embedder)
    has = select(densities.c.identity_id).where(
        densities.c.pack == pack, densities.c.embedder == embedder, densities.c.model == model
    )
    whose = (
        select(samples.c.identity_id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(of, samples.c.identity_id > after, samples.c.identity_id.not_in(has))
        .distinct()
        .order_by(samples.c.identity_id)
        .limit(AT_ONCE)
    )
    query = (
        select(identities.c.uid, samples.c.identity_id, embeddings)
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(of, samples.c.identity_id.in_(whose))
        .order_by(samples.c.identity_id, embeddings.c.id)
    )
    rows = connection.execute(query).all()
    if not rows:
        return Pending((), np.zeros((0, 0), np.float32), (), after)
    raw = join_vectors([row.vector for row in rows])
    people = [row.uid for row in rows]
    starts = [i for i in range(len(rows)) if i == 0 or people[i - 1] != people[i]]
    vectors = fuse(raw, np.array([row.quality for row in rows]), np.array(starts))
    ends = [*starts[1:], len(rows)]
    return Pending(
        tuple(people[i] for i in starts),
        vectors,
        tuple(rows[end - 1].id for end in ends),
        rows[-1].identity_id,
    )


def store(
    connection: Connection, pack: str, embedder: str, model: str, pending: Pending, found: Doubles
) -> int:
    """Keep r (P,) of those whose templates are still the same; returns how many."""
    query = (
        select(identities.c.id, identities.c.uid, func.max(embeddings.c.id).label("newest"))
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(embeddings.c.pack == pack, embeddings.c.embedder == embedder)
        .group_by(identities.c.id)
    )
    there = {row.uid: (row.id, row.newest) for row in connection.execute(query)}
    kept = select(densities.c.identity_id).where(
        densities.c.pack == pack, densities.c.embedder == embedder, densities.c.model == model
    )
    done = set(connection.execute(kept).scalars())
    key = {"pack": pack, "embedder": embedder, "model": model}
    rows = [
        {"identity_id": there[uid][0], "value": float(value), **key}
        for uid, last, value in zip(pending.people, pending.newest, found, strict=True)
        if uid in there and there[uid][1] == last and there[uid][0] not in done
    ]
    if rows:
        connection.execute(insert(densities), rows)
    return len(rows)


def read_densities(
    connection: Connection,
    pack: str,
    embedder: str,
    model: str,
    rows: Collection[int] | None = None,
) -> dict[int, float]:
    """r by the row of the person, of these rows alone where they are given."""
    query = select(densities.c.identity_id, densities.c.value).where(
        densities.c.pack == pack, densities.c.embedder == embedder, densities.c.model == model
    )
    if rows is not None:
        query = query.where(densities.c.identity_id.in_(rows))
    return {person: value for person, value in connection.execute(query)}


def keep_only(connection: Connection, pack: str, embedder: str, models: Collection[str]) -> int:
    """Drop the densities of this embedder by other models; returns how many."""
    query = delete(densities).where(
        densities.c.pack == pack,
        densities.c.embedder == embedder,
        densities.c.model.not_in(models),
    )
    return connection.execute(query).rowcount


def forget(connection: Connection, person: int, pack: str, embedder: str) -> None:
    """Drop the densities of a template that has changed."""
    connection.execute(
        delete(densities).where(
            densities.c.identity_id == person,
            densities.c.pack == pack,
            densities.c.embedder == embedder,
        )
    )
