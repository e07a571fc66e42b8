"""Fusing a track's observations into one template: one interface, three aggregators.

The state of a track is a value: sums in float64 plus the open chunk. It does not depend on how
observations were grouped into batches, two states of one track merge by addition, its size does
not grow with the track, and `dump_state` turns it into bytes that survive a restart.

Every aggregator is a weighted mean of the observations' unit embeddings, with R weights per
observation (its row): R = 1 for the plain mean, R = M centres for CAFace. What a `Reading` calls
the gain turns a row into that observation's share of the template.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from .. import RecordError

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

CHUNK = 16
STATE_VERSION = 1


class Members(NamedTuple):
    """N observations in the track's own order.

    embeddings (N, C) float32 not normalised; norms (N,); qualities (N,); styles (N, K, 2) float32.
    """

    embeddings: Floats
    norms: Floats
    qualities: Floats
    styles: Floats

    def take(self, which: slice | npt.NDArray[np.bool_]) -> Members:
        """The members that a slice or a mask (N,) picks, in the same order."""
        return Members(*(column[which] for column in self))


def no_members(dimension: int, styles: int = 0) -> Members:
    """Nobody: N = 0 with C = dimension and K = styles."""
    nothing = np.zeros(0, np.float32)
    return Members(
        np.zeros((0, dimension), np.float32), nothing, nothing, np.zeros((0, styles, 2), np.float32)
    )


def join_members(first: Members, second: Members) -> Members:
    """All of the first, then all of the second."""
    if not len(first.norms):
        return second
    return Members(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def usable_members(members: Members) -> npt.NDArray[np.bool_]:
    """Which observations say anything: (N,) mask.

    One without a finite, non-zero embedding, or with a norm, quality or style that is not finite,
    would spoil the sums of its track for ever, so every aggregator leaves it out.
    """
    embeddings, norms, qualities, styles = members
    return np.asarray(
        np.isfinite(embeddings).all(axis=1)
        & (embeddings != 0).any(axis=1)
        & np.isfinite(norms)
        & np.isfinite(qualities)
        & np.isfinite(styles).all(axis=(1, 2))
    )


class FusionState(NamedTuple):
    """The running sums of one track, kept as numerators and weights (CAFace, eq. 7-8).

    values: sum of A.V, (R, C) float64. styles: sum of A.S, (R, D) float64, D = 0 where unused.
    mass: sum of A, (R,) float64. summed: observations inside the sums. pending: the open chunk,
    fewer than CHUNK observations, not yet in the sums (always empty for aggregators whose weights
    do not depend on company).
    """

    values: Doubles
    styles: Doubles
    mass: Doubles
    summed: int
    pending: Members

    @property
    def observations(self) -> int:
        """Observations inside the sums and in the open chunk."""
        return self.summed + len(self.pending.norms)


class Reading(NamedTuple):
    """A read-out with what is needed to explain it.

    embedding: (C,) float32, unit length. gain: (R,) float64: an observation with the row a has the
    share a.gain of the template; the shares of all observations of a track sum to 1.
    pending: (n, R) float64, the rows of the open chunk.
    """

    embedding: Floats
    gain: Doubles
    pending: Doubles


class Aggregator(Protocol):
    """Turns observations into a template. Stateless itself: the state is handed in and out."""

    name: str
    dimension: int
    """C, the length of embeddings and template."""

    def empty(self) -> FusionState:
        """The identity of `merge`."""
        ...

    def update(self, state: FusionState, members: Members) -> FusionState:
        """The state after N more observations; N may be 0. Grouping does not change the result.

        Members that are not usable (see `usable_members`) are left out and not counted.
        Raises RecordError when C or K is not what this aggregator was made for.
        """
        ...

    def merge(self, first: FusionState, second: FusionState) -> FusionState:
        """Both tracks as one: commutative, associative, tails closed."""
        ...

    def read(self, state: FusionState) -> Floats:
        """The fused unit embedding (C,) float32, open chunk included.

        Raises RecordError when there is nothing to read: no observation, or ones that cancel out.
        """
        ...

    def inspect(self, state: FusionState) -> Reading:
        """`read`, with the numbers that explain it."""
        ...

    def weigh(self, members: Members) -> Doubles:
        """Rows (N, R) float64 >= 0 of usable observations that make up one chunk."""
        ...


def check_members(members: Members, dimension: int, styles: int | None = None) -> None:
    """Raise RecordError unless the members fit: C = dimension and, where given, K = styles."""
    count = len(members.norms)
    width = members.styles.shape[1] if styles is None else styles
    wanted = ((count, dimension), (count,), (count,), (count, width, 2))
    for field, column, shape in zip(Members._fields, members, wanted, strict=True):
        if column.shape != shape:
            raise RecordError(
                f"{field} must be {shape}, got {column.shape}: the aggregator was made for "
                "another embedder, or the observations belong to one"
            )


def normalise_rows(vectors: npt.NDArray[np.floating], floor: float = 0.0) -> Doubles:
    """Rows (N, C) divided by (length + floor), as float64; no row may be all zero."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / (np.linalg.norm(wide, axis=1, keepdims=True) + floor))


