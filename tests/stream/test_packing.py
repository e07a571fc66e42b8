"""Records on the wire: what goes in comes out, from where it is to where it is used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from facestream.models.inference import Embedded
from facestream.stream.embed import EmbedStage
from facestream.stream.flow import Done, Down, Up, Work
from facestream.stream.packing import pack, unpack
from facestream.stream.records import FrameRef, Observation, Observed, Tracked, TrackKey

from .messages import MESSAGE, face, framed, image, messages, seen, send


def plain(value: Any) -> Any:
    """Everything in a record, arrays included, in a form that == compares."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, msgspec.Struct):
        return type(value), [plain(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return type(value), [plain(item) for item in value]
    return type(value), value


@given(messages)
@settings(max_examples=150, deadline=None)
def test_every_kind_comes_out_as_it_went_in(item: Down | Up) -> None:
    assert plain(unpack(send(item), MESSAGE)) == plain(item)


def test_numpy_numbers_and_counters_go_as_plain_ones() -> None:
    """Stages compute with them."""
    ref = FrameRef("door", 3, np.float64(0.12), np.float32(0.5), np.int64(64), 48)  # type: ignore[arg-type]
    item = Work("door", "a1", 0, Tracked(ref, (), rejected=Counter({"small": 2})))
    back = unpack(send(item), MESSAGE)
    assert plain(back.item.frame) == plain(FrameRef("door", 3, 0.12, 0.5, 64, 48))  # type: ignore[union-attr]
    assert back.item.rejected == {"small": 2}  # type: ignore[union-attr]


def test_pixels_are_sent_from_where_they_are() -> None:
    picture, crop = image(), image(112, 112)
    (_, sent), (_, cut) = pack(framed(picture), MESSAGE), pack(seen(face(embedder=crop)), MESSAGE)  # type: ignore[misc]
    assert np.shares_memory(np.frombuffer(sent, np.uint8), picture)
    assert np.shares_memory(np.frombuffer(cut, np.uint8), crop)


def test_what_is_not_contiguous_is_sent_all_the_same() -> None:
    flipped = image(112, 112)[:, ::-1]
    back = unpack(send(seen(face(embedder=flipped))), MESSAGE)
    assert (back.item.faces[0].face.crops["embedder"] == flipped).all()  # type: ignore[union-attr]


def test_an_array_that_appears_twice_is_sent_once() -> None:
    """A crop is in the tracked frame and, where pictures are kept, in the observation too."""
    crop = image(112, 112)
    parts = send(seen(face(embedder=crop, quality=crop)))
    assert len(parts) == 2
    crops = unpack(parts, MESSAGE).item.faces[0].face.crops  # type: ignore[union-attr]
    assert crops["embedder"] is crops["quality"]


def test_what_is_received_is_read_only_and_not_copied() -> None:
    parts = send(framed(image()))
    picture = unpack(parts, MESSAGE).item.image  # type: ignore[union-attr]
    assert np.shares_memory(picture, np.frombuffer(parts[1], np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        picture[0] = 0
    box = unpack(send(seen(face())), MESSAGE).item.faces[0].face.box  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="read-only"):
        box[0] = 0


def test_unaligned_numbers_are_made_fit_to_compute_with() -> None:
    embedding = np.arange(2048, dtype=np.float32)
    vector = Observation(
        TrackKey("door", "e", 0),
        FrameRef("door", 3, 0.12, 1000.5, 64, 48),
        0,
        embedding,
        1.0,
        1.0,
        np.zeros((0, 2), np.float32),
        np.zeros(4, np.float32),
    )
    tracked = seen().item
    assert isinstance(tracked, Tracked)
    header, data = send(Work("door", "a1", 3, Observed(tracked, (vector,))))
    odd = memoryview(b"x" + data)[1:]
    back = unpack([header, odd], MESSAGE).item.observations[0].embedding  # type: ignore[union-attr]
    assert back.flags.aligned
    assert (back == embedding).all()


class Brightness:
    """Stands where the networks stand; computes as they do, on stacked crops."""

    template = None

    def embed(self, crops: np.ndarray) -> Embedded:
        vectors = crops.reshape(len(crops), -1).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1).astype(np.float32)
        return Embedded(vectors, norms, np.zeros((len(crops), 0, 2), np.float32))

    def score(self, *, boxes: np.ndarray, **_: Any) -> np.ndarray:
        return boxes[:, 3]


def test_the_embedding_stage_takes_what_was_received() -> None:
    stage = EmbedStage(Brightness(), Brightness(), epoch="e", batch=8, keep_crops=True)  # type: ignore[arg-type]
    here = seen(face(embedder=image(8, 8)), face(embedder=image(8, 8)))
    there = unpack(send(here), MESSAGE)
    assert isinstance(there, Work)
    assert isinstance(here.item, Tracked)
    assert isinstance(there.item, Tracked)
    assert plain(stage.process([there.item])[0]) == plain(stage.process([here.item])[0])


def test_fields_may_be_added_within_a_version() -> None:
    header = msgspec.msgpack.decode(send(Done("door", "a1", 3))[0])
    header[3]["mood"] = "good"
    assert unpack([msgspec.msgpack.encode([*header, "more"])], MESSAGE) == Done("door", "a1", 3)
