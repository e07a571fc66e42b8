"""What `gallery_packs` does, inside one transaction: every function takes the connection of one."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from .. import GalleryError
from .gallery_density import forget
from .gallery_read import find_person, read_in_use
from .gallery_tables import densities, embeddings, identities, negatives, samples, state
from .gallery_write import check_dimension, record

if TYPE_CHECKING:
    from .gallery_packs import NewEmbedding

NAMED = 5
"""How many people a refusal names."""


class PackKey(NamedTuple):
    """A pack's name, and the SHA-256 of its embedder's file: those of others cannot be compared."""

    pack: str
    embedder: str


class WaitingSample(NamedTuple):
    """A sample without an embedding of a pack: whose it is, its photo's file name and digest."""

    identity: str
    source: str
    digest: str


class Counted(NamedTuple):
    """What is there of one embedder."""

    dimension: int
    people: int
    samples: int


def read_key_in_use(connection: Connection) -> PackKey | None:
    """The pack in use; None as long as there is none."""
    found = read_in_use(connection)
    return None if found is None else PackKey(*found)


def use(connection: Connection, key: PackKey) -> None:
    """Put a pack in use, as one change."""
    connection.execute(update(state).values(pack=key.pack, embedder=key.embedder))
    record(connection, "switch", [""], f"pack {key.pack}")


def count_embeddings(connection: Connection) -> dict[PackKey, Counted]:
    """What is there of each embedder."""
    query = (
        select(
            embeddings.c.pack,
            embeddings.c.embedder,
            func.max(embeddings.c.dimension),
            func.count(samples.c.identity_id.distinct()),
            func.count(),
        )
        .join(samples, embeddings.c.sample_id == samples.c.id)
        .group_by(embeddings.c.pack, embeddings.c.embedder)
    )
    return {
        PackKey(pack, embedder): Counted(*numbers)
        for pack, embedder, *numbers in connection.execute(query)
    }


def count_samples(connection: Connection) -> int:
    """How many samples there are."""
    return connection.execute(select(func.count()).select_from(samples)).scalar_one()


def find_waiting(
    connection: Connection, key: PackKey, used: PackKey | None, now: float
) -> list[str]:
    """Who is recognised with the pack in use, now or later, and would not be with this one."""
    known = _people_with(_is(used) if used is not None else None)
    query = (
        select(identities.c.name)
        .where(identities.c.id.in_(known), identities.c.id.not_in(_people_with(_is(key))))
        .where(or_(identities.c.valid_until.is_(None), identities.c.valid_until > now))
        .where(or_(identities.c.keep_until.is_(None), identities.c.keep_until > now))
        .order_by(identities.c.id)
    )
    return list(connection.execute(query).scalars())


def find_waiting_samples(connection: Connection, key: PackKey) -> tuple[WaitingSample, ...]:
    """The samples without an embedding of this embedder."""
    has = select(embeddings.c.sample_id).where(_is(key))
    query = (
        select(identities.c.name, samples.c.source, samples.c.digest)
        .join(samples, samples.c.identity_id == identities.c.id)
        .where(samples.c.id.not_in(has))
        .order_by(samples.c.id)
    )
    return tuple(WaitingSample(*row) for row in connection.execute(query))


def add_embeddings(
    connection: Connection, new: Sequence[NewEmbedding], key: PackKey
) -> tuple[bool, ...]:
    """What `GalleryPacks.add` does."""
    lengths = sorted({len(one.embedding) for one in new})
    if len(lengths) > 1:
        raise GalleryError(f"embeddings of one pack must have one length, got {lengths}")
    for length in lengths:
        check_dimension(connection, *key, length)
    query = (
        select(samples.c.digest, samples.c.id, identities.c.id.label("person"), identities.c.uid)
        .join(identities, samples.c.identity_id == identities.c.id)
        .where(samples.c.digest.in_([one.digest for one in new]))
        .where(samples.c.id.not_in(select(embeddings.c.sample_id).where(_is(key))))
    )
    there = {row.digest: row for row in connection.execute(query)}
    added: dict[str, int] = {}
    done = []
    for one in new:
        row = there.pop(one.digest, None)
        done.append(row is not None)
        if row is None:
            continue
        values = {
            "sample_id": row.id,
            "pack": key.pack,
            "embedder": key.embedder,
            "dimension": len(one.embedding),
            "vector": one.embedding.astype("<f4", copy=False).tobytes(),
            "norm": one.norm,
            "quality": one.quality,
            "created_at": time.time(),
        }
        connection.execute(insert(embeddings), values)
        added[row.uid] = row.person
    for person in added.values():
        forget(connection, person, *key)
    if added:
        record(connection, "reembed", added, f"pack {key.pack}")
    return tuple(done)


