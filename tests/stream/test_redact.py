"""No password leaves the program, wherever its address is written."""

import string
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream.stream.redact import redact, redact_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.7:554/main", "rtsp://admin:***@10.0.0.7:554/main"),
        ("rtsp://admin:p@ss:w@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://admin:pa/ss@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://:secret@10.0.0.7/main", "rtsp://:***@10.0.0.7/main"),
        ("http://cam/video?user=a&password=b&x=1", "http://cam/video?user=a&password=***&x=1"),
        ("https://cam/live.m3u8?token=abc#t", "https://cam/live.m3u8?token=***"),
        ("rtsp://admin:12/ss@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://admin:p@s/s@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://admin:it's@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("rtsp://me@corp:secret@10.0.0.7/main", "rtsp://me@corp:***@10.0.0.7/main"),
        ("rtsp://admin:secret@[fe80::1]:554/main", "rtsp://admin:***@[fe80::1]:554/main"),
        ("rtsp://cam:554/user=a_password=b_channel=1", "rtsp://cam:554/user=a_password=***"),
        ("http://cam/cgi?usr=a&pw=it's#1&x=1", "http://cam/cgi?usr=a&pw=***&x=1"),
        ("http://proxy/?src=rtsp://a:b@cam/1", "http://proxy/?src=rtsp://a:***@cam/1"),
        (
            "http://proxy/?src=rtsp%3A%2F%2Fa%3Ab%40cam",
            "http://proxy/?src=rtsp%3A%2F%2Fa%3A***%40cam",
        ),
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
    assert redact_address(text) == text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://admin:my secret@10.0.0.7/main", "rtsp://admin:***@10.0.0.7/main"),
        ("admin:secret@10.0.0.7/main", "admin:***@10.0.0.7/main"),
        ("rtsp:/admin:secret@10.0.0.7/main", "rtsp:/admin:***@10.0.0.7/main"),
        ("rtsp//admin:secret@10.0.0.7/main", "rtsp//admin:***@10.0.0.7/main"),
        ("clips/monkey=3.mp4", "clips/monkey=3.mp4"),
    ],
)
def test_an_address_that_is_no_proper_url_shows_nothing_either(address: str, shown: str) -> None:
    assert redact_address(address) == shown


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1))
def test_no_raw_password_survives_in_an_address(password: str) -> None:
    assert redact_address(f"rtsp://u:{password}@10.0.0.7/main") == "rtsp://u:***@10.0.0.7/main"


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


@pytest.mark.parametrize(
    "text", ["rtsp://" + "a" * 20_000, "a" * 20_000, "http://h/?" + "x=&" * 7000]
)
def test_long_texts_come_back(text: str) -> None:
    assert redact(text) == text  # a pattern that looks back and forth would need minutes
