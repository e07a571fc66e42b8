"""Changing the sighting store inside one transaction: functions take the connection of one."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    and_,
    delete,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..models.fusion import Floats
from .sighting_records import Crop, Purged, sighting_id
from .sighting_tables import crops, erased, sightings, templates, weights

TOMBSTONE_DAYS = 30.0
"""How long an id that was erased is refused: longer than any run is gone on with."""
DAY = 86400.0

_EMPTY: dict[str, Any] = {
    "ended_at": None,
    "reason": "open",
    "identity": "",
    "uid": "",
    "stranger": "",
    "score": None,
    "cosine": None,
    "threshold": None,
    "threshold_why": "",
    "best_score": None,
    "probability": None,
    "pack": "",
    "embedder": "",
    "gallery_version": 0,
    "frames": 0,
    "faces": 0,
    "quality_min": None,
    "quality_median": None,
    "quality_max": None,
    "gain": b"",
    "open_rows": b"",
}
_UNNAMED: dict[str, Any] = {"given": "", "given_uid": "", "given_at": None, "given_score": None}


@dataclass
class Draft:
    """What became known of a sighting since it was last written.

    begins: it starts now, whatever is stored under its id. values: columns with their new values.
    keeps_template, keeps_crops: False: what is stored goes; True: what is given replaces it; None:
    nothing was decided. rows: packed weights of frames (sighting_weights), one blob or more.
    """

    epoch: str
    camera: str
    track: int
    begins: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    keeps_template: bool | None = None
    keeps_crops: bool | None = None
    template: Floats | None = None
    crops: Sequence[Crop] | None = None
    rows: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The id of the sighting."""
        return sighting_id(self.epoch, self.camera, self.track)

    def followed_by(self, later: Draft) -> Draft:
        """This draft and a later one of the same sighting as one."""
        if later.begins:
            return later
        decided = later.keeps_template is not None
        values = {**self.values, **later.values}
        if "identity" in later.values and "uid" not in later.values:
            values.pop("uid", None)  # it may be somebody else's
        return Draft(
            self.epoch,
            self.camera,
            self.track,
            self.begins,
            values,
            later.keeps_template if decided else self.keeps_template,
            later.keeps_crops if decided else self.keeps_crops,
            later.template if later.template is not None or decided else self.template,
            later.crops if later.crops is not None or decided else self.crops,
            [*self.rows, *later.rows],
        )


def write(connection: Connection, drafts: Iterable[Draft]) -> None:
    """Store drafts; the same ones twice store the same. What was erased stays away."""
    by_id = {draft.id: draft for draft in drafts}
    gone = set(connection.execute(select(erased.c.id).where(erased.c.id.in_(by_id))).scalars())
    for key, draft in by_id.items():
        if key not in gone:
            _write(connection, key, draft)


def _write(connection: Connection, key: str, draft: Draft) -> None:
    columns = (sightings.c.number, sightings.c.first_frame, sightings.c.first_pts)
    known = connection.execute(select(*columns).where(sightings.c.id == key)).first()
    if known is None:
        if not draft.values:
            return  # weights of a sighting that nothing else is known of
        number = _insert(connection, key, draft)
    else:
        number = int(known.number)
        values = dict(draft.values)
        if draft.begins:
            values = _EMPTY | values
            start = (values.get("first_frame"), values.get("first_pts"))
            if start != (known.first_frame, known.first_pts):
                values |= _UNNAMED  # another track than the one that was named
            for table in (templates, crops, weights):
                connection.execute(delete(table).where(table.c.sighting == number))
        if values:
            connection.execute(
                update(sightings).where(sightings.c.number == number).values(**values)
            )
    if draft.rows:
        blobs = [{"sighting": number, "rows": blob} for blob in draft.rows]
        connection.execute(insert(weights), blobs)
    _write_template(connection, number, draft)
    _write_crops(connection, number, draft)


def _insert(connection: Connection, key: str, draft: Draft) -> int:
    seen_at = draft.values["seen_at"]
    start = {"started_at": seen_at, "first_frame": None, "first_pts": None}
    where = {"epoch": draft.epoch, "camera": draft.camera, "track": draft.track}
    row = {**_EMPTY, **_UNNAMED, **start, **where, "id": key, **draft.values}
    made = connection.execute(insert(sightings).values(**row)).inserted_primary_key
    assert made is not None
    return int(made[0])


