"""Labels, watchlists, validity, retention and legal basis; an audit trail without names."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = "the audit trail is append-only"


def upgrade() -> None:
    """Add them; everybody gets an id of their own, and the audit trail names people by it."""
    _extend_identities()
    _make_lists()
    _rewrite_audit()
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{change.lower()} BEFORE {change} ON audit "
                f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION gallery_audit_append_only() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION gallery_audit_append_only()"
        )


def _extend_identities() -> None:
    # Columns are added in place: SQLite would cascade from a table that is dropped and made anew.
    op.add_column("identity", sa.Column("uid", sa.String(32), nullable=False, server_default=""))
    op.add_column("identity", sa.Column("basis", sa.Text, nullable=False, server_default=""))
    for name in ("valid_from", "valid_until", "keep_until"):
        op.add_column("identity", sa.Column(name, sa.Double, nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE identity SET uid = lower(hex(randomblob(16)))")
    else:
        op.execute("UPDATE identity SET uid = replace(gen_random_uuid()::text, '-', '')")
    op.create_index("ix_identity_uid", "identity", ["uid"], unique=True)


def _make_lists() -> None:
    op.create_table(
        "label",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("identity_id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(100), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_label"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.id"], name="fk_label_identity_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("identity_id", "key", name="uq_label_identity_id"),
    )
    op.create_table(
        "watchlist",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_watchlist"),
        sa.UniqueConstraint("name", name="uq_watchlist_name"),
    )
    op.create_table(
        "watchlist_member",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("watchlist_id", sa.Integer, nullable=False),
        sa.Column("identity_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_watchlist_member"),
        sa.ForeignKeyConstraint(
            ["watchlist_id"],
            ["watchlist.id"],
            name="fk_watchlist_member_watchlist_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["identity_id"],
            ["identity.id"],
            name="fk_watchlist_member_identity_id",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("watchlist_id", "identity_id", name="uq_watchlist_member_watchlist_id"),
    )
    op.create_index("ix_watchlist_member_identity_id", "watchlist_member", ["identity_id"])


def _rewrite_audit() -> None:
    """Replace names by ids; a name that is nobody's any more becomes an id of nobody's.

    A name that was removed and enrolled again was two people: what came before is the first one's.
    """
    connection = op.get_bind()
    people = sa.table("identity", sa.column("name"), sa.column("uid"))
    ids = {row.name: row.uid for row in connection.execute(sa.select(people))}
    columns = ("id", "at", "actor", "action", "identity", "version")
    old = sa.table("audit", *(sa.column(name) for name in columns))
    kept = [dict(row) for row in connection.execute(sa.select(old)).mappings()]
    for row in sorted(kept, key=lambda row: -row["id"]):
        name = row["identity"]
        if row["action"] == "remove":
            ids[name] = uuid.uuid4().hex
        row["identity"] = ids.setdefault(name, uuid.uuid4().hex)
        row["details"] = ""
    newest = max((row["id"] for row in kept), default=0)
    op.drop_table("audit")
    new = op.create_table(
        "audit",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("identity", sa.String(32), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_identity", "audit", ["identity"])
    op.bulk_insert(new, kept)
    if kept and connection.dialect.name != "sqlite":  # the new table's own sequence begins at 1
        op.execute(f"SELECT setval(pg_get_serial_sequence('audit', 'id'), {newest})")
