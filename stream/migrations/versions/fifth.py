"""Faces that were marked as not being a person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "negative",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("identity_id", sa.Integer, nullable=False),
        sa.Column("pack", sa.String(200), nullable=False),
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_negative"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.id"], name="fk_negative_identity_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("uid", name="uq_negative_uid"),
        sa.UniqueConstraint("identity_id", "digest", name="uq_negative_identity_id"),
    )
