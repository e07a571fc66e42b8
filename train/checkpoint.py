"""What a training run writes to go on from, and what of it can be read again.

A checkpoint is one file, written beside its name and put there whole: whoever kills the run, the
one before it stays. It carries the settings, the revision of the code and the fingerprint of the
data it was made with, and a run with others refuses to go on from it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import ConfigError, CorruptModelFile, MissingModelFile, TrainingError
from ..models.store import written_whole

FORMAT = 1


class Origin(NamedTuple):
    """What weights were made with.

    recipe: its name. config: the text of its settings. data: fingerprint. revision: of the code.
    """

    recipe: str
    config: str
    data: str
    revision: str


class Checkpoint(NamedTuple):
    """A run after `step` steps; best is the best validation so far (value, step) or None."""

    origin: Origin
    step: int
    network: dict[str, Any]
    optimiser: dict[str, Any]
    best: tuple[float, int] | None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all; raises TrainingError where the disk is full."""
    held = {"format": FORMAT, **checkpoint._asdict(), "origin": checkpoint.origin._asdict()}
    with explained(path):
        try:
            with written_whole(path) as partial, partial.open("wb") as file:
                torch.save(held, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # torch's zip writer meets a full disk so, and says nothing of disks.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk under `path` into TrainingError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"{path} cannot be written ({error.strerror}): free space there; what was written "
            "before is whole, and the same command goes on from it"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, running nothing that it may hold.

    Raises CorruptModelFile for other files, MissingModelFile where there is none.

    Tensors come to the CPU.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        version = held.pop("format")
        best = held.pop("best")
        read = Checkpoint(
            origin=Origin(**held.pop("origin")),
            best=None if best is None else (float(best[0]), int(best[1])),
            **held,
        )
    except FileNotFoundError:
        raise MissingModelFile(f"{path} is gone: put it back, or begin in another folder") from None
    except Exception as error:
        # Damage makes torch's reader fail in ways that no list exhausts.
        raise CorruptModelFile(
            f"{path} is no checkpoint of this program ({type(error).__name__}): begin in another "
            "folder, or put the file back"
        ) from error
    if version != FORMAT:
        raise CorruptModelFile(
            f"{path} is a checkpoint of format {version}, expected {FORMAT}: use the facestream "
            "that wrote it, or begin in another folder"
        )
    return read


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Put a checkpoint's weights into a network; raises ConfigError where they do not fit."""
    try:
        network.load_state_dict(checkpoint.network)
    except RuntimeError as error:
        raise ConfigError(
            f"the weights of {path} are of another network ({str(error).splitlines()[0]}): begin "
            "in another folder, or use the facestream that wrote it"
        ) from error


def check_origin(path: Path, found: Origin, wanted: Origin) -> None:
    """Raise ConfigError, naming the first difference, unless a run may go on from a checkpoint.

    The revision may differ: a mended program can go on.
    """
    for name in ("recipe", "data", "config"):
        old, new = getattr(found, name), getattr(wanted, name)
        if old != new:
            if name == "config":
                lines = zip_longest(old.splitlines(), new.splitlines(), fillvalue="nothing")
                old, new = next((a.strip(), b.strip()) for a, b in lines if a != b)
            told = f": it has {old!r}, this run {new!r}"
            raise ConfigError(
                f"{path} is of a run with another {name}{told}; choose another --out, or go on "
                "with what that run was begun with"
            )
