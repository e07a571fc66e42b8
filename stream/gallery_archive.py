"""The archive of a gallery: one zip file of JSON and .npy, checked before any of it is used.

    manifest.json        format, version, and the SHA-256 of every other file
    people.json          people with their photos' names and digests, marks, watchlists, blocks
    embeddings/0.npy     (N, C) float32 little-endian: the vectors of one embedder, a block

Nothing is compressed, so a small file never unpacks to a large one, and nothing is ever written to
a path that an archive names. Arrays are held in memory whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
import zipfile
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from .. import EnrolmentRefused, GalleryError, __version__
from .gallery_records import (
    check_key,
    check_line,
    check_measures,
    check_moment,
    check_text,
    normalise_name,
)
from .gallery_write import check_validity
from .new_file import write_new

FORMAT, VERSION = "facestream-gallery", 2
"""Version 2 has marks; archives of version 1 are read as those of people without any."""
MANIFEST, PEOPLE = "manifest.json", "people.json"
_NAMES = re.compile(r"people\.json|embeddings/(0|[1-9][0-9]{0,5})\.npy")

Floats = npt.NDArray[np.float32]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Uid = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
Index = Annotated[int, msgspec.Meta(ge=0)]
Pack = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Embedder = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
T = TypeVar("T")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself; files: name to SHA-256."""

    format: str
    version: int
    created_at: float = 0.0
    written_by: str = ""
    files: dict[str, Digest] = {}


class Block(msgspec.Struct, frozen=True):
    """Embeddings of one embedder file: what embeddings/N.npy, N being its place, holds."""

    pack: Pack
    embedder: Embedder


class ArchivedEmbedding(msgspec.Struct, frozen=True):
    """A row of a block, and what the embedder said beside it."""

    block: Index
    row: Index
    norm: float
    quality: float
    created_at: float


class ArchivedSample(msgspec.Struct, frozen=True):
    """A photo: the gallery knows its file name and the SHA-256 of its bytes."""

    source: str
    digest: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    created_at: float
    embeddings: tuple[ArchivedEmbedding, ...]


class ArchivedMark(msgspec.Struct, frozen=True):
    """A face that is not the person, as `gallery_records.Mark` says: a row of a block."""

    id: Uid
    block: Index
    row: Index
    source: str
    notes: str
    actor: str
    created_at: float


class ArchivedPerson(msgspec.Struct, frozen=True):
    """One person, as `gallery_records.Identity` says, with the marks "not this person"."""

    id: Uid
    name: str
    notes: str
    basis: str
    created_at: float
    valid_from: float | None
    valid_until: float | None
    keep_until: float | None
    labels: dict[str, str]
    watchlists: tuple[str, ...]
    samples: tuple[ArchivedSample, ...]
    marks: tuple[ArchivedMark, ...] = ()


class ArchivedWatchlist(msgspec.Struct, frozen=True):
    """A watchlist; its members name it."""

    name: str
    notes: str
    created_at: float


class People(msgspec.Struct, frozen=True):
    """What people.json holds. in_use: the block of the pack that the gallery was matched with."""

    people: tuple[ArchivedPerson, ...]
    watchlists: tuple[ArchivedWatchlist, ...]
    blocks: tuple[Block, ...]
    in_use: Index | None = None


class Archive(msgspec.Struct, frozen=True):
    """A whole gallery outside a database. vectors: one (N, C) float32 per block of `content`."""

    content: People
    vectors: tuple[Floats, ...]


class ImportSummary(msgspec.Struct, frozen=True):
    """What an import brought; skipped: reasons, by the names of people who were left out."""

    people: int
    samples: int
    embeddings: int
    marks: int
    skipped: dict[str, str]