def unit_template(vector: Doubles) -> Floats:
    """A weighted mean (C,) float64 at length 1, as float32.

    Raises RecordError when its length is (nearly) zero: there is no direction to report.
    """
    length = float(np.linalg.norm(vector))
    if not length > 1e-12:
        raise RecordError(
            f"a template needs observations that agree on a direction, got length {length:.1e}: "
            "the track has no usable observation, or they cancel out"
        )
    return np.asarray(vector / length, np.float32)


class PackedArray(msgspec.Struct, frozen=True, array_like=True):
    """An array as bytes: dtype in NumPy's notation (little-endian), shape, buffer in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


_DTYPES = ("<f8", "<f4", "|u1")


def pack_array(array: npt.NDArray[np.float64 | np.float32 | np.uint8]) -> PackedArray:
    """An array of float64, float32 or uint8 as bytes."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return PackedArray(plain.dtype.str, plain.shape, plain.tobytes())


def unpack_array(packed: PackedArray, dtype: type[np.generic], ndim: int) -> np.ndarray:
    """The array again. Raises RecordError unless it has this dtype and number of axes."""
    if packed.dtype not in _DTYPES or np.dtype(packed.dtype) != dtype or len(packed.shape) != ndim:
        raise RecordError(
            f"a stored array must be {ndim}-d {np.dtype(dtype).name}, "
            f"got {len(packed.shape)}-d {packed.dtype}"
        )
    sides = np.asarray(packed.shape, np.int64)
    if (sides < 0).any() or sides.prod() * np.dtype(dtype).itemsize != len(packed.data):
        raise RecordError(f"a stored array of shape {packed.shape} has {len(packed.data)} bytes")
    return np.frombuffer(packed.data, packed.dtype).reshape(packed.shape)


class _PackedState(msgspec.Struct, frozen=True, array_like=True):
    version: int
    summed: int
    sums: tuple[PackedArray, PackedArray, PackedArray]
    pending: tuple[PackedArray, PackedArray, PackedArray, PackedArray]


_DECODER = msgspec.msgpack.Decoder(_PackedState)


def dump_state(state: FusionState) -> bytes:
    """A state as bytes: msgpack around raw little-endian buffers, no pickle."""
    return msgspec.msgpack.encode(
        _PackedState(
            STATE_VERSION,
            state.summed,
            (pack_array(state.values), pack_array(state.styles), pack_array(state.mass)),
            (
                pack_array(state.pending.embeddings),
                pack_array(state.pending.norms),
                pack_array(state.pending.qualities),
                pack_array(state.pending.styles),
            ),
        )
    )


def load_state(data: bytes) -> FusionState:
    """The state that `dump_state` wrote, bit for bit.

    Raises RecordError when the bytes are not a state, are of another version or contradict
    themselves.
    """
    try:
        packed = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(
            f"expected a fusion state, got {len(data)} other bytes: {error}"
        ) from error
    if packed.version != STATE_VERSION:
        raise RecordError(f"fusion state must be version {STATE_VERSION}, got {packed.version}")
    values, styles, mass = (
        unpack_array(array, np.float64, ndim)
        for array, ndim in zip(packed.sums, (2, 2, 1), strict=True)
    )
    pending = Members(
        *(
            unpack_array(array, np.float32, ndim)
            for array, ndim in zip(packed.pending, (2, 1, 1, 3), strict=True)
        )
    )
    rows = {len(values), len(styles), len(mass)}
    if len(rows) != 1 or packed.summed < 0 or len(pending.norms) >= CHUNK:
        raise RecordError("a fusion state's sums must have one row each per weight, got a mixture")
    check_members(pending, values.shape[1])
    return FusionState(values, styles, mass, packed.summed, pending)
