"""What a gallery hands out: people, samples, the audit trail, fused templates."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .. import EnrolmentRefused
from .gallery_tables import NAME_LENGTH

Floats = npt.NDArray[np.float32]

# Joiners stand inside words of Persian, of Indic scripts and of emoji: the one kind of invisible
# character that a name needs.
JOINERS = "\u200c\u200d"


class Identity(msgspec.Struct, frozen=True):
    """One person. created_at: seconds since 1970 (UTC); packs: names with embeddings, sorted."""

    name: str
    notes: str
    created_at: float
    samples: int
    packs: tuple[str, ...]


class SampleEmbedding(msgspec.Struct, frozen=True):
    """What one embedder made of a photo, without the vector. quality: in the pack's own unit."""

    pack: str
    embedder: str
    dimension: int
    norm: float
    quality: float


class Sample(msgspec.Struct, frozen=True):
    """One photo: source is its file name, digest the SHA-256 of its bytes in hexadecimal."""

    source: str
    digest: str
    created_at: float
    embeddings: tuple[SampleEmbedding, ...]


class AuditEntry(msgspec.Struct, frozen=True):
    """Who changed what: `version` is the gallery version that the change made."""

    at: float
    actor: str
    action: str
    identity: str
    version: int


class Details(msgspec.Struct, frozen=True):
    """All the gallery knows of a person, oldest first, without the vectors."""

    identity: Identity
    samples: tuple[Sample, ...]
    history: tuple[AuditEntry, ...]


class GalleryTemplates(NamedTuple):
    """The gallery as the matcher wants it, all from one version.

    names: G identities in the order they were enrolled. vectors: (G, C) float32, unit length, row
    g for names[g]; (0, 0) when there are none. missing: identities that have no embedding of the
    pack asked for, and so cannot be recognised with it.
    """

    names: tuple[str, ...]
    vectors: Floats
    version: int
    missing: tuple[str, ...]


def normalise_name(name: str) -> str:
    """The one form a name is kept in: NFC, spaces trimmed and single.

    Raises EnrolmentRefused for an empty name, one over 200 characters, or one with characters that
    cannot be printed (control, formatting, unassigned, broken file-name bytes).
    """
    tidy = unicodedata.normalize("NFC", name).strip(" ")
    for sign in tidy:
        kind = unicodedata.category(sign)
        if (kind[0] == "C" and sign not in JOINERS) or kind in ("Zl", "Zp"):
            raise EnrolmentRefused(
                f"the name {ascii(tidy)[:80]} holds U+{ord(sign):04X}, which cannot be printed"
            )
    tidy = " ".join(tidy.split())
    if not tidy.strip(JOINERS):
        raise EnrolmentRefused("a name must have at least one character, got none")
    if len(tidy) > NAME_LENGTH:
        raise EnrolmentRefused(
            f"a name may have up to {NAME_LENGTH} characters, got {len(tidy)}: {tidy[:40]}..."
        )
    return tidy


def fuse(raw: Floats, quality: npt.NDArray[np.float64], starts: npt.NDArray[np.intp]) -> Floats:
    """Quality-weighted mean of unit embeddings, normalised, per run of rows.

    raw: (N, C) float32, not normalised; quality: (N,); starts: (G,) first row of each run,
    ascending from 0. Returns (G, C) float32 of unit length; should a run cancel out exactly, its
    first row stands for it.
    """
    units = raw.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)  # (N, C)
    weights = np.maximum(quality, 0.0)
    lengths = np.diff(np.append(starts, len(raw)))
    worthless = np.add.reduceat(weights, starts) <= 0.0
    weights = np.where(np.repeat(worthless, lengths), 1.0, weights)
    sums = np.add.reduceat(units * weights[:, None], starts, axis=0)  # (G, C)
    sums = np.where((np.abs(sums).max(axis=1) < 1e-12)[:, None], units[starts], sums)
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    return sums.astype(np.float32)
