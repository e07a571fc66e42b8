"""What a gallery hands out and takes: people, samples, changes, audit trail, fused templates."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from .. import EnrolmentRefused, GalleryError
from .gallery_tables import KEY_LENGTH, NAME_LENGTH

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LARGEST_QUALITY = 1e6
"""Largest quality of a photo, either side of 0: sums of more would leave the floats."""

FUSED_ROWS = 1024
"""Embeddings that are fused at once: few enough for the processor's cache."""

# Joiners stand inside words of Persian, of Indic scripts and of emoji: the one kind of invisible
# character that a name needs.
JOINERS = "\u200c\u200d"


class Identity(msgspec.Struct, frozen=True):
    """One person. packs: names of those with embeddings, sorted; times: seconds since 1970 (UTC).

    id: random, never used again, the same wherever the person is exported to. basis: the legal
    basis, or a reference to the consent. From valid_from until valid_until the person is matched;
    from keep_until on `purge` erases; None sets no bound.
    """

    name: str
    notes: str
    created_at: float
    samples: int
    packs: tuple[str, ...]
    id: str
    basis: str
    valid_from: float | None
    valid_until: float | None
    keep_until: float | None
    labels: dict[str, str]
    watchlists: tuple[str, ...]

    def why_not(self, now: float) -> str:
        """Why nobody is recognised as this person at `now`, in words; "" where nothing hinders."""
        if self.keep_until is not None and self.keep_until <= now:
            return f"was to be kept until {day(self.keep_until)}"
        if self.valid_until is not None and self.valid_until <= now:
            return f"expired on {day(self.valid_until)}"
        if self.valid_from is not None and self.valid_from > now:
            return f"is not valid before {day(self.valid_from)}"
        return ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a person; what is left out stays.

    labels: key to its new value, or to None to take the key away; other keys stay.
    """

    name: str | UnsetType = UNSET
    notes: str | UnsetType = UNSET
    basis: str | UnsetType = UNSET
    valid_from: float | UnsetType | None = UNSET
    valid_until: float | UnsetType | None = UNSET
    keep_until: float | UnsetType | None = UNSET
    labels: Mapping[str, str | None] = {}


class NewSample(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A face to enrol, with the fields of `Gallery.add_sample`; checked at birth.

    change: what is set for the person in the same step; a new name is not among it.
    """

    identity: str
    embedding: Floats
    norm: float
    quality: float
    source: str
    digest: str
    change: Change | None = None

    def __post_init__(self) -> None:
        """Raise EnrolmentRefused for a name, GalleryError for a vector that cannot be enrolled."""
        if normalise_name(self.identity) != self.identity:
            raise GalleryError(f"a name must be normalised (`normalise_name`), got {self.identity}")
        check_vector(self.embedding)
        check_measures(self.norm, self.quality)
        for what in ("source", "digest"):
            check_line(what, getattr(self, what))


class Added(NamedTuple):
    """What became of each of several samples, and the gallery's version before and after them.

    answers: True for a new one, False for one that was there, a refusal for somebody else's.
    """

    answers: tuple[bool | EnrolmentRefused, ...]
    before: int
    after: int


class Watchlist(msgspec.Struct, frozen=True):
    """A named set of people; members: their names, sorted."""

    name: str
    notes: str
    created_at: float
    members: tuple[str, ...]


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


class Mark(msgspec.Struct, frozen=True):
    """A face that is not `name`. id: random, 32 hexadecimal digits; source: where it was seen.

    actor: the user of the system who said so; created_at: seconds since 1970 (UTC).
    """

    id: str
    name: str
    pack: str
    embedder: str
    source: str
    notes: str
    actor: str
    created_at: float


class AuditEntry(msgspec.Struct, frozen=True):
    """Who changed what: `version` is the gallery version that the change made.

    id: of the person; empty for a change of a watchlist. name: whose it is, None once the person
    is erased. details: what was changed, never to what.
    """

    at: float
    actor: str
    action: str
    id: str
    name: str | None
    details: str
    version: int


class Details(msgspec.Struct, frozen=True):
    """All the gallery knows of a person, oldest first, without the vectors.

    marks: faces that were said not to be the person.
    """

    identity: Identity
    samples: tuple[Sample, ...]
    marks: tuple[Mark, ...]
    history: tuple[AuditEntry, ...]


class GalleryTemplates(NamedTuple):
    """The gallery as the matcher wants it, all from one version.

    names: G identities in the order they were enrolled. vectors: (G, C) float32, unit length, row
    g for names[g]; (0, 0) when there are none. missing: identities that have no embedding of the
    pack asked for, and so cannot be recognised with it. expired: identities that are left out
    because they are outside their validity. changes_at: when, in seconds since 1970, time alone
    changes who is in; None for never. densities: (G,) float64, r of each row by the model asked
    for, NaN where none is kept.
    """

    names: tuple[str, ...]
    vectors: Floats
    version: int
    missing: tuple[str, ...]
    expired: tuple[str, ...]
    changes_at: float | None
    densities: Doubles


