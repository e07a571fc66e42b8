"""A folder of features: embed a set of faces once, evaluate and train on it as often as wanted.

    store.json     the key (pack, preprocessing, data) and the shapes; written first, never changed
    names.txt      one name per line, in the order of the rows
    *.npy          one row per face, memory-mapped
    done.npy       one byte per block of 64 faces: 1 once all its rows are on disk

Faces are embedded in blocks with fixed borders. A block is marked when its rows have reached the
disk, so a run that is killed loses only blocks that were under way, and whoever goes on (in other
batches, on other machines) writes the same bytes as one undisturbed run. One program writes at a
time; blocks do not depend on each other, so any number of processes may compute them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .. import ConfigError, RecordError
from .disk import reserve_room
from .fusion import Floats
from .processes import spread_over_processes

BLOCK = 64
"""Faces that are embedded together and marked as done together."""
FORMAT = 1

Compute = Callable[[range], "Features"]
Spread = Callable[[Mapping[int, range]], Generator[tuple[int, "Features"], None, None]]
"""Given the rows of blocks by the block's number, yields every block's number and features once,
in any order."""


class State(IntEnum):
    """What became of a face; every state but EMBEDDED leaves its rows zero."""

    PENDING = 0
    EMBEDDED = 1
    NO_FACE = 2
    UNREADABLE = 3
    NOT_FINITE = 4


class StoreKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What features depend on; features of different keys must not meet in one number.

    pack: its name and the checksum of its embedder. preprocessing: in words, from picture to
    crop. data: fingerprint of names and pixels.
    """

    pack: str
    preprocessing: str
    data: str


class StoreLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes: count N, dimension C, styles K (0: none kept), flip: mirrored faces embedded too."""

    count: int
    dimension: int
    styles: int = 0
    flip: bool = False
    dtype: Literal["float32", "float16"] = "float32"


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    key: StoreKey
    layout: StoreLayout
    names: str
    """Checksum of names.txt."""


class Features(NamedTuple):
    """What is kept of n faces.

    states (n,) uint8, of State. embeddings, flipped (n, C) float32 not normalised; detector (n,)
    score 0..1; quality (n,) in the pack's unit; styles (n, K, 2). flipped is (0, C) where the
    store keeps none. Rows of faces that were not embedded are ignored.
    """

    states: npt.NDArray[np.uint8]
    embeddings: Floats
    flipped: Floats
    detector: Floats
    quality: Floats
    styles: Floats


class FeatureStore:
    """An open store. Arrays are memory-mapped read-only; rows of pending blocks are zero."""

    def __init__(self, folder: Path) -> None:
        """Open a folder. Raises ConfigError when it is no store, or one that was cut short."""
        self.folder = folder
        header = _read_header(folder)
        self.key, self.layout = header.key, header.layout
        text = (folder / "names.txt").read_bytes() if (folder / "names.txt").is_file() else b""
        if hashlib.sha256(text).hexdigest() != header.names:
            raise ConfigError(
                f"{folder}: names.txt is not the list this store was made for: remove the folder "
                "and embed again"
            )
        self.names: list[str] = text.decode().splitlines()
        for name, (shape, dtype) in _arrays(self.layout).items():
            try:
                array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            except (FileNotFoundError, ValueError, EOFError) as error:
                why = f"{folder}/{name}.npy is missing or damaged ({error})"
                raise ConfigError(f"{why}: remove the folder and embed again") from error
            if array.shape != shape or array.dtype != dtype:
                raise ConfigError(
                    f"{folder}/{name}.npy: expected {shape} {dtype}, got {array.shape} "
                    f"{array.dtype}: remove the folder and embed again"
                )
            setattr(self, name, array)

    embeddings: npt.NDArray[np.floating]
    """(N, C) float32 or float16, not normalised."""
    flipped: npt.NDArray[np.floating]
    """(N, C) of the mirrored faces, (0, C) without."""
    detector: Floats
    """(N,) detector score, 1 where a face was given."""
    quality: Floats
    """(N,) in the pack's unit."""
    styles: npt.NDArray[np.floating]
    """(N, K, 2) style statistics."""
    states: npt.NDArray[np.uint8]
    """(N,) of State."""
    done: npt.NDArray[np.uint8]
    """(blocks,) 0 or 1."""

    @property
    def complete(self) -> bool:
        """Whether every block is done."""
        return bool(self.done.all())

    @property
    def embedded(self) -> npt.NDArray[np.bool_]:
        """Which faces have an embedding (N,)."""
        return np.asarray(self.states == State.EMBEDDED)

    def pending(self) -> list[int]:
        """Blocks that are not done, ascending."""
        return [int(block) for block in np.flatnonzero(self.done == 0)]

    def rows(self, block: int) -> range:
        """The rows of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.layout.count))

    def faces_done(self) -> int:
        """How many faces lie in blocks that are done."""
        return sum(len(self.rows(int(block))) for block in np.flatnonzero(self.done))

    def require_complete(self) -> None:
        """Raise ConfigError unless every face was embedded or found wanting."""
        if not self.complete:
            raise ConfigError(
                f"{self.folder}: {self.faces_done():,} of {self.layout.count:,} faces are "
                "embedded: run the command with the pictures again, it goes on where it stopped"
            )


def create_store(
    folder: Path, key: StoreKey, names: Sequence[str], layout: StoreLayout
) -> FeatureStore:
    """Open the store of this key in the folder, or begin it.

    Raises ConfigError when the folder holds the features of another pack, preprocessing, data, list
    of names or layout, or files that are no store's, or when a name is repeated, is no UTF-8 or
    holds a line break.
    """
    _check_names(names, layout)
    text = "".join(f"{name}\n" for name in names)
    wanted = _Header(FORMAT, key, layout, hashlib.sha256(text.encode()).hexdigest())
    if (folder / "store.json").is_file():
        _refuse_mix(folder, _read_header(folder), wanted)
        return FeatureStore(folder)
    _require_free(folder, layout)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names.txt").write_text(text, encoding="utf-8")
    for name, (shape, dtype) in _arrays(layout).items():
        # A new file of zeros is a hole: it takes no room until rows are written.
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        if array.size:
            array.flush()
    # The header comes last: a folder with one has all its arrays.
    part = folder / "store.json.part"
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(wanted)))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "store.json")
    return FeatureStore(folder)


def fill_store(
    store: FeatureStore,
    start: Callable[[], Compute],
    *,
    workers: int = 1,
    on_block: Callable[[int], None] = lambda faces: None,
) -> None:
    """Embed every face that is not yet in the store.

    start: opens pack and pictures and returns what computes the features of a range of rows; it is
    called once in each of `workers` processes, so it must be picklable where there are several.
    on_block: called with the number of faces of every block that was stored.
    Raises ConfigError when another program is filling the store, OSError where the disk has no room
    for all of it, FacestreamError when a worker was killed; what is stored stays, and calling this
    again goes on.
    """
    if workers > 1:
        fill_blocks(store, partial(spread_over_processes, start, workers), on_block=on_block)
        return

    def one_by_one(blocks: Mapping[int, range]) -> Generator[tuple[int, Features], None, None]:
        compute = start()
        for block, rows in blocks.items():
            yield block, compute(rows)

    fill_blocks(store, one_by_one, on_block=on_block)


def fill_blocks(
    store: FeatureStore, spread: Spread, *, on_block: Callable[[int], None] = lambda faces: None
) -> None:
    """Embed every face that is not yet in the store, wherever `spread` computes blocks.

    This process alone writes. spread is not called where nothing is pending. on_block and errors:
    as `fill_store`, and what spread raises.
    """
    pending = store.pending()
    if not pending:
        return
    with _only_writer(store.folder):
        writer = _Writer(store)
        with closing(spread({block: store.rows(block) for block in pending})) as results:
            for block, features in results:
                writer.write(block, features)
                on_block(len(store.rows(block)))


class _Writer:
    """Writes blocks: rows first, the mark once they are on disk."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._arrays = {}
        for name in _arrays(store.layout):
            path = store.folder / f"{name}.npy"
            reserve_room(path)
            self._arrays[name] = np.load(path, mmap_mode="r+")

    def write(self, block: int, features: Features) -> None:
        rows = self._store.rows(block)
        kept = _checked(features, self._store.layout, len(rows))
        span = slice(rows.start, rows.stop)
        for name, values in kept._asdict().items():
            array = self._arrays[name]
            if array.size:
                array[span] = values
                array.flush()
        self._arrays["done"][block] = 1
        self._arrays["done"].flush()


