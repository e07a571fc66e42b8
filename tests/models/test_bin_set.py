"""Verification sets as .bin files, read without running what they may hold."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from facestream import ConfigError
from facestream.models.bin_set import read_bin


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_bin_files_of_any_age_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "set.bin"
    pictures: list[object] = [b"\xff\xd8one", b"two", np.frombuffer(b"three", np.uint8), b"four"]
    path.write_bytes(pickle.dumps((pictures, [True, np.bool_(False)]), protocol=protocol))
    content = read_bin(path)
    assert content.pictures == [b"\xff\xd8one", b"two", b"three", b"four"]
    assert content.same.tolist() == [True, False]


def test_a_bin_file_of_python_2_is_read(tmp_path: Path) -> None:
    # What Python 2 writes in protocol 2 for (["ab", "\xff\xd8"], [True]): str as SHORT_BINSTRING.
    data = b"\x80\x02]q\x00(U\x02abq\x01U\x02\xff\xd8q\x02e]q\x03\x88a\x86q\x04."
    pickletools.dis(data, out=io.StringIO())
    (tmp_path / "old.bin").write_bytes(data)
    assert read_bin(tmp_path / "old.bin").pictures == [b"ab", b"\xff\xd8"]


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harmed",)


def test_a_bin_file_that_wants_to_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([b"one", b"two"], [Harmful()])))
    with pytest.raises(ConfigError, match=r"wants to use posix\.mkdir, which no verification set"):
        read_bin(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (([b"a", b"b"], [True, False]), "2 pictures and 2 flags"),
        (([b"a", "text"], [True]), "picture 1 as bytes, got str"),
        (([b"a", b"b"], [7]), "flags must be"),
        ([1, 2, 3], "expected .pictures, flags., got list"),
        (([], []), "0 pictures and 0 flags"),
    ],
)
def test_bin_files_that_do_not_fit_are_refused(tmp_path: Path, content: object, why: str) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigError, match=why):
        read_bin(path)


def test_a_bin_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([b"a" * 100, b"b"], [True]))[:60])
    with pytest.raises(ConfigError, match="copy the file again"):
        read_bin(path)
