"""Which pack a gallery is matched with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add it; where embeddings of one embedder alone are there, that one is in use."""
    for name, length in (("pack", 200), ("embedder", 64)):
        column = sa.Column(name, sa.String(length), nullable=False, server_default="")
        op.add_column("gallery_state", column)
    embeddings = sa.table("embedding", sa.column("pack"), sa.column("embedder"))
    query = sa.select(embeddings.c.pack, embeddings.c.embedder).distinct().limit(2)
    found = op.get_bind().execute(query).all()
    if len(found) == 1:
        state = sa.table("gallery_state", sa.column("pack"), sa.column("embedder"))
        op.execute(sa.update(state).values(pack=found[0].pack, embedder=found[0].embedder))
