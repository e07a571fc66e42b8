"""Identities, samples, embeddings per pack, the gallery version and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables; the gallery starts at version 0."""
    op.create_table(
        "identity",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identity"),
        sa.UniqueConstraint("name", name="uq_identity_name"),
    )
    op.create_table(
        "sample",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("identity_id", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.id"], name="fk_sample_identity_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("digest", name="uq_sample_digest"),
    )
    op.create_index("ix_sample_identity_id", "sample", ["identity_id"])
    op.create_table(
        "embedding",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sample_id", sa.Integer, nullable=False),
        sa.Column("pack", sa.String(200), nullable=False),
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("norm", sa.Double, nullable=False),
        sa.Column("quality", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_embedding"),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["sample.id"], name="fk_embedding_sample_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("sample_id", "pack", "embedder", name="uq_embedding_sample_id"),
    )
    op.create_index("ix_embedding_pack", "embedding", ["pack", "embedder"])
    state = op.create_table(
        "gallery_state",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gallery_state"),
        sa.CheckConstraint("id = 1", name="ck_gallery_state_one_row"),
    )
    op.bulk_insert(state, [{"id": 1, "version": 0}])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("identity", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_identity", "audit", ["identity"])
