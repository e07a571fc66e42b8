"""Aggregate: observations in, one template per track out.

A track's state is a value of bounded size: the aggregator's sums and open chunk, the few frames
that weigh most, and a thinned sample of qualities. It can be dumped and restored at any frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from .. import RecordError
from ..models.fusion import (
    Aggregator,
    Doubles,
    FusionState,
    Members,
    PackedArray,
    dump_state,
    join_members,
    load_state,
    pack_array,
    unpack_array,
    usable_members,
)
from .records import (
    Evidence,
    FrameRef,
    Observation,
    Observed,
    Template,
    TrackKey,
    TrackTemplate,
)

SNAPSHOT_VERSION = 1
SAMPLE = 256


class Spread(msgspec.Struct, array_like=True):
    """Smallest, median and largest quality of a track in bounded memory.

    The median is that of every stride-th quality in the track's own order; the stride doubles
    whenever SAMPLE qualities are held, so that it is exact up to SAMPLE observations and that of
    at least SAMPLE / 2 evenly spaced ones beyond. Nothing is drawn at random.
    """

    seen: int = 0
    stride: int = 1
    smallest: float = float("inf")
    largest: float = float("-inf")
    sample: list[float] = []

    def add(self, quality: float) -> None:
        """One more quality."""
        self.smallest = min(self.smallest, quality)
        self.largest = max(self.largest, quality)
        if self.seen % self.stride == 0:
            if len(self.sample) == SAMPLE:
                self.sample = self.sample[::2]
                self.stride *= 2
            # SAMPLE is even: the one at hand lies on the doubled stride too.
            self.sample.append(quality)
        self.seen += 1

    @property
    def median(self) -> float:
        """Median of the sample."""
        return float(np.median(self.sample))


class _Seen(msgspec.Struct, array_like=True):
    """A frame that may become evidence; row (R,) is empty until its chunk is closed."""

    ordinal: int
    frame: FrameRef
    quality: float
    box: PackedArray
    crop: PackedArray | None
    row: list[float] = []


class _Track(msgspec.Struct):
    fusion: FusionState
    spread: Spread
    last: int = -1
    best: list[_Seen] = []
    """The frames that weigh most so far."""
    waiting: list[_Seen] = []
    """The frames of the open chunk, in its order: what they weigh is not settled yet."""


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    aggregator: str
    fusion: bytes
    spread: Spread
    last: int
    best: list[_Seen]
    waiting: list[_Seen]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)


class FrameRow(NamedTuple):
    """One observation of a track, without its face. row (R,): times a gain (R,), its share."""

    ordinal: int
    frame: int
    pts: float
    quality: float
    row: Sequence[float]


class Ledger(Protocol):
    """Hears what every frame of a track weighs: all of them are too many for a track's state."""

    def settle(self, key: TrackKey, rows: Sequence[FrameRow]) -> None:
        """These rows of a track will not change any more."""
        ...

    def weigh(self, key: TrackKey, gain: Doubles, pending: Sequence[FrameRow]) -> None:
        """A template was read: gain (R,) of all rows, and the rows of the open chunk as of now."""
        ...


