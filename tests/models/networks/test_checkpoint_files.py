"""Checkpoint files: what is read, what becomes a stand-in, what is refused; nothing runs."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from facestream import CorruptModelFile
from facestream.models.networks import checkpoints
from facestream.models.networks.checkpoints import find_state, read_checkpoint


@pytest.fixture
def lightning() -> Iterator[type]:
    """A class where Lightning has its callback; the program that reads does not have it."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    made = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = made  # type: ignore[attr-defined]
    names = ["pytorch_lightning", "pytorch_lightning.callbacks"]
    sys.modules |= {n: types.ModuleType(n) for n in names} | {name: module}
    yield made
    for each in [*names, name]:
        sys.modules.pop(each, None)


def test_objects_of_training_programs_become_stand_ins(tmp_path: Path, lightning: type) -> None:
    path = tmp_path / "last.ckpt"
    held = {
        "callbacks": {lightning: {"best": np.float64(0.5)}},
        "hyper_parameters": argparse.Namespace(m=0.4),
        "state_dict": {"model.a": torch.ones(2)},
    }
    torch.save(held, path)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    allowed = set(torch.serialization.get_safe_globals())
    read = read_checkpoint(path)
    assert torch.equal(find_state(read)["model.a"], torch.ones(2))
    assert not isinstance(read["hyper_parameters"], argparse.Namespace)
    assert "pytorch_lightning" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed


class Call:
    """Its pickle asks for function(*arguments) to be called when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(("function", "told"), [(os.mkdir, "posix"), (Path, "pathlib")])
def test_a_file_runs_nothing(
    tmp_path: Path, function: Callable[..., object], told: str, new: bool
) -> None:
    path = tmp_path / "evil.pth"
    call = Call(function, str(tmp_path / "made"))
    torch.save({"a": call}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(CorruptModelFile, match=rf"not a checkpoint: .* it holds {told}\.\w+,"):
        read_checkpoint(path)
    assert not (tmp_path / "made").exists()


def test_a_stand_in_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"a": Call(np.savetxt, str(tmp_path / "made"), [1.0])}, path)
    assert read_checkpoint(path).keys() == {"a"}
    assert not (tmp_path / "made").exists()


def test_the_older_file_format(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert find_state(read_checkpoint(path))["a"].tolist() == [0.0, 1.0, 2.0]


def test_files_that_are_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "odd.pth"
    for content in (b"", b"weights", pickle.dumps([1, 2]), b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(CorruptModelFile, match=r"^odd.pth is not a checkpoint: .*again$"):
            read_checkpoint(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(CorruptModelFile, match="must hold a dictionary of weights, got Tensor"):
        read_checkpoint(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptModelFile, match=r"^odd.pth is not a checkpoint"):
        read_checkpoint(path)
    monkeypatch.setattr(checkpoints, "LARGEST", 10)
    with pytest.raises(CorruptModelFile, match="bytes, a checkpoint at most 10"):
        read_checkpoint(path)


def test_compressed_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(1 << 20)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(CorruptModelFile, match=r"packed.pth is compressed"):
        read_checkpoint(packed)
    monkeypatch.setattr(checkpoints, "LARGEST_INDEX", 10)
    with pytest.raises(CorruptModelFile, match="its index has"):
        read_checkpoint(plain)


@pytest.mark.parametrize(
    "value", ["text", None, torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")]
)
def test_values_that_are_no_weights(value: object) -> None:
    with pytest.raises(CorruptModelFile, match="weights must be dense tensors by name, got"):
        find_state({"state_dict": {"conv1.weight": value}})
    with pytest.raises(CorruptModelFile, match="the state dict must be one, got"):
        find_state({"state_dict": value})
