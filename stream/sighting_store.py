"""The sighting store: who was seen where and when, and what is kept of it for how long.

`Sightings` is the only door to it, and what a console or a script uses: callers see the records of
`sighting_records`, never SQL. It lies beside the journal: a run writes a sighting here before the
journal has its events, so that whatever the journal knows is here, too (`sighting_keeper`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from ..configs.schema import SightingsConfig
from . import sighting_read as reading
from . import sighting_write as writing
from .gallery_engine import Store
from .sighting_records import (
    Purged,
    SightingDetails,
    SightingFilter,
    SightingRecord,
    Templates,
)
from .sighting_tables import SIGHTINGS, sightings
from .sighting_write import Draft

EVERYTHING = SightingFilter()


class Sightings(Store):
    """The store of sightings. Thread-safe, and safe to share between processes and machines.

    Every method may raise SightingsUnreadable (locked, damaged, unreachable) or SightingsError
    (read-only, no space left); what was stored before stays as it was.
    """

    kind = SIGHTINGS

    def write(self, drafts: Iterable[Draft]) -> None:
        """Store what a run tells of sightings, all of it or nothing; twice is as good as once."""
        with self._database.transaction(write=True) as connection:
            writing.write(connection, drafts)

    def list(self, wanted: SightingFilter = EVERYTHING) -> tuple[SightingRecord, ...]:
        """The sightings that a filter lets through, oldest first."""
        with self._database.transaction() as connection:
            return reading.read_sightings(connection, wanted)

    def count(self, wanted: SightingFilter = EVERYTHING) -> int:
        """How many sightings a filter lets through, whatever its limit."""
        with self._database.transaction() as connection:
            return reading.count_sightings(connection, wanted)

    def find(self, key: str) -> SightingRecord:
        """The sighting of an id, or of the beginning of one. Raises UnknownSighting."""
        with self._database.transaction() as connection:
            return reading.find_sighting(connection, key)

    def has_ended(self, key: str) -> bool:
        """Whether the end of a sighting (whole id) is known here."""
        with self._database.transaction() as connection:
            return reading.has_ended(connection, key)

    def show(self, key: str) -> SightingDetails:
        """A sighting with its weights and pictures, by id or its beginning. As `find`."""
        with self._database.transaction() as connection:
            return reading.read_details(connection, key)

    def templates(self, pack: str, embedder: str, wanted: SightingFilter = EVERYTHING) -> Templates:
        """The fused templates of sightings, as far as they are kept and the same embedder's.

        embedder: SHA-256 of its file.
        """
        with self._database.transaction() as connection:
            return reading.read_templates(connection, pack, embedder, wanted)

    def people(self) -> frozenset[str]:
        """Gallery ids of everybody who is named here."""
        with self._database.transaction() as connection:
            return frozenset(reading.read_people(connection))

    def name(
        self, scores: Mapping[str, float | None], *, name: str, uid: str
    ) -> tuple[SightingRecord, ...]:
        """Give sightings (by id) a person's name, in one step; returns those that had not it.

        scores: what each is named for; None where somebody says so. uid: the gallery's id of the
        person.
        """
        with self._database.transaction(write=True) as connection:
            changed = writing.name(connection, scores, given=name, uid=uid, now=time.time())
            return tuple(reading.find_sighting(connection, key) for key in changed)

    def unname(self, keys: Collection[str]) -> int:
        """Take back names given to sightings (by id); returns how many had one."""
        with self._database.transaction(write=True) as connection:
            return writing.unname(connection, keys)

    def strangers(self, *, leave_out: Collection[str] = ()) -> dict[str, str]:
        """Ids of recurring strangers by the id of each sighting that shows one."""
        with self._database.transaction() as connection:
            found = reading.read_strangers(connection)
        ignored = set(leave_out)
        return {key: stranger for key, stranger in found.items() if key not in ignored}

    def assign(self, strangers: Mapping[str, str], *, among: Iterable[str]) -> None:
        """Say which recurring stranger each sighting (by id) shows; others of `among` show none."""
        with self._database.transaction(write=True) as connection:
            writing.assign(connection, {key: strangers.get(key, "") for key in among})

    def erase(self, keys: Collection[str]) -> int:
        """Erase sightings by id, with all that is kept of them; returns how many there were."""
        with self._database.transaction(write=True) as connection:
            count = sum(writing.erase(connection, sightings.c.id == key) for key in keys)
        if count:
            self._database.forget_deleted()
        return count

    def erase_person(self, *who: str, uid: str = "") -> int:
        """Erase all sightings that are taken for a person, or once were.

        who: names and gallery ids; uid: as `SightingFilter` has it.
        """
        with self._database.transaction(write=True) as connection:
            count = writing.erase(connection, writing.concerns(who, uid))
        if count:
            self._database.forget_deleted()
        return count

    def purge(
        self, limits: SightingsConfig, *, gone: Collection[str] = (), now: float | None = None
    ) -> Purged:
        """Delete what is older than `limits` keep it, and everything of erased people (`gone`)."""
        moment = time.time() if now is None else now
        with self._database.transaction(write=True) as connection:
            purged = writing.purge(
                connection,
                moment,
                keep_days=limits.keep_days,
                template_days=limits.template_days,
                crop_days=limits.crop_days,
                gone=gone,
            )
        if purged.anything:
            self._database.forget_deleted()
        return purged