class AggregateStage:
    """Keeps one fusion state per track and reads templates from it."""

    def __init__(self, aggregator: Aggregator, evidence: int, ledger: Ledger | None = None) -> None:
        """evidence: how many of the frames that weigh most are kept per track, >= 0."""
        self._aggregator = aggregator
        self._evidence = evidence
        self._ledger = ledger
        self._tracks: dict[TrackKey, _Track] = {}

    @property
    def tracks(self) -> tuple[TrackKey, ...]:
        """Tracks with at least one observation that have not ended."""
        return tuple(self._tracks)

    def process(self, observed: Observed) -> tuple[TrackTemplate, ...]:
        """`update`, then the templates of the tracks that gained an observation."""
        frame = observed.tracked.frame
        read = (self.template(key, frame) for key in self.update(observed))
        return tuple(template for template in read if template is not None)

    def update(self, observed: Observed) -> tuple[TrackKey, ...]:
        """Add one frame's observations, each track's by ordinal; the tracks that gained one.

        An ordinal that a track has already seen is a repeat and changes nothing. An observation
        that is not usable (models/fusion) is left out: it is not counted in the template's frames.
        """
        gained = dict.fromkeys(
            observation.key
            for observation in sorted(observed.observations, key=lambda one: one.ordinal)
            if self._add(observation)
        )
        return tuple(gained)

    def template(self, key: TrackKey, frame: FrameRef) -> TrackTemplate | None:
        """The track's template as of `frame`; None when the track has no usable observation."""
        track = self._tracks.get(key)
        if track is None:
            return None
        reading = self._aggregator.inspect(track.fusion)
        waiting = [
            msgspec.structs.replace(seen, row=row.tolist())
            for seen, row in zip(track.waiting, reading.pending, strict=True)
        ]
        ranked = _rank(track.best + waiting, reading.gain)[: self._evidence]
        if self._ledger is not None:
            self._ledger.weigh(key, reading.gain, [_frame_row(seen) for seen in waiting])
        return TrackTemplate(
            key,
            frame,
            Template(
                reading.embedding,
                track.fusion.observations,
                track.spread.smallest,
                track.spread.median,
                track.spread.largest,
                tuple(_evidence(seen, share) for share, seen in ranked),
            ),
        )

    def end(self, key: TrackKey) -> None:
        """Forget a track; one that is not known is nothing to forget."""
        self._tracks.pop(key, None)

    def snapshot(self, key: TrackKey) -> bytes:
        """The state of a known track as bytes (msgpack, no pickle); KeyError for another."""
        track = self._tracks[key]
        return msgspec.msgpack.encode(
            _Snapshot(
                SNAPSHOT_VERSION,
                self._aggregator.name,
                dump_state(track.fusion),
                track.spread,
                track.last,
                track.best,
                track.waiting,
            )
        )

    def restore(self, key: TrackKey, data: bytes) -> None:
        """Take up a track where `snapshot` left it: later templates are the same to the bit.

        Raises RecordError when the bytes are no snapshot or were made by another aggregator.
        """
        try:
            stored = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise RecordError(
                f"expected the snapshot of a track, got other bytes: {error}"
            ) from error
        empty, fusion = self._aggregator.empty(), load_state(stored.fusion)
        if (
            (stored.version, stored.aggregator) != (SNAPSHOT_VERSION, self._aggregator.name)
            or empty.values.shape != fusion.values.shape
            or empty.styles.shape != fusion.styles.shape
            or len(stored.waiting) != len(fusion.pending.norms)
        ):
            raise RecordError(
                f"a snapshot must be version {SNAPSHOT_VERSION} of {self._aggregator.name} with "
                f"sums {empty.values.shape}, got version {stored.version} of {stored.aggregator} "
                f"with {fusion.values.shape}"
            )
        self._tracks[key] = _Track(fusion, stored.spread, stored.last, stored.best, stored.waiting)

    def _add(self, observation: Observation) -> bool:
        members = _members(observation)
        if not usable_members(members)[0]:
            return False
        track = self._tracks.get(observation.key)
        if track is None:
            track = _Track(self._aggregator.empty(), Spread())
        if observation.ordinal <= track.last:
            return False
        before = track.fusion.pending
        track.fusion = self._aggregator.update(track.fusion, members)
        track.last = observation.ordinal
        track.spread.add(observation.quality)
        track.waiting.append(_seen(observation))
        if not len(track.fusion.pending.norms):
            self._settle(
                observation.key, track, self._aggregator.weigh(join_members(before, members))
            )
        self._tracks[observation.key] = track
        return True

    def _settle(self, key: TrackKey, track: _Track, rows: Doubles) -> None:
        """The open chunk was closed: its frames compete with the best so far."""
        for seen, row in zip(track.waiting, rows, strict=True):
            seen.row = row.tolist()
        if self._ledger is not None:
            self._ledger.settle(key, [_frame_row(seen) for seen in track.waiting])
        gain = self._aggregator.inspect(track.fusion).gain
        ranked = _rank(track.best + track.waiting, gain)
        track.best, track.waiting = [seen for _, seen in ranked[: self._evidence]], []


def _members(observation: Observation) -> Members:
    return Members(
        observation.embedding[None],
        np.array([observation.norm], np.float32),
        np.array([observation.quality], np.float32),
        observation.style[None],
    )


def _seen(observation: Observation) -> _Seen:
    return _Seen(
        observation.ordinal,
        observation.frame,
        observation.quality,
        pack_array(observation.box),
        None if observation.crop is None else pack_array(observation.crop),
    )


def _frame_row(seen: _Seen) -> FrameRow:
    return FrameRow(seen.ordinal, seen.frame.sequence, seen.frame.pts, seen.quality, seen.row)


def _rank(seen: Sequence[_Seen], gain: Doubles) -> list[tuple[float, _Seen]]:
    """Shares, largest first; of equal shares the better face goes first, then the earlier one.

    All shares are taken with the gain of one moment, so that early and late frames compare.
    """
    shares = ((float(np.dot(one.row, gain)), one) for one in seen)
    return sorted(shares, key=lambda pair: (-pair[0], -pair[1].quality, pair[1].ordinal))


def _evidence(seen: _Seen, share: float) -> Evidence:
    return Evidence(
        seen.frame,
        share,
        seen.quality,
        unpack_array(seen.box, np.float32, 1),
        None if seen.crop is None else unpack_array(seen.crop, np.uint8, 3),
    )
