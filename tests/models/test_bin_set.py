"""Verification sets as .bin files, read without running what they may hold."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


class Call:
    """Pickles as a call: function(*arguments), then a state when there is one."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced if self.reduced[2] is not None else self.reduced[:2]


_RECONSTRUCT, _ARRAY_ARGUMENTS, _ARRAY_STATE = np.array([1], np.uint8).__reduce__()
_SCALAR = np.bool_(1).__reduce__()[0]
# An object dtype that claims to hold no objects: bytes then become pointers.
_POINTERS = Call(np.dtype, "O", False, True, state=(3, "|", None, None, None, -1, -1, 0))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "crafted",
    [
        Call(np.ndarray, (1,), _POINTERS, b"AAAAAAAA"),
        Call(_RECONSTRUCT, *_ARRAY_ARGUMENTS, state=(1, (1,), _POINTERS, False, b"AAAAAAAA")),
        Call(_SCALAR, _POINTERS, b"AAAAAAAA"),
    ],
)
def test_crafted_object_pointers_are_refused(
    tmp_path: Path, crafted: object, protocol: int
) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([b"one", b"two"], crafted), protocol=protocol))
    # In a process of its own: where this fails, the interpreter crashes.
    script = (
        "import pathlib, sys\n"
        "from facestream import ConfigError\n"
        "from facestream.models.bin_set import read_bin\n"
        "try:\n    read_bin(pathlib.Path(sys.argv[1]))\n"
        "except ConfigError:\n    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


_U1 = Call(np.dtype, "u1", False, True, state=(3, "|", None, None, None, -1, -1, 0))


def _array(*state: object) -> Call:
    return Call(_RECONSTRUCT, *_ARRAY_ARGUMENTS, state=state)


@pytest.mark.parametrize(
    "crafted",
    [
        Call(np.ndarray, (1,), _U1, b"\x01"),
        Call(_RECONSTRUCT, np.dtype, (0,), b"b"),
        Call(_RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (2,), _U1, False, b"\x01")),
        _array(1, (1 << 62,), _U1, False, b"\x01"),
        _array(1, (-1,), _U1, False, b"\x01"),
        _array(1, (1, 1), _U1, False, b"\x01"),
        _array(1, (1,), np.dtype, False, b"\x01"),
        _array(1, (1,), _U1, False, [1]),
        _array(2, (1,), _U1, False, b"\x01"),
        Call(np.dtype, "O", False, True),
        Call(np.dtype, "V8", False, True),
        Call(np.dtype, "u1", False, True, state=(3, "?")),
        Call(np.dtype, "u1", False, True, state={"order": "|"}),
        Call(np.dtype, ["u1"]),
        Call(_SCALAR, _U1, b"\x01\x01"),
        Call(_SCALAR, np.dtype("u1"), [1]),
        Call(bytes, 1 << 40),
        np.array([None]),
        np.array(["a"]),
        np.zeros((1, 1), bool),
        [np.ndarray],
        np.dtype,
        np.dtype("u1"),
    ],
)
def test_arrays_that_no_set_holds_are_refused(tmp_path: Path, crafted: object) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([b"one", b"two"], crafted), protocol=4))
    with pytest.raises(ConfigError):
        read_bin(path)


@pytest.mark.parametrize("name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
def test_what_a_pickle_may_name_it_cannot_change(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(b"\x80\x02c" + name + b"\n}U\x01aK\x01sb.")  # BUILD with {"a": 1}
    with pytest.raises(ConfigError, match="takes no state"):
        read_bin(path)


def test_bytes_named_many_times_fill_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    text = b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x000"
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    path.write_bytes(b"\x80\x02" + text + b"](" + copy * 100 + b"e.")
    with pytest.raises(ConfigError, match="no more bytes than the file has"):
        read_bin(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo place
        b"\x80\x02]p99999999999\n.",
        b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00a.",  # the length of a bytearray
        b"\x80\x05\x8e\xff\xff\xff\xff\x0f\x00\x00\x00a.",
    ],
)
def test_sizes_beyond_the_file_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set.bin").write_bytes(data)
    with pytest.raises(ConfigError, match="copy the file again"):
        read_bin(tmp_path / "set.bin")


_FLAGS: list[object] = [
    [True, False],
    [np.bool_(True), np.bool_(False)],
    [np.int64(1), np.float32(0)],
    [np.array(True), np.array(0)],
    np.array([True, False]),
    np.array([True, True, False, False])[::2],
    *(np.array([1, 0], kind) for kind in ("u1", "i1", "<i2", ">i4", "<i8", ">f4", "<f8")),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("flags", _FLAGS)
@pytest.mark.parametrize("older", [False, True])
def test_every_allowed_form_is_read(
    tmp_path: Path, flags: object, protocol: int, older: bool
) -> None:
    writable = np.array([255, 216], np.uint8)
    pictures = [b"\xff\xd8", writable, np.frombuffer(b"\xff\xd8", np.uint8), b""]
    data = pickle.dumps((pictures, flags), protocol=protocol)
    if older:  # NumPy 1 says numpy.core
        data = data[:2] + data[11:] if protocol >= 4 else data  # without its frame
        data = data.replace(b"\x16numpy._core.multi", b"\x15numpy.core.multi")
        data = data.replace(b"\x13numpy._core.num", b"\x12numpy.core.num")
        data = data.replace(b"numpy._core", b"numpy.core")
    path = tmp_path / "set.bin"
    path.write_bytes(data)
    content = read_bin(path)
    assert content.pictures == [b"\xff\xd8"] * 3 + [b""]
    assert content.same.dtype == np.bool_
    assert content.same.tolist() == [True, False]


def test_an_array_of_python_2_is_read(tmp_path: Path) -> None:
    dtype = b"cnumpy\ndtype\nU\x02b1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01K\x01\x85" + dtype + b"\x89U\x01\x01tb"
    (tmp_path / "old.bin").write_bytes(b"\x80\x02](U\x01aU\x02\xff\xd8e" + array + b"\x86.")
    content = read_bin(tmp_path / "old.bin")
    assert content.pictures == [b"a", b"\xff\xd8"]
    assert content.same.tolist() == [True]


def test_strings_of_python_2_in_protocol_0_are_read(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(b"((lS'a'\naS'\\xff\\xd8'\na(lI01\nat.")
    assert read_bin(tmp_path / "old.bin").pictures == [b"a", b"\xff\xd8"]


_WHOLE = [
    pickle.dumps(([b"one", np.frombuffer(b"two", np.uint8)], [np.bool_(1)]), protocol=protocol)
    for protocol in (2, 3, 4, 5)
] + [
    pickle.dumps(([b"one", b"two"], np.array([1], ">i2")), protocol=protocol)
    for protocol in (2, 3, 4, 5)
]


@settings(max_examples=300, deadline=None)
@given(
    whole=st.sampled_from(_WHOLE),
    start=st.integers(0, 400),
    removed=st.integers(0, 4),
    added=st.binary(max_size=4),
)
def test_damage_is_refused_or_read(whole: bytes, start: int, removed: int, added: bytes) -> None:
    start %= len(whole)
    read_bin.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.bin"
        path.write_bytes(whole[:start] + added + whole[start + removed :])
        try:
            content = read_bin(path)
        except ConfigError:
            return
    assert len(content.pictures) == 2 * len(content.same)