def _write_template(connection: Connection, number: int, draft: Draft) -> None:
    if draft.keeps_template is False or draft.template is not None:
        connection.execute(delete(templates).where(templates.c.sighting == number))
    if draft.keeps_template and draft.template is not None:
        vector = draft.template.astype("<f4")
        values = {"dimension": len(vector), "vector": vector.tobytes()}
        connection.execute(insert(templates).values(sighting=number, **values))


def _write_crops(connection: Connection, number: int, draft: Draft) -> None:
    if draft.keeps_crops is False or draft.crops is not None:
        connection.execute(delete(crops).where(crops.c.sighting == number))
    if draft.keeps_crops and draft.crops:
        rows = [
            msgspec.structs.asdict(crop)
            | {"sighting": number, "rank": rank, "box": msgspec.msgpack.encode(crop.box)}
            for rank, crop in enumerate(draft.crops)
        ]
        connection.execute(insert(crops), rows)


def name(
    connection: Connection,
    scores: Mapping[str, float | None],
    *,
    given: str,
    uid: str,
    now: float,
) -> tuple[str, ...]:
    """Give sightings a name, each with the score it is given for; ids of those that had not it."""
    changed = []
    for key, score in scores.items():
        others = or_(sightings.c.given_uid != uid, sightings.c.given != given)
        values = {"given": given, "given_uid": uid, "given_at": now, "given_score": score}
        done = connection.execute(
            update(sightings).where(sightings.c.id == key, others).values(stranger="", **values)
        )
        if done.rowcount:
            changed.append(key)
    return tuple(changed)


def unname(connection: Connection, keys: Collection[str]) -> int:
    """Take back names that were given; what was decided at the time stands again."""
    its = sightings.c.id.in_(keys) & (sightings.c.given != "")
    return connection.execute(update(sightings).where(its).values(**_UNNAMED)).rowcount


def assign(connection: Connection, strangers: Mapping[str, str]) -> None:
    """Say which recurring stranger each sighting shows, "" for none."""
    for key, stranger in strangers.items():
        its = (sightings.c.id == key) & (sightings.c.stranger != stranger)
        connection.execute(update(sightings).where(its).values(stranger=stranger))


def shows(who: Collection[str], uid: str = "") -> ColumnElement[bool]:
    """Sightings that are taken for a person: who and uid as `SightingFilter` has them."""
    decided = _means(sightings.c.uid, sightings.c.identity, who, uid)
    given = _means(sightings.c.given_uid, sightings.c.given, who, uid)
    return or_(and_(sightings.c.given == "", decided), given)


def concerns(who: Collection[str], uid: str = "") -> ColumnElement[bool]:
    """Sightings that are taken for a person, or once were. As `shows`."""
    return or_(
        _means(sightings.c.uid, sightings.c.identity, who, uid),
        _means(sightings.c.given_uid, sightings.c.given, who, uid),
    )


def _means(
    ids: Column[str], names: Column[str], who: Collection[str], uid: str
) -> ColumnElement[bool]:
    if not uid:
        return or_(ids.in_(who), names.in_(who))
    return or_(ids == uid, and_(ids == "", names.in_(who)))


def erase(connection: Connection, which: ColumnElement[bool], *, now: float | None = None) -> int:
    """Erase sightings with all that is kept beside them; what was erased does not come back."""
    at = time.time() if now is None else now
    fresh = sightings.c.id.not_in(select(erased.c.id))
    ids = select(sightings.c.id, literal(at)).where(which, fresh)
    connection.execute(insert(erased).from_select(["id", "at"], ids))
    return connection.execute(delete(sightings).where(which)).rowcount


def purge(
    connection: Connection,
    now: float,
    *,
    keep_days: float | None,
    template_days: float | None,
    crop_days: float | None,
    gone: Collection[str],
) -> Purged:
    """Delete what is older than it may be, and all sightings of people that are `gone` (uids)."""

    def older(days: float | None) -> ColumnElement[bool]:
        return sightings.c.seen_at < now - (days or 0.0) * DAY

    of_erased = 0
    for uid in gone:
        of_erased += erase(connection, concerns([uid]), now=now)
    counts = {"sightings": 0, "templates": 0, "crops": 0}
    for what, table, days in (("templates", templates, template_days), ("crops", crops, crop_days)):
        if days is not None:
            old = select(sightings.c.number).where(older(days))
            done = connection.execute(delete(table).where(table.c.sighting.in_(old)))
            counts[what] = done.rowcount
    if keep_days is not None:
        counts["sightings"] = connection.execute(delete(sightings).where(older(keep_days))).rowcount
    connection.execute(delete(erased).where(erased.c.at < now - TOMBSTONE_DAYS * DAY))
    return Purged(of_erased=of_erased, **counts)
