"""Alembic migrations of gallery and sightings, run by the program itself: no alembic.ini.

To change the tables: change `gallery_tables`, add the next file under `versions` and raise
`gallery_tables.REVISION` (`sighting_tables`, under `sightings`); a test compares what the
migrations make with the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from ..gallery_errors import GALLERY, Kind

if TYPE_CHECKING:
    from sqlalchemy import Connection


def revisions(kind: Kind = GALLERY) -> tuple[str, ...]:
    """Every revision this code knows, oldest first."""
    return tuple(script.revision for script in reversed(list(_scripts(kind).walk_revisions())))


def upgrade(connection: Connection, kind: Kind = GALLERY) -> None:
    """Bring the database to the newest revision, inside the connection's open transaction."""
    scripts = _scripts(kind)

    def steps(revision: Any, _: Any) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=kind.revision_table)
        environment.run_migrations()


def _scripts(kind: Kind = GALLERY) -> ScriptDirectory:
    folder = Path(__file__).parent
    return ScriptDirectory(folder, version_locations=[str(folder / kind.versions)])
