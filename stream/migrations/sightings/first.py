"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    _make_sightings()
    _make_erased()
    _make_crops()
    _make_templates()
    _make_weights()


def _make_sightings() -> None:
    op.create_table(
        "sighting",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("epoch", sa.String(64), nullable=False),
        sa.Column("camera", sa.String(200), nullable=False),
        sa.Column("track", sa.Integer, nullable=False),
        sa.Column("first_frame", sa.BigInteger, nullable=True),
        sa.Column("first_pts", sa.Double, nullable=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=True),
        sa.Column("reason", sa.String(20), nullable=False),
        sa.Column("identity", sa.String(200), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("given", sa.String(200), nullable=False),
        sa.Column("given_uid", sa.String(32), nullable=False),
        sa.Column("given_at", sa.Double, nullable=True),
        sa.Column("given_score", sa.Double, nullable=True),
        sa.Column("stranger", sa.String(20), nullable=False),
        sa.Column("score", sa.Double, nullable=True),
        sa.Column("cosine", sa.Double, nullable=True),
        sa.Column("threshold", sa.Double, nullable=True),
        sa.Column("probability", sa.Double, nullable=True),
        sa.Column("pack", sa.String(200), nullable=False),
        sa.Column("embedder", sa.String(64), nullable=False),
        sa.Column("gallery_version", sa.Integer, nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("faces", sa.Integer, nullable=False),
        sa.Column("quality_min", sa.Double, nullable=True),
        sa.Column("quality_median", sa.Double, nullable=True),
        sa.Column("quality_max", sa.Double, nullable=True),
        sa.Column("gain", sa.LargeBinary, nullable=False),
        sa.Column("open_rows", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_sighting"),
        sa.UniqueConstraint("id", name="uq_sighting_id"),
    )
    op.create_index("ix_sighting_camera", "sighting", ["camera", "started_at"])
    op.create_index("ix_sighting_given_uid", "sighting", ["given_uid"])
    op.create_index("ix_sighting_seen_at", "sighting", ["seen_at"])
    op.create_index("ix_sighting_started_at", "sighting", ["started_at"])
    op.create_index("ix_sighting_stranger", "sighting", ["stranger"])
    op.create_index("ix_sighting_uid", "sighting", ["uid"])


def _make_erased() -> None:
    op.create_table(
        "sighting_erased",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sighting_erased"),
    )


def _make_crops() -> None:
    op.create_table(
        "sighting_crop",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("sighting", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("frame", sa.BigInteger, nullable=False),
        sa.Column("pts", sa.Double, nullable=False),
        sa.Column("captured_at", sa.Double, nullable=False),
        sa.Column("quality", sa.Double, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("box", sa.LargeBinary, nullable=False),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["sighting"], ["sighting.number"], name="fk_sighting_crop_sighting", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_sighting_crop"),
        sa.UniqueConstraint("sighting", "rank", name="uq_sighting_crop_sighting"),
    )


def _make_templates() -> None:
    op.create_table(
        "sighting_template",
        sa.Column("sighting", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["sighting"],
            ["sighting.number"],
            name="fk_sighting_template_sighting",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sighting", name="pk_sighting_template"),
    )


def _make_weights() -> None:
    op.create_table(
        "sighting_weights",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("sighting", sa.Integer, nullable=False),
        sa.Column("rows", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["sighting"],
            ["sighting.number"],
            name="fk_sighting_weights_sighting",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_sighting_weights"),
    )
    op.create_index("ix_sighting_weights_sighting", "sighting_weights", ["sighting"])
