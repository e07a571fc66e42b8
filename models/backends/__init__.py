"""Inference runtimes behind one Session: ONNX Runtime (default) and OpenVINO (an extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from ... import BackendUnavailable, MissingModelFile
from ..inference import Session

Backend = Literal["onnxruntime", "openvino"]


class Runtime(NamedTuple):
    """One runtime on one kind of device, for `facestream doctor`.

    backend, device: what to ask `open_session` for; version: of the package, empty when it is not
    installed; usable: a network really ran there; note: the provider that ran it, or what is
    missing and how to mend it.
    """

    backend: str
    device: str
    version: str
    usable: bool
    note: str


def open_session(
    model: Path | bytes,
    *,
    backend: Backend = "onnxruntime",
    device: str = "auto",
    threads: int = 0,
) -> Session:
    """Load a network.

    model: an ONNX file or its bytes; OpenVINO also reads .xml IR files (weights in the .bin next
    to it). device: auto, cpu, cuda, tensorrt (onnxruntime); auto, cpu, gpu (openvino). auto takes
    CUDA where it works and the CPU otherwise; a named device is taken or refused.
    threads: per network on the CPU; 0 takes the number of cores.
    The batch of the first dimension may change from call to call where the network allows it.

    Raises MissingModelFile; CorruptModelFile when it is not a whole network of a known format;
    BackendUnavailable when the package or the named device is not there.
    """
    if isinstance(model, Path) and not model.is_file():
        raise MissingModelFile(
            f"no model file {model}: bring the pack with `facestream models pull NAME`"
        )
    if backend == "onnxruntime":
        from .onnx_runtime import OnnxRuntimeSession

        return OnnxRuntimeSession(model, device=device, threads=threads)
    if backend == "openvino":
        from .open_vino import OpenVinoSession

        return OpenVinoSession(model, device=device, threads=threads)
    raise BackendUnavailable(f"backend must be onnxruntime or openvino, got {backend!r}")


def available() -> tuple[Runtime, ...]:
    """What this machine can run networks on, found by running one; the CPU entries come first."""
    from . import onnx_runtime, open_vino

    found = [*onnx_runtime.available(), *open_vino.available()]
    return tuple(sorted(found, key=lambda runtime: runtime.device != "cpu"))
