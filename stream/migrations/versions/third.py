"""Densities of templates, per pack and version of anchors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table; it fills at the next enrolment."""
    op.create_table(
        "density",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("identity_id", sa.Integer, nullable=False),
        sa.Column("pack", sa.String(200), nullable=False),
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_density"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.id"], name="fk_density_identity_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint(
            "identity_id", "pack", "embedder", "model", name="uq_density_identity_id"
        ),
    )
