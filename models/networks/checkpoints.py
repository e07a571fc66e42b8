"""Published backbone checkpoints: read without trust, compared strictly, loaded by name.

A file is a pickle of tensors. It is read with torch's weights_only unpickler, which builds tensors
and plain containers and runs nothing; its size is bounded; and no weight is copied before every
name and shape has been compared with those of the network it is said to be.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import ConfigError, CorruptModelFile, MissingModelFile
from ..pixels import PixelFormat
from .checkpoint_keys import LAYOUTS, Layout
from .iresnet import IResNet

LARGEST = 8 << 30
"""Bytes of a file. The largest published hold a backbone (475 MB), its optimiser's state and a
class layer of some 600,000 identities with its own."""
LARGEST_INDEX = 64 << 20
"""Bytes of the pickle inside, which names the tensors; that of depth 200 has under 1 MB."""
SHOWN = 3
"""Names of each kind in a message."""
STATES = ("state_dict", "state_dict_backbone")
"""Where training programs put the weights in their files; else the file is the weights."""
COUNTER = "num_batches_tracked"
"""A batch norm's counter: unused at a fixed momentum, absent in files converted from MXNet."""
INERT = ("argparse", "lightning", "lightning_fabric", "numpy", "omegaconf", "pytorch_lightning")
"""Packages whose objects training programs save beside the weights (callbacks, settings): empty
stand-ins take their place, and nothing of the packages is imported or run."""


class PublishedBackbone(NamedTuple):
    """A loaded network and the pixels it was trained with: pixels.tensor(crops) feeds it."""

    backbone: IResNet
    """In eval mode, float32, on the CPU."""
    pixels: PixelFormat


class _Inert:
    """Stands for an object of a training program: takes any arguments and state, keeps none."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def load_backbone(path: Path, name: str, layout: str, *, dimension: int = 512) -> PublishedBackbone:
    """Read a published checkpoint into an IResNet of its own convention.

    name: iresnet18, 34, 50, 100 or 200 (AdaFace's ir_101 is iresnet100). layout: a name of
    LAYOUTS; it is not guessed, since files of different pixels can have the same names. dimension:
    C. Raises ConfigError for an unknown name or layout or a depth the layout does not have,
    MissingModelFile, or CorruptModelFile as `read_checkpoint` and `load_weights` do.
    """
    known = _find_layout(layout)
    depths = {f"iresnet{depth}": depth for depth in known.depths}
    if name not in depths:
        raise ConfigError(f"layout {layout} has {', '.join(depths)}, got {name!r}")
    with torch.device("meta"):
        backbone = IResNet(depths[name], dimension=dimension, convention=known.convention)
    state = find_state(read_checkpoint(path), source=path.name)
    weights = _match(backbone, state, known, source=path.name)
    backbone.to_empty(device="cpu").load_state_dict(weights)
    return PublishedBackbone(backbone.eval(), known.pixels)


def load_weights(
    backbone: IResNet, state: Mapping[str, Tensor], layout: str, *, source: str = "checkpoint"
) -> None:
    """Copy published weights into an existing network; nothing is copied when anything is wrong.

    state: names of the layout (with any of its prefixes) to dense floating point tensors of any
    precision; they are copied into the network's. source: what messages call it. Raises ConfigError
    for an unknown layout or a network whose batch norms have another eps than the layout's (its
    numbers would differ slightly, unnoticed), and CorruptModelFile when a name is missing, unknown,
    or has another shape or a number that is not finite; the message names the first few and tells
    how many there are.
    """
    known = _find_layout(layout)
    if backbone.convention.eps != known.convention.eps:
        raise ConfigError(
            f"layout {layout} needs batch norms with eps {known.convention.eps:g}, the network has "
            f"{backbone.convention.eps:g}: make it with the layout's convention"
        )
    backbone.load_state_dict(_match(backbone, state, known, source=source))


def export_weights(backbone: IResNet, layout: str) -> dict[str, Tensor]:
    """The network's weights under the names of a layout, without prefix; tensors are shared.

    `load_weights` with the same layout takes them back where the layout allows names without
    prefix. Raises ConfigError for an unknown layout, or a network of another convention or depth
    than the layout's, which the publisher's program could not load.
    """
    known = _find_layout(layout)
    ours, theirs = backbone.convention, known.convention
    same = (ours.eps, ours.shortcut) == (theirs.eps, theirs.shortcut)
    same = same and (ours.final == "plain") == (theirs.final == "plain")
    if not same or backbone.depth not in known.depths:
        raise ConfigError(
            f"an iresnet{backbone.depth} of {ours} cannot be written in layout {layout}: it needs "
            f"{theirs}"
        )
    state = backbone.state_dict()
    return {known.rename(name, backbone.depth): value for name, value in state.items()}


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """What a checkpoint file holds, by name: tensors, containers and numbers, on the CPU.

    A file of torch >= 1.6 is mapped, not read: only what is copied from it takes memory. Raises
    MissingModelFile, or CorruptModelFile when the file is larger than LARGEST, is no checkpoint,
    is packed by compression, or holds objects of other programs than INERT's.
    """
    if not path.is_file():
        raise MissingModelFile(f"no checkpoint at {path}: check the path")
    size = path.stat().st_size
    if size > LARGEST:
        raise CorruptModelFile(f"{path.name} has {size} bytes, a checkpoint at most {LARGEST}")
    try:
        packed = zipfile.is_zipfile(path)
        if packed:
            _check_archive(path)
        with torch.serialization.safe_globals(_stand_ins(path) if packed else []):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except CorruptModelFile:
        raise
    except Exception as error:
        # The unpickler of a damaged file can fail in any way a Python program can.
        raise CorruptModelFile(f"{path.name} is not a checkpoint: {_reason(error)}") from error
    if not isinstance(held, dict):
        raise CorruptModelFile(
            f"{path.name} must hold a dictionary of weights, got {type(held).__name__}"
        )
    return held


def find_state(held: Mapping[str, Any], *, source: str = "checkpoint") -> dict[str, Tensor]:
    """The weights in what a file holds: its state dict (STATES), else all of it.

    Raises CorruptModelFile when a name is no text or a value no dense tensor.
    """
    inner = next((held[name] for name in STATES if name in held), held)
    if not isinstance(inner, dict):
        raise CorruptModelFile(f"{source}: the state dict must be one, got {type(inner).__name__}")
    for name, value in inner.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise CorruptModelFile(
                f"{source}: weights must be dense tensors by name, got {type(value).__name__} "
                f"under {str(name)[:80]!r}"
            )
    return inner


def _find_layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(f"checkpoint layout must be one of {', '.join(LAYOUTS)}, got {name!r}")
    return LAYOUTS[name]


def _match(
    backbone: IResNet, state: Mapping[str, Tensor], layout: Layout, *, source: str
) -> dict[str, Tensor]:
    """Our names to the checkpoint's tensors, every one compared; see `load_weights`."""
    prefix = layout.find_prefix(state) or ""
    shapes = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    names = {name: prefix + layout.rename(name, backbone.depth) for name in shapes}
    optional = {theirs for theirs in names.values() if theirs.endswith(COUNTER)}
    expected = set(names.values())
    others = layout.others if prefix else ()
    missing = [theirs for theirs in names.values() if theirs not in state.keys() | optional]
    unknown = [name for name in state if name not in expected and not name.startswith(others)]
    misshapen = [
        f"{theirs} {tuple(state[theirs].shape)} for {shapes[ours]}"
        for ours, theirs in names.items()
        if theirs in state and tuple(state[theirs].shape) != shapes[ours]
    ]
    faults = [
        f"{what} {len(these)} ({', '.join(these[:SHOWN])}{', ...' if len(these) > SHOWN else ''})"
        for what, these in (
            ("it lacks", missing),
            ("it has unknown", unknown),
            ("other shapes in", misshapen),
        )
        if these
    ]
    if faults:
        raise CorruptModelFile(
            f"{source} does not hold the weights of iresnet{backbone.depth}: {'; '.join(faults)}"
            f"{_hint(state)}"
        )
    for theirs in expected & state.keys():
        if not theirs.endswith(COUNTER) and not _is_finite(state[theirs]):
            raise CorruptModelFile(f"{source}: {theirs} must hold finite floating point numbers")
    zero = torch.zeros((), dtype=torch.long)
    return {ours: state.get(theirs, zero) for ours, theirs in names.items()}


