"""RecordIO files: whole and in parts, and every way in which they can be damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facestream import SourceCorrupt, SourceMissing
from facestream.train.record_io import RecordFile

from .records import MAGIC, frame, pack, write_faces, write_records


def test_a_record_by_hand(tmp_path: Path) -> None:
    # magic, length 24 + 5, header, content, 3 bytes of padding
    data = bytes.fromhex(
        "0a23d7ce 1d000000 00000000 00004040 0700000000000000 0000000000000000 68656c6c6f 000000"
    )
    (tmp_path / "a.rec").write_bytes(data)
    (tmp_path / "a.idx").write_text("5\t0\n")
    record = RecordFile(tmp_path / "a.rec").read(5)
    assert record.flag == 0 and record.labels.tolist() == [3.0]
    assert (record.id, record.id2, record.content) == (7, 0, b"hello")
    assert frame(pack(b"hello", 3.0, 7)) == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    contents=st.lists(
        st.lists(st.sampled_from([MAGIC, b"\x00" * 4, b"abcd", b"x", b"\xce"]), max_size=9).map(
            b"".join
        ),
        min_size=1,
        max_size=5,
    ),
    many=st.booleans(),
)
def test_what_is_written_is_read_in_any_order_magic_or_not(
    tmp_path: Path, contents: list[bytes], many: bool
) -> None:
    label: float | list[float] = [2.0, 3.0] if many else 2.0
    payloads = {7 * key: pack(content, label, key) for key, content in enumerate(contents)}
    file = RecordFile(write_records(tmp_path / "a.rec", payloads))
    for key in reversed(file.keys.tolist()):
        record = file.read(key)
        assert record.content == contents[key // 7] and record.id == key // 7
        assert record.labels.tolist() == ([2.0, 3.0] if many else [2.0])
    np.testing.assert_array_equal(file.first_labels(file.keys), np.full(len(contents), 2.0))


def test_record_0_says_which_keys_are_pictures(tmp_path: Path) -> None:
    labels = [4, 4, 0, 2, 2, 2]
    file = RecordFile(write_faces(tmp_path / "train.rec", labels))
    assert file.picture_keys().tolist() == [1, 2, 3, 4, 5, 6] and len(file.keys) == 1 + 6 + 3
    # Labels come as a number or as an array of one number.
    assert {file.read(key).flag for key in range(1, 7)} == {0, 1}
    assert file.first_labels(file.picture_keys()).tolist() == labels
    plain = RecordFile(write_faces(tmp_path / "plain.rec", labels, header=False))
    assert plain.picture_keys().tolist() == [1, 2, 3, 4, 5, 6]


def test_fewer_pictures_than_record_0_promises_are_refused(tmp_path: Path) -> None:
    path = write_faces(tmp_path / "train.rec", [0, 1])
    lines = path.with_suffix(".idx").read_text().splitlines()
    path.with_suffix(".idx").write_text("\n".join(line for line in lines if line[0] != "2"))
    with pytest.raises(SourceCorrupt, match=r"train.idx: record 0 promises pictures 1 to 2"):
        RecordFile(path).picture_keys()


def test_a_record_too_short_for_its_header_or_labels_is_refused(tmp_path: Path) -> None:
    path = write_records(
        tmp_path / "a.rec", {1: b"short", 2: struct.pack("<IfQQ", 9, 0, 0, 0), 3: pack(b"", 1.0)}
    )
    file = RecordFile(path)
    with pytest.raises(SourceCorrupt, match=r"a.rec, key 1, byte 0: expected 24 bytes .* got 5"):
        file.read(1)
    with pytest.raises(SourceCorrupt, match=r"a.rec, key 2, byte 16: expected 9 labels"):
        file.read(2)
    with pytest.raises(SourceCorrupt, match=r"key 1, byte 0"):
        file.first_labels(file.keys)
    assert file.first_labels(np.array([3])).tolist() == [1.0]
    with pytest.raises(SourceCorrupt, match=r"a.idx has no key 8"):
        file.read(8)


def test_a_file_cut_short_names_key_and_byte(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", {1: pack(b"one", 0.0), 2: pack(b"two" * 20, 0.0)})
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    file = RecordFile(path)
    assert file.read(1).content == b"one"
    with pytest.raises(SourceCorrupt, match=r"a.rec, key 2, byte 36: expected 84 bytes, got 74"):
        file.read(2)
    path.write_bytes(data[:38])
    with pytest.raises(SourceCorrupt, match=r"a.idx, key 2: .* got byte 36"):
        RecordFile(path)
    path.write_bytes(data[:56])
    with pytest.raises(SourceCorrupt, match=r"key 2, byte 36: .* cut short"):
        RecordFile(path).first_labels(np.array([2]))


def test_the_parts_of_a_record_must_follow_each_other(tmp_path: Path) -> None:
    payload = pack(b"abcd" + MAGIC + b"efgh", 0.0)
    path = write_records(tmp_path / "a.rec", {1: payload})
    data = path.read_bytes()
    assert RecordFile(path).read(1).content == b"abcd" + MAGIC + b"efgh"
    second = data.index(MAGIC, 4)
    (tmp_path / "a.idx").write_text(f"1\t{second}\n")
    with pytest.raises(SourceCorrupt, match=f"key 1, byte {second}: expected the first part"):
        RecordFile(path).read(1)
    (tmp_path / "a.idx").write_text("1\t0\n")
    path.write_bytes(data[:second] + frame(pack(b"other", 0.0)))
    with pytest.raises(SourceCorrupt, match=f"byte {second}: expected another part"):
        RecordFile(path).read(1)
    path.write_bytes(data[:second])
    with pytest.raises(SourceCorrupt, match=f"byte {second}: expected 8 bytes of a record, got 0"):
        RecordFile(path).read(1)


def test_an_index_of_another_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = write_faces(tmp_path / "a.rec", [0, 0, 1])
    other = write_faces(tmp_path / "b.rec", [0, 0, 1], seed=5)
    path.with_suffix(".idx").write_text(other.with_suffix(".idx").read_text())
    with pytest.raises(SourceCorrupt, match=r"a.rec, key 2, byte \d+: expected the magic 0xced7"):
        RecordFile(path)
    path.with_suffix(".idx").write_text("0\t0\n1\t6\n")
    with pytest.raises(SourceCorrupt, match="key 1: expected a multiple of 4"):
        RecordFile(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0\t0\n1 \n", r"a.idx:2: expected a key and a byte offset, got '1 '"),
        ("0\t0\n-1\t8\n", r"a.idx:2: "),
        ("0\t0\n3\t8\n3\t16\n", "key 3 is in line 2 and again in line 3"),
        ("", "a.idx is empty"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = write_records(tmp_path / "a.rec", {0: pack(b"", 0.0)})
    path.with_suffix(".idx").write_text(text)
    with pytest.raises(SourceCorrupt, match=why):
        RecordFile(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=r"a.rec is not there"):
        RecordFile(tmp_path / "a.rec")
    (tmp_path / "a.rec").write_bytes(b"")
    with pytest.raises(SourceMissing, match=r"a.idx is not there"):
        RecordFile(tmp_path / "a.rec")
    (tmp_path / "a.idx").write_text("1\t0\n")
    with pytest.raises(SourceCorrupt, match=r"in the 0 bytes of a\.rec"):
        RecordFile(tmp_path / "a.rec")
