"""Reading a gallery inside one transaction: every function takes the connection of one."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Collection

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, or_, select

from .. import GalleryError, UnknownIdentity
from .gallery_density import read_densities
from .gallery_records import (
    AuditEntry,
    Identity,
    Member,
    Roster,
    Sample,
    SampleEmbedding,
    Watchlist,
    fuse,
    join_vectors,
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


def read_roster(
    connection: Connection, pack: str, embedder: str | None, model: str, now: float
) -> Roster:
    """What `Gallery.roster` returns; model: the key of densities, "" for none.

    Raises GalleryError for embeddings of two embedders.
    """
    bounds = (identities.c.valid_from, identities.c.valid_until, identities.c.keep_until)
    everybody = select(identities.c.id, identities.c.name, *bounds).order_by(identities.c.id)
    query = (
        select(identities.c.id, embeddings.c.embedder)
        .add_columns(embeddings.c.vector, embeddings.c.quality)
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(embeddings.c.pack == pack)
        # Faces of people whose time is over are needed by nobody, and stay in the store.
        .where(*(or_(end.is_(None), end > now) for end in bounds[1:]))
        .order_by(identities.c.id, embeddings.c.id)
    )
    if embedder is not None:
        query = query.where(embeddings.c.embedder == embedder)
    version, used = read_version(connection), read_in_use(connection)
    found = connection.execute(everybody).all()
    people = tuple(Member(one.name, *_matched(*one[2:])) for one in found)
    rows = connection.execute(query).all()
    if len({row.embedder for row in rows}) > 1:
        raise GalleryError(
            f"the gallery holds embeddings of different embedder files of pack {pack}, which "
            "cannot be compared: enrol the photos again into a new gallery"
        )
    if not rows:
        nothing = np.zeros((0, 0), np.float32)
        return Roster(version, used, people, np.zeros(0, np.intp), nothing, np.zeros(0))
    raw = join_vectors([row.vector for row in rows])
    # The rows of one person stand together, people in the order they were enrolled.
    starts = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1].id != row.id]
    vectors = fuse(raw, np.array([row.quality for row in rows]), np.array(starts))
    kept = read_densities(connection, pack, rows[0].embedder, model) if model else {}
    densities = np.array([kept.get(rows[i].id, np.nan) for i in starts])
    places = {one.id: place for place, one in enumerate(found)}
    owners = np.array([places[rows[i].id] for i in starts], np.intp)
    return Roster(version, used, people, owners, vectors, densities)


def _matched(begins: float | None, until: float | None, kept: float | None) -> tuple[float, float]:
    """From when until when somebody of these bounds is matched."""
    ends = min(math.inf if end is None else end for end in (until, kept))
    return -math.inf if begins is None else begins, ends