def _hint(state: Mapping[str, Tensor]) -> str:
    """What the names look like, for a message about names that do not fit."""
    for name, layout in LAYOUTS.items():
        prefix = layout.find_prefix(state)
        if prefix is None:
            continue
        inside = {key.removeprefix(prefix): 0 for key in state if key.startswith(prefix)}
        outside = [key for key in state if not key.startswith(prefix)]
        depth = layout.find_depth(inside)
        if depth is not None and all(key.startswith(layout.others) for key in outside):
            return f"; by its names it is an iresnet{depth} in layout {name}"
    return "; by its names it is in no known layout"


def _is_dense(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_quantized
        and value.layout == torch.strided
        and value.device.type == "cpu"
    )


def _is_finite(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isfinite(value).all())


def _check_archive(path: Path) -> None:
    """Refuse what torch never writes: compression and a pickle larger than any list of names."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise CorruptModelFile(f"{path.name} is compressed, which checkpoints never are")
            if member.filename.endswith(".pkl") and member.file_size > LARGEST_INDEX:
                raise CorruptModelFile(
                    f"{path.name}: its index has {member.file_size} bytes, at most {LARGEST_INDEX} "
                    "are read"
                )


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """An empty class for each object of INERT's packages that the file names."""
    named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    known = sorted(name for name in named if name.split(".")[0] in INERT)
    return [(type("Inert", (_Inert,), {}), name) for name in known]


def _reason(error: Exception) -> str:
    """What failed and what to do; torch's own messages run over a page."""
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"beside weights it holds {named[1]}, which is not read; save its state dict alone "
            "where the file is trusted"
        )
    told = str(error).strip().splitlines()
    if not told or isinstance(error, pickle.UnpicklingError):
        told = [type(error).__name__]
    return f"{told[0][:200]}; fetch it again"
