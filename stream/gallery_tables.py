"""The gallery's tables; `migrations` makes the same ones (a test compares the two).

    identity 1--n sample 1--n embedding        gallery_state (one row)        audit
    identity 1--n label, 1--n density, 1--n negative
    identity n--m watchlist (watchlist_member)

A sample is a photo, known by the SHA-256 of its bytes; the photo itself is not stored. It has one
embedding per embedder file, so that a gallery can hold several packs; `gallery_state` says which is
in use. A density is r of the person's template (models/ida) by one version of anchors: computed
once, gone when the template changes. The audit trail names people by `identity.uid` alone, which is
random and never used again: once somebody is erased, it says of whom no more. The database itself
refuses to change or delete its rows. Times are seconds since 1970 (UTC), as everywhere in
facestream.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

REVISION = "0005"
"""The newest migration: what a gallery must be at for this code to use it."""

REVISION_TABLE = "gallery_revision"
"""Where Alembic notes the revision; a name of its own, as a database may hold more tables."""

NAME_LENGTH = 200
KEY_LENGTH = 100

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

identities = Table(
    "identity",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(NAME_LENGTH), nullable=False, unique=True),
    Column("notes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("uid", String(32), nullable=False, server_default=""),
    Column("basis", Text, nullable=False, server_default=""),
    Column("valid_from", Double, nullable=True),
    Column("valid_until", Double, nullable=True),
    Column("keep_until", Double, nullable=True),
    Index("ix_identity_uid", "uid", unique=True),
)

labels = Table(
    "label",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity_id", Integer, ForeignKey("identity.id", ondelete="CASCADE"), nullable=False),
    Column("key", String(KEY_LENGTH), nullable=False),
    Column("value", Text, nullable=False),
    UniqueConstraint("identity_id", "key"),
)

watchlists = Table(
    "watchlist",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(NAME_LENGTH), nullable=False, unique=True),
    Column("notes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

members = Table(
    "watchlist_member",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("watchlist_id", Integer, ForeignKey("watchlist.id", ondelete="CASCADE"), nullable=False),
    Column(
        "identity_id",
        Integer,
        ForeignKey("identity.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    UniqueConstraint("watchlist_id", "identity_id"),
)

samples = Table(
    "sample",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "identity_id",
        Integer,
        ForeignKey("identity.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("source", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
)

embeddings = Table(
    "embedding",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sample_id", Integer, ForeignKey("sample.id", ondelete="CASCADE"), nullable=False),
    Column("pack", String(NAME_LENGTH), nullable=False),
    Column("embedder", String(64), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("norm", Double, nullable=False),
    Column("quality", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("sample_id", "pack", "embedder"),
    Index("ix_embedding_pack", "pack", "embedder"),
)

densities = Table(
    "density",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity_id", Integer, ForeignKey("identity.id", ondelete="CASCADE"), nullable=False),
    Column("pack", String(NAME_LENGTH), nullable=False),
    Column("embedder", String(64), nullable=False),
    Column("model", String(NAME_LENGTH), nullable=False),
    Column("value", Double, nullable=False),
    UniqueConstraint("identity_id", "pack", "embedder", "model"),
)

negatives = Table(
    "negative",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),
    Column("identity_id", Integer, ForeignKey("identity.id", ondelete="CASCADE"), nullable=False),
    Column("pack", String(NAME_LENGTH), nullable=False),
    Column("embedder", String(64), nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("source", Text, nullable=False),
    Column("notes", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("identity_id", "digest"),
)

state = Table(
    "gallery_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("pack", String(NAME_LENGTH), nullable=False, server_default=""),
    Column("embedder", String(64), nullable=False, server_default=""),
    CheckConstraint("id = 1", name="one_row"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(40), nullable=False),
    Column("identity", String(32), nullable=False, index=True),
    Column("details", Text, nullable=False),
    Column("version", Integer, nullable=False),
)