def write_archive(path: Path, archive: Archive) -> None:
    """Write an archive whole or not at all, readable by its owner only.

    Raises GalleryError where there is a file already, or the folder cannot hold one.
    """
    files = {PEOPLE: msgspec.json.encode(archive.content)}
    for index, vectors in enumerate(archive.vectors):
        written = io.BytesIO()
        np.save(written, vectors.astype("<f4", copy=False), allow_pickle=False)
        files[f"embeddings/{index}.npy"] = written.getvalue()
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        created_at=time.time(),
        written_by=f"facestream {__version__}",
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    try:
        with write_new(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:
            out.writestr(MANIFEST, msgspec.json.encode(manifest))
            for name, data in files.items():
                out.writestr(name, data)
    except FileExistsError:
        raise GalleryError(
            f"there is a file {path} already: name another one, or remove it"
        ) from None
    except OSError as error:
        raise GalleryError(f"cannot write the archive {path}: {error.strerror}") from error


def read_archive(path: Path) -> Archive:
    """Read an archive and check all of it.

    Raises GalleryError for a file that is none, is damaged, holds what an archive does not, or was
    written by a newer facestream.
    """
    try:
        files = _read_files(path)
        content = _decode(files.pop(PEOPLE), People, PEOPLE)
        vectors = tuple(
            _read_vectors(files.get(f"embeddings/{index}.npy"), index)
            for index in range(len(content.blocks))
        )
        if len(files) != len(content.blocks):
            raise _Damaged(f"{len(content.blocks)} blocks and {len(files)} files of embeddings")
        _check_rows(content, vectors)
        _check_people(content)
    except FileNotFoundError:
        raise GalleryError(f"there is no archive at {path}") from None
    except OSError as error:
        raise GalleryError(f"cannot read the archive {path}: {error.strerror}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, _Damaged) as error:
        raise GalleryError(
            f"{path} is no whole archive of a gallery, and nothing was imported: {error}"
        ) from error
    return Archive(content, vectors)


class _Damaged(Exception):
    """Says what is wrong; becomes a GalleryError that names the file."""


def _read_files(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise _Damaged("it holds a file twice")
        if MANIFEST not in members:
            raise _Damaged(f"it has no {MANIFEST}")
        held = sum(member.file_size for member in members.values())
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        if packed or held > path.stat().st_size:
            raise _Damaged("it is compressed, as `facestream gallery export` never does")
        manifest = _decode(archive.read(MANIFEST), Manifest, MANIFEST)
        if manifest.format != FORMAT:
            raise _Damaged(f"its format is {manifest.format[:40]!r}, expected {FORMAT!r}")
        if manifest.version > VERSION:
            raise GalleryError(
                f"{path} was written by a newer facestream (archive version {manifest.version}, "
                f"this one reads up to {VERSION}): update facestream"
            )
        strange = sorted(name for name in manifest.files if not _NAMES.fullmatch(name))
        strange += sorted(members.keys() - manifest.files.keys() - {MANIFEST})
        if strange:
            raise _Damaged(f"it holds {strange[0][:80]!r}, which no archive does")
        if gone := sorted({PEOPLE, *manifest.files} - members.keys()):
            raise _Damaged(f"{gone[0]} is missing")
        files = {name: archive.read(name) for name in manifest.files}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise _Damaged(f"{name} has another checksum than {MANIFEST} says")
    if PEOPLE not in files:
        raise _Damaged(f"{MANIFEST} does not name {PEOPLE}")
    return files


def _decode(data: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Damaged(f"{name}: {error}") from error


def _read_vectors(data: bytes | None, index: int) -> Floats:
    name = f"embeddings/{index}.npy"
    if data is None:
        raise _Damaged(f"{name} is missing")
    try:
        vectors = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        # A header is a Python literal to numpy: a crafted one fails in ways that no list exhausts.
        raise _Damaged(f"{name}: {type(error).__name__}") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype != "<f4":
        raise _Damaged(f"{name}: expected (N, C) float32")
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise _Damaged(f"{name}: an embedding must be finite and not zero")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _check_rows(content: People, vectors: tuple[Floats, ...]) -> None:
    """Every row belongs to one photo or one mark, and all their rows are there."""
    used = [np.zeros(len(block), np.bool_) for block in vectors]
    for person in content.people:
        whose = repr(person.name[:80])
        for sample in person.samples:
            if len({one.block for one in sample.embeddings}) != len(sample.embeddings):
                raise _Damaged(f"a photo of {whose} has two embeddings of one block")
            for one in sample.embeddings:
                _use_row(used, one, whose)
                try:
                    check_measures(one.norm, one.quality)
                except GalleryError as error:
                    raise _Damaged(f"{whose}: {error}") from None
        for mark in person.marks:
            _use_row(used, mark, whose)
            if abs(np.linalg.norm(vectors[mark.block][mark.row]) - 1.0) > 1e-3:
                raise _Damaged(f"a mark of {whose} is no unit vector")
    if not all(rows.all() for rows in used):
        raise _Damaged("an embedding is nobody's")
    if len({(block.pack, block.embedder) for block in content.blocks}) != len(content.blocks):
        raise _Damaged("two blocks are of the same embedder")
    if content.in_use is not None and content.in_use >= len(content.blocks):
        raise _Damaged("the block in use is not there")


def _use_row(
    used: list[npt.NDArray[np.bool_]], one: ArchivedEmbedding | ArchivedMark, whose: str
) -> None:
    if one.block >= len(used) or one.row >= len(used[one.block]):
        raise _Damaged(f"an embedding of {whose} is not there")
    if used[one.block][one.row]:
        raise _Damaged(f"an embedding of {whose} is somebody else's too")
    used[one.block][one.row] = True


def _check_people(content: People) -> None:
    """Everything that a gallery of this program would not have let in."""
    lists = {one.name for one in content.watchlists}
    people = content.people
    digests = [sample.digest for person in people for sample in person.samples]
    for what, values in (
        ("watchlists have the same name", [one.name for one in content.watchlists]),
        ("people have the same name", [person.name for person in people]),
        ("people have the same id", [person.id for person in people]),
        ("photos are the same", digests),
        ("marks have the same id", [mark.id for person in people for mark in person.marks]),
    ):
        if len(set(values)) != len(values):
            raise _Damaged(f"two {what}")
    try:
        for block in content.blocks:
            check_line("the name of a pack", block.pack)
            check_line("the checksum of an embedder", block.embedder)
        for one in content.watchlists:
            _check_name(one.name)
            check_text("notes", one.notes)
            check_moment("created_at", one.created_at)
        for person in people:
            _check_person(person)
            if not lists.issuperset(person.watchlists):
                raise _Damaged(f"{person.name} is on a watchlist that is not there")
    except (GalleryError, EnrolmentRefused) as error:
        raise _Damaged(str(error)) from error


def _check_person(person: ArchivedPerson) -> None:
    _check_name(person.name)
    texts = [person.notes, person.basis, *person.labels.values()]
    for text in texts:
        check_text(f"what is kept of {person.name}", text)
    for sample in person.samples:
        check_line(f"the file name of a photo of {person.name}", sample.source)
        check_line(f"the digest of a photo of {person.name}", sample.digest)
    for mark in person.marks:
        check_line(f"where a mark of {person.name} was seen", mark.source)
        check_text(f"the notes of a mark of {person.name}", mark.notes)
        check_line(f"who made a mark of {person.name}", mark.actor)
    for key in person.labels:
        check_key(key)
    moments = [person.created_at, person.valid_from, person.valid_until, person.keep_until]
    moments += [mark.created_at for mark in person.marks]
    for sample in person.samples:
        moments += [sample.created_at, *(one.created_at for one in sample.embeddings)]
        if not sample.embeddings:
            raise _Damaged(f"a photo of {person.name} has no embedding")
    for moment in moments:
        check_moment(f"a time of {person.name}", moment)
    check_validity(person.valid_from, person.valid_until)


def _check_name(name: str) -> None:
    if normalise_name(name) != name:
        raise _Damaged(f"the name {name[:80]!r} is not in its one form")
