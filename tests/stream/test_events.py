"""Events on the wire: what goes in comes out, what is new is ignored, what is wrong is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import PublishError, RecordError
from facestream.stream.events import (
    KINDS,
    AnyEvent,
    EventError,
    SightingStarted,
    decode,
    encode,
    event_id,
    parse_topic,
)
from facestream.tools.docs import examples

FORMS = ("msgpack", "json")


def sighting(**changes: object) -> SightingStarted:
    now = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
    fields = {"id": "a", "camera": "door", "decided_at": now, "captured_at": now}
    return SightingStarted(**{**fields, "track": 1, "frame": 2, "pts": 0.5, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("event", examples(), ids=lambda event: event.kind)
def test_every_kind_survives_the_wire_in_both_forms(event: AnyEvent, form: str) -> None:
    assert decode(encode(event, form)) == event  # type: ignore[arg-type]


def test_the_examples_cover_every_kind() -> None:
    assert {event.kind for event in examples()} == set(KINDS)


@pytest.mark.parametrize("form", FORMS)
def test_unknown_fields_are_ignored_so_that_fields_can_be_added(form: str) -> None:
    later = {**msgspec.to_builtins(sighting()), "mask_worn": True, "more": {"x": [1]}}
    payload = (msgspec.json if form == "json" else msgspec.msgpack).encode(later)
    assert decode(payload) == sighting()


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        (b"", "unreadable", "0 bytes"),
        (b"\x80", "unreadable", "missing required field"),
        (b"{", "unreadable", "truncated"),
        (b'{"kind":"match"}', "unreadable", "match event does not fit"),
        (b'{"kind":"party","id":"a"}', "unknown kind", "'party'; this version knows"),
        (b'{"kind":"match","version":2}', "newer version", "expected schema version 1, got 2"),
        (b'{"kind":"party","version":2}', "newer version", "update facestream"),
        (b"{" + b'"a":{' * 100_000, "unreadable", "expected an event"),
    ],
)
def test_what_is_no_event_is_named(payload: bytes, reason: str, says: str) -> None:
    with pytest.raises(EventError, match=says) as caught:
        decode(payload)
    assert caught.value.reason == reason
    assert isinstance(caught.value, PublishError)


def test_a_newer_version_is_refused_even_where_it_would_fit() -> None:
    with pytest.raises(EventError, match="got 2") as caught:
        decode(encode(sighting(version=2)))
    assert caught.value.reason == "newer version"


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"{" + tail))
def test_garbage_never_raises_anything_but_event_error(payload: bytes) -> None:
    with pytest.raises(EventError):
        decode(payload)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_a_truncated_event_is_never_taken_for_an_event(data: st.DataObject, form: str) -> None:
    payload = encode(data.draw(st.sampled_from(examples())), form)  # type: ignore[arg-type]
    with pytest.raises(EventError):
        decode(payload[: data.draw(st.integers(0, len(payload) - 1))])


def test_times_without_a_zone_are_refused_at_birth() -> None:
    with pytest.raises(RecordError, match="captured_at must have a time zone"):
        sighting(captured_at=datetime(2026, 3, 2))
    with pytest.raises(RecordError, match="decided_at must have a time zone"):
        sighting(decided_at=datetime(2026, 3, 2))


def test_a_value_that_has_no_encoding_is_named() -> None:
    with pytest.raises(RecordError, match=r"sighting.started event must hold plain values"):
        encode(sighting(track=object()))


def test_a_topic_is_kind_and_camera() -> None:
    assert sighting().topic == "facestream/v1/sighting.started/door"
    for event in examples():
        assert parse_topic(event.topic) == (event.kind, event.camera)
        assert parse_topic(event.topic.encode()) == (event.kind, event.camera)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "unreadable"),
        ("facestream/v1/match", "unreadable"),
        ("weather/v1/match/door", "unreadable"),
        (b"\xff\xff", "unreadable"),
        ("facestream/v2/match/door", "newer version"),
    ],
)
def test_a_topic_of_something_else_is_refused(topic: str | bytes, reason: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_topic(topic)
    assert caught.value.reason == reason


def test_an_event_id_depends_on_every_part_and_on_nothing_else() -> None:
    first = event_id("e", "door", "match", 1, 25)
    assert first == event_id("e", "door", "match", 1, 25)
    others = [
        event_id("f", "door", "match", 1, 25),
        event_id("e", "hall", "match", 1, 25),
        event_id("e", "door", "unknown", 1, 25),
        event_id("e", "door", "match", 12, 5),
        event_id("e", "door", "match", "1", 25),
        event_id("e", "door", "match", 1),
    ]
    assert len({first, *others}) == 7
    assert len(first) == 32 and int(first, 16)


def test_event_ids_do_not_change_between_versions() -> None:
    # Repeats must be recognised across an update too.
    assert (
        event_id("5f1c0e9ab2d47783", "door", "match", 7, 112) == "0b34c27ead0e3361af9e1f22368cf44a"
    )


def test_json_payloads_are_plain_json_with_rfc_3339_times() -> None:
    plain = json.loads(encode(sighting(), "json"))
    assert plain["kind"] == "sighting.started"
    assert plain["captured_at"] == "2026-03-02T08:30:00Z"
