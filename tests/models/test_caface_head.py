"""The file of a CAFace head: sizes of the paper, initialisation, and what is refused."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from facestream import CorruptModelFile
from facestream.models.caface import CAFace
from facestream.models.caface_head import (
    HeadSize,
    count_parameters,
    head_shapes,
    load_head,
    random_head,
    save_head,
)
from facestream.models.fusion import Members

SIZE = HeadSize(dimension=20, styles=5, centres=4)


@pytest.mark.parametrize(
    ("centres", "parameters"), [(1, 786_002), (2, 786_160), (4, 786_524), (8, 787_444)]
)
def test_parameter_counts_are_those_of_the_paper(centres, parameters):
    assert count_parameters(HeadSize(512, 384, centres)) == parameters


def test_initialisation_is_the_papers():
    head = random_head(0, HeadSize(64, 12, 4))
    centres = head.arrays["cn.centres"]
    np.testing.assert_allclose(centres @ centres.T, np.eye(4), atol=1e-12)
    assert not head.arrays["sim.mix"].any()
    assert head.arrays["norm.scale"] == 0.1
    assert head.arrays["sim.prelu"] == 0.25
    # torch's Linear: uniform within one over the root of what goes in.
    first = head.arrays["sim.linear.weight"]
    assert 0.9 < np.abs(first).max() * np.sqrt(12) <= 1.0
    assert head.arrays["agn.head.fc1.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert not head.arrays["agn.head.fc1.bias"].any()


def test_a_head_survives_its_file(tmp_path):
    path = tmp_path / "head.npz"
    head = replace(random_head(11, SIZE), division="clip1", rounding="trunc")
    save_head(path, head)
    again = load_head(path, dimension=20)
    assert (again.size, again.division, again.rounding) == (SIZE, "clip1", "trunc")
    for name, array in head.arrays.items():
        np.testing.assert_allclose(again.arrays[name], array, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sim.prelu": None}, "lacks sim.prelu"),
        ({"extra": np.zeros(1)}, "has the unknown extra"),
        ({"cn.centres": None}, "it must hold"),
        ({"cn.centres": np.zeros((4, 9))}, "multiple of 8"),
        ({"agn.head.fc1.bias": np.zeros(3)}, r"must be \(256,\), got \(3,\)"),
        ({"norm.scale": np.array([np.nan])}, "not finite"),
        ({"division": np.array("other")}, "division must be exact or clip1"),
        ({"rounding": None}, "got exact and missing"),
        ({"sim.mix": np.array([None, {}])}, "is not a CAFace head"),
    ],
)
def test_broken_heads_are_refused(tmp_path, change, message):
    named = dict(
        random_head(0, SIZE).arrays, division=np.array("exact"), rounding=np.array("floor")
    )
    named = {name: array for name, array in (named | change).items() if array is not None}
    path = tmp_path / "head.npz"
    with path.open("wb") as file:
        np.savez(file, **named)
    with pytest.raises(CorruptModelFile, match=message):
        load_head(path)


def test_any_damage_to_the_file_is_an_error_of_ours_or_harmless(tmp_path):
    path = tmp_path / "head.npz"
    save_head(path, random_head(0, HeadSize(5, 3, 2, 6, 10)))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    draw = np.random.default_rng(0)
    # The headers of the first array, and the directory of the archive.
    for at in [*range(0, 180, 3), *draw.integers(directory, len(whole), 300)]:
        data = bytearray(whole)
        data[at] ^= int(draw.integers(1, 256))
        path.write_bytes(data)
        try:
            load_head(path)
        except CorruptModelFile as error:
            assert "head.npz" in str(error)


@pytest.mark.parametrize(
    "kind", ["empty", "text", "npy", "words", "members", "bomb", "method", "claim"]
)
def test_what_is_no_head_is_refused(tmp_path, kind, monkeypatch):
    path = tmp_path / "head.npz"
    with path.open("wb") as file:
        if kind == "text":
            file.write(b"a head")
        elif kind == "npy":
            np.save(file, np.zeros(3))
        elif kind == "words":
            np.savez(file, **{"sim.mix": np.array([["a", "b"]])})
        elif kind in ("members", "method"):
            how = zipfile.ZIP_BZIP2 if kind == "method" else zipfile.ZIP_STORED
            with zipfile.ZipFile(file, "w", how) as archive:
                archive.writestr("division.txt", "exact")
        elif kind == "bomb":
            monkeypatch.setattr("facestream.models.caface_head.LARGEST", 1 << 16)
            np.savez_compressed(file, **{"sim.mix": np.zeros((1 << 14, 2))})
        elif kind == "claim":
            header = io.BytesIO()
            size = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
            np.lib.format.write_array_header_1_0(header, size)
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("sim.mix.npy", header.getvalue())
    with pytest.raises(CorruptModelFile, match=r"head\.npz"):
        load_head(path)


def test_shapes_follow_the_size():
    shapes = head_shapes(HeadSize(128, 0, 8))
    assert shapes["agn.head.fc2.weight"] == (128, 256)
    assert shapes["cn.centres"] == (8, 128)
    assert shapes["sim.linear.weight"] == (64, 0)  # an embedder without style statistics
    one = CAFace(random_head(0, HeadSize(128, 0, 8)))
    rows = np.random.default_rng(1).standard_normal((3, 128)).astype(np.float32)
    ones = np.ones(3, np.float32)
    members = Members(rows, ones, ones, np.zeros((3, 0, 2), np.float32))
    assert one.read(one.update(one.empty(), members)).shape == (128,)