def _checked(features: Features, layout: StoreLayout, count: int) -> Features:
    """The features as they are stored: rows that are not finite in the store's dtype marked."""
    shapes = {
        name: (count, *shape[1:]) if shape[0] else shape
        for name, (shape, _) in _arrays(layout).items()
        if name != "done"
    }
    for name, values in features._asdict().items():
        if values.shape != shapes[name]:
            raise RecordError(f"{name} of a block must be {shapes[name]}, got {values.shape}")
    states = features.states.copy()
    finite = np.ones(count, np.bool_)
    columns = {}
    for name, values in features._asdict().items():
        with np.errstate(over="ignore"):
            stored = values.astype(_arrays(layout)[name][1])
        if len(stored) and name != "states":
            finite &= np.isfinite(stored.reshape(count, -1)).all(axis=1)
        columns[name] = stored
    states[(states == State.EMBEDDED) & ~finite] = State.NOT_FINITE
    for name, stored in columns.items():
        if len(stored) and name != "states":
            stored[states != State.EMBEDDED] = 0
    return Features(**{**columns, "states": states})


def fingerprint_parts(parts: Iterable[tuple[str, bytes | memoryview]]) -> str:
    """The fingerprint of data: 16 hexadecimal digits over names and bytes, in this order."""
    total = hashlib.sha256()
    for name, data in parts:
        total.update(hashlib.sha256(name.encode(errors="surrogateescape")).digest())
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:16]


def _arrays(layout: StoreLayout) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    """Shape and dtype of every array file."""
    n, wide = layout.count, np.dtype(layout.dtype)
    single, byte = np.dtype(np.float32), np.dtype(np.uint8)
    return {
        "states": ((n,), byte),
        "embeddings": ((n, layout.dimension), wide),
        "flipped": ((n if layout.flip else 0, layout.dimension), wide),
        "detector": ((n,), single),
        "quality": ((n,), single),
        "styles": ((n, layout.styles, 2), wide),
        "done": ((-(-n // BLOCK),), byte),
    }


def _check_names(names: Sequence[str], layout: StoreLayout) -> None:
    if len(names) != layout.count or not names:
        raise ConfigError(
            f"a store needs one name per face and one face at least, got {len(names)} names for "
            f"{layout.count} faces: check the list"
        )
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ConfigError(f"names must differ, got {twice!r} twice: list every face once")
    if any(name != "".join(name.splitlines()) or not name for name in names):
        raise ConfigError("a name must be one line and not empty: rename the picture")
    if other := next((n for n in names if n.encode(errors="replace").decode() != n), None):
        raise ConfigError(f"a name must be UTF-8, got {other!a}: rename the picture")


def _read_header(folder: Path) -> _Header:
    try:
        header = msgspec.json.decode((folder / "store.json").read_bytes(), type=_Header)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is no feature store (it has no store.json): name a folder that an earlier "
            "evaluation filled, or the pictures to embed"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder}/store.json is not a store's header: {error}") from None
    if header.format != FORMAT:
        raise ConfigError(f"{folder}: expected store format {FORMAT}, got {header.format}")
    return header


def _require_free(folder: Path, layout: StoreLayout) -> None:
    """Raise ConfigError where a store would lie among files that no store began there."""
    if not folder.exists():
        return
    own = {"names.txt", "store.json.part", *(f"{name}.npy" for name in _arrays(layout))}
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder for features, got a file: name another")
    if other := next((one.name for one in sorted(folder.iterdir()) if one.name not in own), None):
        raise ConfigError(
            f"{folder} is no feature store and holds other files, such as {other}: name a folder "
            "that is empty or new"
        )


def _refuse_mix(folder: Path, found: _Header, wanted: _Header) -> None:
    """Raise ConfigError naming the first thing in which a store is not what is wanted."""
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(old, name), getattr(new, name))
        for old, new in ((found.key, wanted.key), (found.layout, wanted.layout))
        for name in old.__struct_fields__
    ]
    pairs.append(("list of names", found.names[:12], wanted.names[:12]))
    for name, old, new in pairs:
        if old != new:
            raise ConfigError(
                f"{folder} holds features of another {name}: it has {old!r}, this run needs "
                f"{new!r}; name another folder with --store"
            )


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when the process dies, however it dies."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is being filled by another program: wait for it, or name another folder"
            ) from None
        yield
