"""No password leaves the program, wherever its address is written."""

import string
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.7:554/main", "rtsp://admin:***@10.0.0.7:554/main"),
        ("rtsp://admin:p@ss:w@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://admin:pa/ss@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://:secret@10.0.0.7/main", "rtsp://:***@10.0.0.7/main"),
        ("http://cam/video?user=a&password=b&x=1", "http://cam/video?user=a&password=***&x=1"),
        ("https://cam/live.m3u8?token=abc#t", "https://cam/live.m3u8?token=***#t"),
        (
            "Connection refused: 'rtsp://a:b@h/x' then 'rtsp://c:d@h/y'",
            "Connection refused: 'rtsp://a:***@h/x' then 'rtsp://c:***@h/y'",
        ),
    ],
)
def test_hides_what_is_secret(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://10.0.0.7:554/stream@main",
        "rtsp://[fe80::1]:554/stream@main",
        "clips/door.mp4",
        "no picture for 5 s: try 3 of 4",
        "someone@example.org",
    ],
)
def test_leaves_what_is_not(text: str) -> None:
    assert redact(text) == text


PASSWORDS = st.text(string.printable.strip(), min_size=6)


@settings(max_examples=60, deadline=None)
@given(PASSWORDS)
def test_no_quoted_password_survives(password: str) -> None:
    secret = quote(password, safe="@:")
    assert redact(f"cannot open rtsp://u:{secret}@host/x.") == "cannot open rtsp://u:***@host/x."


@settings(max_examples=60, deadline=None)
@given(PASSWORDS)
def test_hiding_twice_changes_nothing(password: str) -> None:
    once = redact(f"http://u:{quote(password, safe='')}@h/?key={quote(password, safe='')}")
    assert redact(once) == once == "http://u:***@h/?key=***"
