"""Reading a gallery inside one transaction: every function takes the connection of one."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, func, select

from .. import UnknownIdentity
from .gallery_records import (
    AuditEntry,
    Identity,
    Sample,
    SampleEmbedding,
    Watchlist,
    normalise_name,
)
from .gallery_tables import (
    audit,
    embeddings,
    identities,
    labels,
    members,
    samples,
    state,
    watchlists,
)


def read_version(connection: Connection) -> int:
    """The number of changes so far."""
    return int(connection.execute(select(state.c.version)).scalar_one())


def read_in_use(connection: Connection) -> tuple[str, str] | None:
    """The pack in use and the SHA-256 of its embedder; None as long as there is none."""
    pack, embedder = connection.execute(select(state.c.pack, state.c.embedder)).one()
    return (pack, embedder) if pack else None


def find_holder(connection: Connection, digest: str, pack: str, embedder: str) -> str | None:
    """The name under which a photo is enrolled with this embedder, if any."""
    query = (
        select(identities.c.name)
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(samples.c.digest == digest)
        .where(embeddings.c.pack == pack, embeddings.c.embedder == embedder)
    )
    return connection.execute(query).scalar()


def find_holders(
    connection: Connection, digests: Collection[str], pack: str, embedder: str
) -> dict[str, str]:
    """The names under which photos are enrolled with this embedder, by digest."""
    query = (
        select(samples.c.digest, identities.c.name)
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(samples.c.digest.in_(digests))
        .where(embeddings.c.pack == pack, embeddings.c.embedder == embedder)
    )
    return {digest: name for digest, name in connection.execute(query)}


def find_person(connection: Connection, name: str) -> tuple[int, str]:
    """A person's row and name as it is stored. Raises UnknownIdentity, naming the nearest."""
    wanted = normalise_name(name)
    names = select(identities.c.name)
    row = connection.execute(select(identities.c.id).where(identities.c.name == wanted)).scalar()
    if row is not None:
        return int(row), wanted
    everybody = connection.execute(names).scalars().all()
    if not everybody:
        raise UnknownIdentity(f"no identity {wanted} in the gallery, which is empty")
    near = difflib.get_close_matches(wanted, everybody, n=1)
    hint = f"the nearest name is {near[0]}" if near else "`facestream gallery list` shows who is"
    raise UnknownIdentity(f"no identity {wanted} in the gallery: {hint}")


def read_identities(connection: Connection, row: int | None = None) -> list[Identity]:
    """Everybody by name, or the one of that row."""

    def of(column: ColumnElement[int]) -> ColumnElement[bool]:
        return column == row if row is not None else column.is_not(None)

    count = func.count(samples.c.id)
    people = (
        select(identities, count.label("samples"))
        .outerjoin(samples, samples.c.identity_id == identities.c.id)
        .where(of(identities.c.id))
        .group_by(identities.c.id)
    )
    packs: dict[int, list[str]] = defaultdict(list)
    with_packs = (
        select(samples.c.identity_id, embeddings.c.pack)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(of(samples.c.identity_id))
        .distinct()
    )
    for key, pack in connection.execute(with_packs):
        packs[key].append(pack)
    own: dict[int, dict[str, str]] = defaultdict(dict)
    for one in connection.execute(
        select(labels).where(of(labels.c.identity_id)).order_by(labels.c.key)
    ):
        own[one.identity_id][one.key] = one.value
    lists: dict[int, list[str]] = defaultdict(list)
    with_lists = (
        select(members.c.identity_id, watchlists.c.name)
        .join(watchlists, members.c.watchlist_id == watchlists.c.id)
        .where(of(members.c.identity_id))
    )
    for key, name in connection.execute(with_lists):
        lists[key].append(name)
    found = [
        Identity(
            name=one.name,
            notes=one.notes,
            created_at=one.created_at,
            samples=one.samples,
            packs=tuple(sorted(packs[one.id])),
            id=one.uid,
            basis=one.basis,
            valid_from=one.valid_from,
            valid_until=one.valid_until,
            keep_until=one.keep_until,
            labels=own[one.id],
            watchlists=tuple(sorted(lists[one.id])),
        )
        for one in connection.execute(people)
    ]
    # Sorted here: databases have alphabets of their own.
    return sorted(found, key=lambda identity: identity.name)


def read_samples(connection: Connection, row: int) -> tuple[Sample, ...]:
    """A person's photos with what is known of their embeddings, oldest first."""
    query = (
        select(samples, embeddings)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(samples.c.identity_id == row)
        .order_by(samples.c.id, embeddings.c.id)
    )
    found: dict[str, Sample] = {}
    for one in connection.execute(query).mappings():
        digest = one[samples.c.digest]
        known = found[digest].embeddings if digest in found else ()
        more = SampleEmbedding(
            one[embeddings.c.pack],
            one[embeddings.c.embedder],
            one[embeddings.c.dimension],
            one[embeddings.c.norm],
            one[embeddings.c.quality],
        )
        found[digest] = Sample(
            one[samples.c.source], digest, one[samples.c.created_at], (*known, more)
        )
    return tuple(found.values())


def read_watchlists(connection: Connection) -> list[Watchlist]:
    """All of them, by name."""
    names: dict[int, list[str]] = defaultdict(list)
    query = select(members.c.watchlist_id, identities.c.name).join(
        identities, members.c.identity_id == identities.c.id
    )
    for key, name in connection.execute(query):
        names[key].append(name)
    found = [
        Watchlist(one.name, one.notes, one.created_at, tuple(sorted(names[one.id])))
        for one in connection.execute(select(watchlists))
    ]
    return sorted(found, key=lambda one: one.name)


def read_audit(connection: Connection, uid: str | None = None) -> tuple[AuditEntry, ...]:
    """The trail, or that of one person, oldest first."""
    query = (
        select(audit, identities.c.name)
        .outerjoin(identities, audit.c.identity == identities.c.uid)
        .order_by(audit.c.id)
    )
    if uid is not None:
        query = query.where(audit.c.identity == uid)
    return tuple(
        AuditEntry(one.at, one.actor, one.action, one.identity, one.name, one.details, one.version)
        for one in connection.execute(query)
    )
