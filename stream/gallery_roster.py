"""Whom a matcher knows, with the times at which they are matched: read whole, or by changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, or_, select, true

from .. import GalleryError
from .gallery_density import read_densities
from .gallery_read import read_in_use, read_version
from .gallery_records import Doubles, Floats, GalleryTemplates, fuse, join_vectors
from .gallery_tables import audit, embeddings, identities, samples

LINES = 500
"""Lines of the audit trail after which everybody is read anew, and not whoever changed."""

_NO_NEGATIVES: Mapping[str, Floats] = MappingProxyType({})


class Member(NamedTuple):
    """One of a roster: matched from `begins` until `ends`, seconds since 1970; +-inf: no bound."""

    id: str
    name: str
    begins: float
    ends: float


class Line(NamedTuple):
    """A line of the audit trail: its number, and its time, by which it is known for the same."""

    id: int
    at: float


class Roster(NamedTuple):
    """One version's people with the times at which they are matched, in the order of enrolment.

    So a matcher that cannot reach the store still knows whom to stop matching, and when. people:
    everybody, P. owners: (T,) intp, ascending: the place in `people` of each of the T who have an
    embedding of the pack and whose time is not over. vectors: (T, C) float32, unit length; (0, 0)
    when there are none. densities: (T,) float64, NaN where none is kept. in_use: the pack that the
    gallery is matched with and its embedder, None as long as there is none. negatives: the faces
    that were marked as not being somebody, (K, C) float32 of unit length by name. newest: the line
    of the audit trail up to which it holds.
    """

    version: int
    in_use: tuple[str, str] | None
    people: tuple[Member, ...]
    owners: npt.NDArray[np.intp]
    vectors: Floats
    densities: Doubles
    newest: Line
    negatives: Mapping[str, Floats] = _NO_NEGATIVES

    def at(self, now: float) -> GalleryTemplates:
        """Who is matched at `now`, seconds since 1970: not earlier than when this was read."""
        begins = np.array([one.begins for one in self.people])
        ends = np.array([one.ends for one in self.people])
        valid = (begins <= now) & (now < ends)
        with_template = np.zeros(len(self.people), np.bool_)
        with_template[self.owners] = True
        chosen = valid[self.owners]
        moments = np.concatenate([begins, ends])
        later = moments[(moments > now) & (moments < np.inf)]
        names = [one.name for one in self.people]
        return GalleryTemplates(
            names=tuple(names[i] for i in self.owners[chosen]),
            # Nearly always everybody is valid, and a large gallery is not copied for nothing.
            vectors=self.vectors if chosen.all() else self.vectors[chosen],
            version=self.version,
            missing=tuple(names[i] for i in np.flatnonzero(valid & ~with_template)),
            expired=tuple(names[i] for i in np.flatnonzero(~valid)),
            changes_at=float(later.min()) if len(later) else None,
            densities=self.densities[chosen],
        )

    def changed(self, part: Roster, whose: Collection[str], now: float) -> Roster:
        """This roster with everybody whose id is among `whose` as in `part`, a newer one of them.

        Who is not in `part` is gone. It is what reading everybody at `now` would give.
        """
        new = {one.id: one for one in part.people}
        people = [new.pop(one.id, None) if one.id in whose else one for one in self.people]
        together = (*(one for one in people if one is not None), *new.values())
        places = {one.id: place for place, one in enumerate(together)}
        here = np.array([one.id not in whose and one.ends > now for one in self.people], np.bool_)
        kept = np.flatnonzero(here[self.owners])
        owners = np.array(
            [places[self.people[owner].id] for owner in self.owners[kept]]
            + [places[part.people[owner].id] for owner in part.owners],
            np.intp,
        )
        order = np.argsort(owners, kind="stable")
        rows = [one for one in (self.vectors[kept], part.vectors) if len(one)]
        if len(widths := {one.shape[1] for one in rows}) > 1:
            raise GalleryError(
                f"embeddings of one embedder have {min(widths)} and {max(widths)} numbers"
            )
        return part._replace(
            people=together,
            owners=owners[order],
            vectors=np.concatenate(rows)[order] if rows else np.zeros((0, 0), np.float32),
            densities=np.concatenate([self.densities[kept], self._densities_of(part)])[order],
        )

    def _densities_of(self, part: Roster) -> Doubles:
        """Those of `part`; where it has none, those here, of templates that are still the same."""
        ids = {part.people[owner].id: row for row, owner in enumerate(part.owners)}
        densities = part.densities.copy()
        for before, owner in enumerate(self.owners):
            row = ids.get(self.people[owner].id)
            if row is None or not np.isnan(densities[row]):
                continue
            if np.array_equal(self.vectors[before], part.vectors[row]):
                densities[row] = self.densities[before]
        return densities


def read_roster(
    connection: Connection,
    pack: str,
    embedder: str | None,
    model: str,
    now: float,
    whose: Collection[str] | None = None,
) -> Roster:
    """What `Gallery.roster` returns; model: the key of densities, "" for none.

    whose: of these ids alone. Raises GalleryError for embeddings of two embedders.
    """
    bounds = (identities.c.valid_from, identities.c.valid_until, identities.c.keep_until)
    these = true() if whose is None else identities.c.uid.in_(whose)
    everybody = select(identities.c.id, identities.c.uid, identities.c.name, *bounds)
    query = (
        select(identities.c.id, embeddings.c.embedder)
        .add_columns(embeddings.c.vector, embeddings.c.quality)
        .join(samples, samples.c.identity_id == identities.c.id)
        .join(embeddings, embeddings.c.sample_id == samples.c.id)
        .where(embeddings.c.pack == pack, these)
        # Faces of people whose time is over are needed by nobody, and stay in the store.
        .where(*(or_(end.is_(None), end > now) for end in bounds[1:]))
        .order_by(identities.c.id, embeddings.c.id)
    )
    if embedder is not None:
        query = query.where(embeddings.c.embedder == embedder)
    version, used = read_version(connection), read_in_use(connection)
    newest = _newest_line(connection)
    found = connection.execute(everybody.where(these).order_by(identities.c.id)).all()
    people = tuple(Member(one.uid, one.name, *_matched(*one[3:])) for one in found)
    rows = connection.execute(query).all()
    if len({row.embedder for row in rows}) > 1:
        raise GalleryError(
            f"the gallery holds embeddings of different embedder files of pack {pack}, which "
            "cannot be compared: enrol the photos again into a new gallery"
        )
    if not rows:
        nothing = np.zeros((0, 0), np.float32)
        return Roster(version, used, people, np.zeros(0, np.intp), nothing, np.zeros(0), newest)
    raw = join_vectors([row.vector for row in rows])
    # The rows of one person stand together, people in the order they were enrolled.
    starts = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1].id != row.id]
    vectors = fuse(raw, np.array([row.quality for row in rows]), np.array(starts))
    places = {one.id: place for place, one in enumerate(found)}
    of = None if whose is None else [rows[i].id for i in starts]
    kept = read_densities(connection, pack, rows[0].embedder, model, of) if model else {}
    densities = np.array([kept.get(rows[i].id, np.nan) for i in starts])
    owners = np.array([places[rows[i].id] for i in starts], np.intp)
    return Roster(version, used, people, owners, vectors, densities, newest)


def find_changed(connection: Connection, since: Line) -> set[str] | None:
    """The ids of everybody who changed after a line of the trail; None where it may be everybody.

    Every change of what a template is made of leaves a line with the person's id, or takes a
    pack's embeddings at once. A trail without that line is another gallery's, put in its place; a
    version without a line is another program's doing.
    """
    same = connection.execute(select(audit.c.at).where(audit.c.id == since.id)).scalar()
    query = select(audit.c.identity, audit.c.action, audit.c.version).where(audit.c.id > since.id)
    lines = connection.execute(query.order_by(audit.c.id).limit(LINES)).all()
    if (
        same != since.at
        or not 0 < len(lines) < LINES
        or lines[-1].version != read_version(connection)
        or any(one.action == "drop-pack" for one in lines)
    ):
        return None
    return {one.identity for one in lines if one.identity}


def _newest_line(connection: Connection) -> Line:
    found = connection.execute(
        select(audit.c.id, audit.c.at).order_by(audit.c.id.desc()).limit(1)
    ).first()
    return Line(0, 0.0) if found is None else Line(found.id, found.at)


def _matched(begins: float | None, until: float | None, kept: float | None) -> tuple[float, float]:
    """From when until when somebody of these bounds is matched."""
    ends = min(math.inf if end is None else end for end in (until, kept))
    return -math.inf if begins is None else begins, ends