def find_key(connection: Connection, pack: str, embedder: str) -> PackKey:
    """The one embedder of a pack, or the one that begins so. Raises GalleryError."""
    found = [key for key in _keys_of(connection, pack) if key.embedder.startswith(embedder)]
    if not found:
        raise GalleryError(
            f"the gallery holds no embedding of pack {pack}"
            + (f" of an embedder {embedder[:12]}" if embedder else "")
            + f": `facestream gallery reembed PHOTOS --pack {pack}` makes them"
        )
    if len(found) > 1:
        raise GalleryError(
            f"the gallery holds embeddings of {len(found)} embedder files of pack {pack}: say "
            f"which with --embedder {' or '.join(key.embedder[:12] for key in found)}"
        )
    return found[0]


def find_unused(connection: Connection, pack: str, embedder: str) -> list[PackKey]:
    """The embedders of a pack that are not in use. Raises GalleryError where there is none."""
    keys = [key for key in _keys_of(connection, pack) if key.embedder.startswith(embedder)]
    if not keys:
        raise GalleryError(
            f"the gallery holds no embedding of pack {pack}: `facestream gallery packs` shows which"
        )
    unused = [key for key in keys if key != read_in_use(connection)]
    if not unused:
        raise GalleryError(
            f"pack {pack} is in use: put another one in use first, with `facestream gallery switch`"
        )
    return unused


def find_dependent(connection: Connection, keys: Collection[PackKey]) -> list[str]:
    """Who has embeddings of these and of no others."""
    these = or_(*map(_is, keys))
    query = (
        select(identities.c.name)
        .where(identities.c.id.in_(_people_with(these)))
        .where(identities.c.id.not_in(_people_with(~these)))
        .order_by(identities.c.id)
    )
    return list(connection.execute(query).scalars())


def require_named(
    connection: Connection, people: Collection[str], named: Iterable[str], of: str
) -> None:
    """Raise GalleryError unless everybody who would be left without an embedding was named."""
    known = {find_person(connection, name)[1] for name in named}
    left = [name for name in people if name not in known]
    if left:
        shown = ", ".join(left[:NAMED]) + (f" and {len(left) - NAMED} more" if left[NAMED:] else "")
        raise GalleryError(
            f"nothing was changed: {shown} would be left without an embedding{of}: make one with "
            "`facestream gallery reembed PHOTOS`, or name them with --without"
        )


def count_marks(connection: Connection, key: PackKey) -> int:
    """How many "not this person" marks there are of an embedder: they hold with it alone."""
    query = select(func.count()).select_from(negatives).where(_marked_with(key))
    return connection.execute(query).scalar_one()


def drop(connection: Connection, keys: Collection[PackKey]) -> tuple[int, int, int]:
    """Delete these embeddings, samples without any other, and marks; returns how many of each."""
    these = or_(*map(_is, keys))
    of = select(embeddings.c.sample_id)
    lonely = samples.c.id.in_(of.where(these)) & samples.c.id.not_in(of.where(~these))
    gone = connection.execute(
        select(func.count()).select_from(embeddings).where(these)
    ).scalar_one()
    deleted = connection.execute(delete(samples).where(lonely)).rowcount
    connection.execute(delete(embeddings).where(these))
    marks = 0
    for key in keys:
        marks += connection.execute(delete(negatives).where(_marked_with(key))).rowcount
        connection.execute(
            delete(densities).where(
                densities.c.pack == key.pack, densities.c.embedder == key.embedder
            )
        )
    record(connection, "drop-pack", [""], f"pack {next(iter(keys)).pack}")
    return int(gone), deleted, marks


def _marked_with(key: PackKey) -> ColumnElement[bool]:
    return and_(negatives.c.pack == key.pack, negatives.c.embedder == key.embedder)


def _is(key: PackKey) -> ColumnElement[bool]:
    return and_(embeddings.c.pack == key.pack, embeddings.c.embedder == key.embedder)


def _people_with(these: ColumnElement[bool] | None) -> Select[tuple[int]]:
    """Rows of the people who have such an embedding, or any."""
    query = select(samples.c.identity_id).join(embeddings, embeddings.c.sample_id == samples.c.id)
    return query if these is None else query.where(these)


def _keys_of(connection: Connection, pack: str) -> list[PackKey]:
    query = (
        select(embeddings.c.embedder)
        .where(embeddings.c.pack == pack)
        .distinct()
        .order_by(embeddings.c.embedder)
    )
    return [PackKey(pack, embedder) for embedder in connection.execute(query).scalars()]