def day(seconds: float) -> str:
    """A moment by this machine's clock: the day, with the minute where it is not its beginning."""
    text = datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    return text.removesuffix(" 00:00")


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


def check_text(what: str, text: str) -> str:
    """Free text: lines and tabs, and nothing that a terminal obeys. Raises GalleryError."""
    for sign in text:
        # Cs: broken bytes of a command line, which no database can keep.
        if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\t\n\r":
            raise GalleryError(f"{what} must be text, got U+{ord(sign):04X}, which cannot be shown")
    return text


def check_line(what: str, text: str) -> str:
    """Text of one line, as `check_text`. Raises GalleryError."""
    if one_line(text) != text:
        raise GalleryError(f"{what} must be one line of text, got {ascii(text)[:80]}")
    return text


def one_line(text: str) -> str:
    """Text with a question mark for whatever cannot stand in one line."""
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return "".join("?" if unicodedata.category(sign) in kinds else sign for sign in text)


def check_vector(vector: Floats) -> None:
    """Raise GalleryError for what cannot be an embedding."""
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise GalleryError(
            f"embedding must be (C,), finite and not zero, got {vector.shape} of length "
            f"{np.linalg.norm(vector):g}"
        )


def check_measures(norm: float, quality: float) -> None:
    """Numbers with which templates can be fused. Raises GalleryError for others."""
    if not (0.0 < norm < math.inf and abs(quality) <= LARGEST_QUALITY):
        raise GalleryError(
            f"norm must be above 0 and finite and quality within {LARGEST_QUALITY:g} of 0, got "
            f"{norm:g} and {quality:g}"
        )


def check_key(key: str) -> str:
    """A label's key. Raises GalleryError for one that cannot be shown, or is too long."""
    try:
        tidy = normalise_name(key)
    except EnrolmentRefused as refusal:
        raise GalleryError(f"a label's key: {refusal}") from None
    if tidy != key or len(key) > KEY_LENGTH or "=" in key:
        raise GalleryError(
            f"a label's key has up to {KEY_LENGTH} characters, no '=' and no spaces around it, "
            f"got {key[:40]!r}"
        )
    return key


def check_moment(what: str, moment: float | None) -> float | None:
    """Seconds since 1970, in the years that a calendar has. Raises GalleryError for others."""
    if moment is not None and not 0.0 <= moment < 253402300800.0:
        raise GalleryError(f"{what} must be a time between the years 1970 and 9999, got {moment}")
    return moment


def join_vectors(stored: Sequence[bytes]) -> Floats:
    """(N, C) float32 from as many stored embeddings. Raises GalleryError for different lengths."""
    if len(lengths := {len(one) for one in stored}) > 1:
        raise GalleryError(
            f"the gallery holds embeddings of one embedder of {min(lengths) // 4} and of "
            f"{max(lengths) // 4} numbers: `facestream gallery remove` whom another program wrote, "
            "and enrol again"
        )
    return np.frombuffer(b"".join(stored), "<f4").reshape(len(stored), -1)


def fuse(raw: Floats, quality: Doubles, starts: npt.NDArray[np.intp]) -> Floats:
    """Quality-weighted mean of unit embeddings, normalised, per run of rows.

    raw: (N, C) float32, not normalised; quality: (N,); starts: (G,) first row of each run,
    ascending from 0. Returns (G, C) float32 of unit length; should a run cancel out exactly, its
    first row stands for it. Raises GalleryError for a quality that no sum survives.
    """
    if not (np.abs(quality) <= LARGEST_QUALITY).all():
        raise GalleryError(
            f"the gallery holds a quality beyond {LARGEST_QUALITY:g}, or one that is no number: "
            "`facestream gallery remove` whom another program wrote, and enrol again"
        )
    weights = np.maximum(quality, 0.0)
    ends = np.append(starts[1:], len(raw))
    worthless = np.add.reduceat(weights, starts) <= 0.0
    weights = np.where(np.repeat(worthless, ends - starts), 1.0, weights)
    fused = np.empty((len(starts), raw.shape[1]), np.float32)
    first = 0
    while first < len(starts):  # in blocks of whole runs: a large gallery is not widened at once
        full = int(np.searchsorted(ends, starts[first] + FUSED_ROWS, side="right"))
        last = max(first + 1, full)
        rows = slice(starts[first], ends[last - 1])
        runs = starts[first:last] - starts[first]
        fused[first:last] = _fuse_block(raw[rows], weights[rows], runs)
        first = last
    return fused


def _fuse_block(raw: Floats, weights: Doubles, starts: npt.NDArray[np.intp]) -> Floats:
    """Weighted means of the unit rows of raw (N, C) per run, normalised."""
    units = raw.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)  # (N, C)
    sums = units
    if len(starts) < len(raw):
        sums = np.add.reduceat(units * weights[:, None], starts, axis=0)  # (G, C)
        sums = np.where((np.abs(sums).max(axis=1) < 1e-12)[:, None], units[starts], sums)
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    return sums.astype(np.float32)
