"""Reading the sighting store inside one transaction: every function takes the connection of one."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, select

from .. import SightingsError, UnknownSighting
from .sighting_records import (
    Crop,
    FrameWeight,
    SightingDetails,
    SightingFilter,
    SightingRecord,
    Templates,
)
from .sighting_tables import crops, sightings, templates, weights
from .sighting_weights import weigh_frames
from .sighting_write import shows

_BOX = msgspec.msgpack.Decoder(tuple[float, float, float, float])
_COPIED = tuple(
    name
    for name in SightingRecord.__struct_fields__
    if name in sightings.c and name not in ("identity", "uid")
)


def read_sightings(connection: Connection, wanted: SightingFilter) -> tuple[SightingRecord, ...]:
    """The sightings that a filter lets through, oldest first."""
    query = _records().where(_condition(wanted))
    order = (sightings.c.started_at, sightings.c.number)
    if wanted.limit is None:
        return tuple(map(_record, connection.execute(query.order_by(*order))))
    newest = query.order_by(*(column.desc() for column in order)).limit(wanted.limit)
    return tuple(map(_record, reversed(connection.execute(newest).all())))


def count_sightings(connection: Connection, wanted: SightingFilter) -> int:
    """How many there are, whatever the limit."""
    query = select(func.count()).select_from(sightings).where(_condition(wanted))
    return int(connection.execute(query).scalar_one())


def find_sighting(connection: Connection, key: str) -> SightingRecord:
    """The sighting of an id, or of the beginning of one. Raises UnknownSighting."""
    if not key or key.strip("0123456789abcdef"):
        raise UnknownSighting(f"a sighting's id is hexadecimal, got {key[:40]!r}")
    query = _records().where(sightings.c.id.like(f"{key}%")).limit(2)
    found = connection.execute(query).all()
    if len(found) > 1:
        raise UnknownSighting(f"several sightings begin with {key}: give more of the id")
    if not found:
        raise UnknownSighting(
            f"there is no sighting {key[:32]}: `facestream sightings list` shows those there are"
        )
    return _record(found[0])


def has_ended(connection: Connection, key: str) -> bool:
    """Whether the end of a sighting is known."""
    query = select(sightings.c.id).where(sightings.c.id == key, sightings.c.ended_at.is_not(None))
    return connection.execute(query).first() is not None


def read_details(connection: Connection, key: str) -> SightingDetails:
    """All that is kept of a sighting but its template. Raises UnknownSighting."""
    record = find_sighting(connection, key)
    return SightingDetails(
        sighting=record,
        weights=_read_weights(connection, record.id),
        crops=_read_crops(connection, record.id),
    )


def read_templates(
    connection: Connection, pack: str, embedder: str, wanted: SightingFilter
) -> Templates:
    """The templates that one embedder made, of the sightings that a filter lets through."""
    found = [one for one in read_sightings(connection, wanted) if one.template]
    same = tuple(one for one in found if (one.pack, one.embedder) == (pack, embedder))
    vectors: dict[str, bytes] = {}
    query = (
        select(sightings.c.id, templates.c.vector)
        .join(templates, templates.c.sighting == sightings.c.number)
        .where(sightings.c.pack == pack, sightings.c.embedder == embedder)
    )
    for key, vector in connection.execute(query):
        vectors[key] = vector
    if len(lengths := {len(vectors[one.id]) for one in same}) > 1:
        raise SightingsError(
            f"sightings of pack {pack} have templates of different lengths: erase those that "
            "another program wrote"
        )
    if not same:
        return Templates((), np.zeros((0, 0), np.float32), len(found))
    joined = np.frombuffer(b"".join(vectors[one.id] for one in same), "<f4")
    rows = joined.reshape(len(same), lengths.pop() // 4).astype(np.float32)
    return Templates(same, rows, len(found) - len(same))


def read_people(connection: Connection) -> set[str]:
    """Gallery ids of everybody who is named in the store."""
    found: set[str] = set()
    for column in (sightings.c.uid, sightings.c.given_uid):
        found |= set(connection.execute(select(column).where(column != "").distinct()).scalars())
    return found


def read_strangers(connection: Connection) -> dict[str, str]:
    """Recurring strangers by the id of each sighting that shows one."""
    query = select(sightings.c.id, sightings.c.stranger).where(sightings.c.stranger != "")
    return {key: stranger for key, stranger in connection.execute(query)}


def _read_weights(connection: Connection, key: str) -> tuple[FrameWeight, ...]:
    of = sightings.c.id == key
    gain, open_rows = connection.execute(
        select(sightings.c.gain, sightings.c.open_rows).where(of)
    ).one()
    stored = (
        select(weights.c.rows)
        .join(sightings, sightings.c.number == weights.c.sighting)
        .where(of)
        .order_by(weights.c.number)
    )
    if not gain:
        return ()
    return weigh_frames([*connection.execute(stored).scalars(), open_rows], gain)


def _read_crops(connection: Connection, key: str) -> tuple[Crop, ...]:
    query = (
        select(crops)
        .join(sightings, sightings.c.number == crops.c.sighting)
        .where(sightings.c.id == key)
        .order_by(crops.c.rank)
    )
    return tuple(
        Crop(
            frame=one.frame,
            pts=one.pts,
            captured_at=one.captured_at,
            quality=one.quality,
            weight=one.weight,
            box=_BOX.decode(one.box),
            jpeg=one.jpeg,
        )
        for one in connection.execute(query)
    )


def _records() -> Any:
    """The query of all sightings, with what `_record` needs."""
    has_template = exists().where(templates.c.sighting == sightings.c.number)
    count = (
        select(func.count())
        .select_from(crops)
        .where(crops.c.sighting == sightings.c.number)
        .scalar_subquery()
    )
    columns = [column for column in sightings.c if column.name not in ("gain", "open_rows")]
    return select(*columns, has_template.label("template"), count.label("crops"))


def _condition(wanted: SightingFilter) -> ColumnElement[bool]:
    c = sightings.c
    parts: list[ColumnElement[bool]] = [c.number.is_not(None)]
    if wanted.camera is not None:
        parts.append(c.camera == wanted.camera)
    if wanted.since is not None:
        parts.append(c.started_at >= wanted.since)
    if wanted.until is not None:
        parts.append(c.started_at < wanted.until)
    if wanted.person or wanted.uid:
        parts.append(shows(wanted.person, wanted.uid))
    if wanted.unknown:
        parts.append(and_(c.identity == "", c.given == ""))
    if wanted.stranger is not None:
        parts.append(c.stranger == wanted.stranger)
    if wanted.template:
        parts.append(exists().where(templates.c.sighting == c.number))
    return and_(*parts)


def _record(row: Row[Any]) -> SightingRecord:
    given = bool(row.given)
    name = row.given or row.identity
    values = {column: getattr(row, column) for column in _COPIED}
    return SightingRecord(
        **values,
        identity=name or None,
        uid=row.given_uid if given else row.uid,
        named="given" if given else "decided" if name else "",
        named_at=row.given_at,
        named_score=row.given_score,
        template=bool(row.template),
        crops=row.crops,
    )
