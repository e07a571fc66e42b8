"""The gallery's Alembic migrations, run by the program itself: no alembic.ini, no command.

To change the tables: change `gallery_tables`, add the next file under `versions` and raise
`gallery_tables.REVISION`; a test compares what the migrations make with the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from ..gallery_tables import REVISION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection


def revisions() -> tuple[str, ...]:
    """Every revision this code knows, oldest first."""
    return tuple(script.revision for script in reversed(list(_scripts().walk_revisions())))


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, inside the connection's open transaction."""
    scripts = _scripts()

    def steps(revision: Any, _: Any) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=REVISION_TABLE)
        environment.run_migrations()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(Path(__file__).parent)
