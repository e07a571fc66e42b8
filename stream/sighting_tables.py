"""The tables of the sighting store; migrations make the same ones (a test compares the two).

    sighting 1--1 sighting_template, 1--n sighting_crop, 1--n sighting_weights      sighting_erased

One sighting per confirmed track, under an id that is made of where it comes from, so that a run
that is repeated writes the same row. What may be kept for a shorter time than the row lies in
tables of its own. `sighting_erased` has the ids of what was erased by hand: a run that still goes
on, or is repeated, does not bring it back. Times are seconds since 1970 (UTC).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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

from .. import SightingsError, SightingsUnreadable
from .gallery_errors import Kind
from .gallery_tables import NAME_LENGTH
from .gallery_tables import metadata as gallery_metadata

REVISION = "0002"
"""The newest migration: what a store must be at for this code to use it."""

metadata = MetaData(naming_convention=gallery_metadata.naming_convention)

sightings = Table(
    "sighting",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("epoch", String(64), nullable=False),
    Column("camera", String(NAME_LENGTH), nullable=False),
    Column("track", Integer, nullable=False),
    Column("first_frame", BigInteger, nullable=True),
    Column("first_pts", Double, nullable=True),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("ended_at", Double, nullable=True),
    Column("reason", String(20), nullable=False),
    Column("identity", String(NAME_LENGTH), nullable=False),
    Column("uid", String(32), nullable=False, index=True),
    Column("given", String(NAME_LENGTH), nullable=False),
    Column("given_uid", String(32), nullable=False, index=True),
    Column("given_at", Double, nullable=True),
    Column("given_score", Double, nullable=True),
    Column("stranger", String(20), nullable=False, index=True),
    Column("score", Double, nullable=True),
    Column("cosine", Double, nullable=True),
    Column("threshold", Double, nullable=True),
    Column("probability", Double, nullable=True),
    Column("pack", String(NAME_LENGTH), nullable=False),
    Column("embedder", String(64), nullable=False),
    Column("gallery_version", Integer, nullable=False),
    Column("frames", Integer, nullable=False),
    Column("faces", Integer, nullable=False),
    Column("quality_min", Double, nullable=True),
    Column("quality_median", Double, nullable=True),
    Column("quality_max", Double, nullable=True),
    Column("gain", LargeBinary, nullable=False),
    Column("open_rows", LargeBinary, nullable=False),
    Column("threshold_why", Text, nullable=False, server_default=""),
    Column("best_score", Double, nullable=True),
    Index("ix_sighting_camera", "camera", "started_at"),
    Index("ix_sighting_started_at", "started_at"),
    Index("ix_sighting_seen_at", "seen_at"),
)

templates = Table(
    "sighting_template",
    metadata,
    Column(
        "sighting",
        Integer,
        ForeignKey("sighting.number", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("dimension", Integer, nullable=False),
    Column("vector", LargeBinary, nullable=False),
)

crops = Table(
    "sighting_crop",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("sighting", Integer, ForeignKey("sighting.number", ondelete="CASCADE"), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("frame", BigInteger, nullable=False),
    Column("pts", Double, nullable=False),
    Column("captured_at", Double, nullable=False),
    Column("quality", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("box", LargeBinary, nullable=False),
    Column("jpeg", LargeBinary, nullable=False),
    UniqueConstraint("sighting", "rank"),
)

weights = Table(
    "sighting_weights",
    metadata,
    Column("number", Integer, primary_key=True),
    Column(
        "sighting",
        Integer,
        ForeignKey("sighting.number", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("rows", LargeBinary, nullable=False),
)

erased = Table(
    "sighting_erased",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Double, nullable=False),
)

SIGHTINGS = Kind(
    noun="sighting store",
    file="sightings.db",
    hint="a run makes one with `facestream run --sightings FILE`",
    error=SightingsError,
    unreadable=SightingsUnreadable,
    missing=SightingsUnreadable,
    revision=REVISION,
    revision_table="sighting_revision",
    versions="sightings",
    personal=("sighting_weights", "sighting_crop", "sighting_template", "sighting"),
)
