"""Which pack a gallery is matched with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add it; none is chosen yet."""
    for name, length in (("pack", 200), ("embedder", 64)):
        column = sa.Column(name, sa.String(length), nullable=False, server_default="")
        op.add_column("gallery_state", column)
