"""Changing a gallery inside one transaction: every function takes the connection of one.

Each raises the gallery's version by one per change and writes the audit trail, and begins with
`lock`: writers take turns.
"""

from __future__ import annotations

import os
import pwd
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET
from sqlalchemy import Connection, Table, delete, insert, select, update

from .. import EnrolmentRefused, GalleryError
from .gallery_density import forget
from .gallery_read import find_person, read_identities, read_in_use, read_version
from .gallery_records import (
    Added,
    Change,
    NewSample,
    check_key,
    check_moment,
    check_text,
    day,
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

Floats = npt.NDArray[np.float32]

ERASING = ("remove", "purge")
"""Actions of the audit trail after which nothing is kept of a person."""


def lock(connection: Connection) -> None:
    """Let one writer at a time pass, on a server too (SQLite has locked the file already)."""
    connection.execute(select(state.c.version).with_for_update())


def record(connection: Connection, action: str, people: Iterable[str], details: str = "") -> None:
    """Raise the version, and say in the audit trail who did what to whom (ids; "" for nobody)."""
    version = read_version(connection) + 1
    connection.execute(update(state).values(version=version))
    now, actor = time.time(), actor_name()
    rows = [
        {
            "at": now,
            "actor": actor,
            "action": action,
            "identity": uid,
            "details": details,
            "version": version,
        }
        for uid in people
    ]
    connection.execute(insert(audit), rows)


def insert_row(connection: Connection, table: Table, **values: Any) -> int:
    """Insert one row; returns its id."""
    key = connection.execute(insert(table).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def add_sample(
    connection: Connection, new: NewSample, *, pack: str, embedder: str, notes: str | None
) -> bool:
    """What `Gallery.add_sample` does with a checked sample."""
    lock(connection)
    check_dimension(connection, pack, embedder, len(new.embedding))
    now = time.time()
    if notes is not None:
        check_owner(connection, new.identity, new.digest)
        person, uid = _enrolled(connection, new.identity, now)
        row = identities.c.id == person
        if connection.execute(select(identities.c.notes).where(row)).scalar() != notes:
            connection.execute(update(identities).where(row).values(notes=notes))
            record(connection, "annotate", [uid], "notes")
    uid, added = _add(connection, new, pack, embedder, now)
    if added:
        record(connection, "enrol", [uid], f"pack {pack}")
    return added


def add_samples(
    connection: Connection, new: Sequence[NewSample], *, pack: str, embedder: str
) -> Added:
    """What `Gallery.add_samples` does with checked samples: one change, and one per `Change`."""
    lock(connection)
    before = read_version(connection)
    lengths = sorted({len(one.embedding) for one in new})
    if len(lengths) > 1:
        raise GalleryError(f"embeddings of one pack must have one length, got {lengths}")
    for length in lengths:
        check_dimension(connection, pack, embedder, length)
    now = time.time()
    done: list[bool | EnrolmentRefused] = []
    enrolled: dict[str, None] = {}
    for one in new:
        try:
            uid, added = _add(connection, one, pack, embedder, now)
        except EnrolmentRefused as refusal:
            done.append(refusal)
            continue
        if added:
            enrolled[uid] = None
        done.append(added)
    if enrolled:
        record(connection, "enrol", enrolled, f"pack {pack}")
    for one, what in zip(new, done, strict=True):
        if one.change is not None and not isinstance(what, EnrolmentRefused):
            edit(connection, one.identity, one.change)
    return Added(tuple(done), before, read_version(connection))


def edit(connection: Connection, name: str, change: Change) -> bool:
    """What `Gallery.edit` does; False where everything is so already."""
    lock(connection)
    row, name = find_person(connection, name)
    (before,) = read_identities(connection, row)
    values: dict[str, Any] = {}
    if change.name is not UNSET:
        values["name"] = normalise_name(change.name)
    for key in ("notes", "basis"):
        if (text := getattr(change, key)) is not UNSET:
            values[key] = check_text(key, text)
    for key in ("valid_from", "valid_until", "keep_until"):
        if (moment := getattr(change, key)) is not UNSET:
            values[key] = check_moment(key, moment)
    values = {key: value for key, value in values.items() if getattr(before, key) != value}
    check_validity(
        values.get("valid_from", before.valid_from), values.get("valid_until", before.valid_until)
    )
    if "name" in values:
        _check_free(connection, values["name"])
    if values:
        connection.execute(update(identities).where(identities.c.id == row).values(**values))
    changed = list(values)
    if _label(connection, row, before.labels, change.labels):
        changed.append("labels")
    if changed:
        record(connection, "edit", [before.id], ", ".join(changed))
    return bool(changed)


def remove(connection: Connection, rows: Sequence[int], action: str) -> None:
    """Delete people with their samples, embeddings, labels and memberships: one change."""
    uids = []
    for row in rows:
        of = identities.c.id == row
        uids.append(connection.execute(select(identities.c.uid).where(of)).scalar_one())
        connection.execute(delete(identities).where(of))
    record(connection, action, uids)


def make_watchlist(connection: Connection, name: str, notes: str) -> int:
    """What `Gallery.make_watchlist` does; returns the row."""
    name = normalise_name(name)
    taken = select(watchlists.c.id).where(watchlists.c.name == name)
    if connection.execute(taken).first() is not None:
        raise GalleryError(f"there is a watchlist {name} already: choose another name")
    values = {"notes": check_text("notes", notes), "created_at": time.time()}
    row = insert_row(connection, watchlists, name=name, **values)
    record(connection, "watchlist", [""], f"made {name}")
    return row


def find_watchlist(connection: Connection, name: str) -> tuple[int, str]:
    """A watchlist's row and name. Raises GalleryError, naming those there are."""
    name = normalise_name(name)
    row = connection.execute(select(watchlists.c.id).where(watchlists.c.name == name)).scalar()
    if row is None:
        names = sorted(connection.execute(select(watchlists.c.name)).scalars())
        there = f"there are {', '.join(names)}" if names else "there is none yet"
        raise GalleryError(f"no watchlist {name} in the gallery: {there}")
    return int(row), name


def change_members(
    connection: Connection, watchlist: str, names: Iterable[str], *, add: bool
) -> int:
    """Put people on a watchlist, or take them off it; returns for how many that was a change."""
    row, title = find_watchlist(connection, watchlist)
    people = [find_person(connection, name)[0] for name in dict.fromkeys(names)]
    held = set(
        connection.execute(
            select(members.c.identity_id).where(members.c.watchlist_id == row)
        ).scalars()
    )
    moved = [person for person in dict.fromkeys(people) if (person in held) != add]
    for person in moved:
        if add:
            insert_row(connection, members, watchlist_id=row, identity_id=person)
        else:
            its = (members.c.watchlist_id == row) & (members.c.identity_id == person)
            connection.execute(delete(members).where(its))
    if moved:
        uids = [
            connection.execute(select(identities.c.uid).where(identities.c.id == one)).scalar_one()
            for one in moved
        ]
        record(connection, "watchlist", uids, f"{'put on' if add else 'taken off'} {title}")
    return len(moved)


def check_dimension(connection: Connection, pack: str, embedder: str, got: int) -> None:
    """Raise GalleryError unless embeddings of this embedder have that many numbers here."""
    query = select(embeddings.c.dimension).where(
        embeddings.c.pack == pack, embeddings.c.embedder == embedder
    )
    stored = connection.execute(query.limit(1)).scalar()
    if stored is not None and stored != got:
        raise GalleryError(
            f"embeddings of pack {pack} in this gallery have {stored} numbers, got {got}"
        )


def check_validity(begins: float | None, ends: float | None) -> None:
    """Raise GalleryError for a validity that ends before it begins."""
    if begins is not None and ends is not None and ends <= begins:
        raise GalleryError("valid_until must come after valid_from: nothing was changed")


def _check_free(connection: Connection, name: str) -> None:
    if connection.execute(select(identities.c.id).where(identities.c.name == name)).first():
        raise GalleryError(
            f"the name {name} belongs to somebody else in the gallery: choose another one"
        )


def _label(
    connection: Connection, row: int, before: Mapping[str, str], new: Mapping[str, str | None]
) -> bool:
    changed = {check_key(key): value for key, value in new.items() if before.get(key) != value}
    for key, value in changed.items():
        its = (labels.c.identity_id == row) & (labels.c.key == key)
        connection.execute(delete(labels).where(its))
        if value is not None:
            text = check_text(f"label {key}", value)
            insert_row(connection, labels, identity_id=row, key=key, value=text)
    return bool(changed)


def _enrolled(
    connection: Connection, name: str, now: float, change: Change | None = None
) -> tuple[int, str]:
    """The row and id of a person, who is made if new.

    Raises EnrolmentRefused for somebody whose time is over, unless `change` gives them more.
    """
    known = connection.execute(select(identities).where(identities.c.name == name)).first()
    if known is not None:
        for key, words in (("valid_until", "expired on"), ("keep_until", "was to be kept until")):
            given = UNSET if change is None else getattr(change, key)
            end = getattr(known, key) if given is UNSET else given
            if end is not None and end <= now:
                raise EnrolmentRefused(
                    f"{name} {words} {day(end)} and would not be matched: first set a later day "
                    f"with `facestream gallery edit --{key.replace('_', '-')}`"
                )
        return int(known.id), str(known.uid)
    uid = uuid.uuid4().hex
    values = {"notes": "", "basis": "", "created_at": now, "uid": uid}
    return insert_row(connection, identities, name=name, **values), uid


def check_owner(connection: Connection, name: str, digest: str) -> int | None:
    """The id of a photo's sample, if it is this person's. Raises EnrolmentRefused if another's."""
    query = (
        select(samples.c.id, identities.c.name)
        .join(identities, samples.c.identity_id == identities.c.id)
        .where(samples.c.digest == digest)
    )
    known = connection.execute(query).first()
    if known is None:
        return None
    if known.name != name:
        raise EnrolmentRefused(f"duplicate photo: already enrolled as {known.name}")
    return int(known.id)


def _add(
    connection: Connection, new: NewSample, pack: str, embedder: str, now: float
) -> tuple[str, bool]:
    """Add a sample; whose id it is, and whether it was not there yet.

    Raises EnrolmentRefused, before anything is changed, for a photo of somebody else, and for a
    person whose time is over.
    """
    sample = check_owner(connection, new.identity, new.digest)
    person, uid = _enrolled(connection, new.identity, now, new.change)
    if sample is None:
        photo = {"source": new.source, "digest": new.digest, "created_at": now}
        sample = insert_row(connection, samples, identity_id=person, **photo)
    else:
        known = select(embeddings.c.id).where(
            embeddings.c.sample_id == sample,
            embeddings.c.pack == pack,
            embeddings.c.embedder == embedder,
        )
        if connection.execute(known).first() is not None:
            return uid, False
    insert_row(
        connection,
        embeddings,
        sample_id=sample,
        pack=pack,
        embedder=embedder,
        dimension=len(new.embedding),
        vector=new.embedding.astype("<f4", copy=False).tobytes(),
        norm=new.norm,
        quality=new.quality,
        created_at=now,
    )
    forget(connection, person, pack, embedder)
    adopt(connection, pack, embedder)
    return uid, True


def adopt(connection: Connection, pack: str, embedder: str) -> None:
    """Put a pack in use if none is: the one that somebody is enrolled with, if it is the only one.

    An old gallery of several packs has none in use until somebody says which.
    """
    if read_in_use(connection) is not None:
        return
    others = (embeddings.c.pack != pack) | (embeddings.c.embedder != embedder)
    if connection.execute(select(embeddings.c.id).where(others).limit(1)).first() is None:
        connection.execute(update(state).values(pack=pack, embedder=embedder))


def actor_name() -> str:
    """The user of this process by the system's list, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
