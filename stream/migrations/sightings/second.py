"""Why a threshold was in force, and the best score of a track."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; of sightings that are there already both are unknown."""
    op.add_column(
        "sighting", sa.Column("threshold_why", sa.Text, nullable=False, server_default="")
    )
    op.add_column("sighting", sa.Column("best_score", sa.Double, nullable=True))
