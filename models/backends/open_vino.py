"""OpenVINO sessions: ONNX files and OpenVINO IR, in float32 with low latency."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import BackendUnavailable, CorruptModelFile, ModelError
from . import Runtime
from .probe import describe_failure, runs, tiny_network

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

_DEVICES = {"auto": "CPU", "cpu": "CPU", "gpu": "GPU"}


class OpenVinoSession:
    """A network on OpenVINO. `run` may be called from several threads at once.

    Weights may be stored in half precision; sums are done in float32 (the CPU plug-in would take
    bfloat16 by itself where the processor has it, and embeddings would differ between machines).
    A first dimension of 1 is taken for the batch and made free.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    provider: str

    def __init__(self, model: Path | bytes, *, device: str = "auto", threads: int = 0) -> None:
        """Load; see `open_session`."""
        core = _core(_package())
        name = _choose(core, device)
        network = _read(core, model)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if name == "CPU" and threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(network, name, settings)
        except RuntimeError as error:
            if name != "CPU":  # a device of its own may lack an operator, a driver or memory
                raise BackendUnavailable(f"device {device}: {_explain(model, error)}") from error
            raise CorruptModelFile(_explain(model, error)) from error
        # Compiled ports may answer with an alias; those of the network keep the published names.
        self.inputs = tuple(port.get_any_name() for port in network.inputs)
        self.outputs = tuple(port.get_any_name() for port in network.outputs)
        self.provider = f"openvino {name}"
        # A request holds the buffers of one run, so every concurrent run needs its own.
        self._idle: list[openvino.InferRequest] = []
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; returns every output by name. Raises ModelError when the run fails."""
        with self._lock:
            request = self._idle.pop() if self._idle else None
        if request is None:
            request = self._compiled.create_infer_request()
        try:
            request.infer({name: np.ascontiguousarray(feed) for name, feed in feeds.items()})
            return {
                name: request.get_output_tensor(index).data.copy()
                for index, name in enumerate(self.outputs)
            }
        except RuntimeError as error:
            raise ModelError(describe_failure(feeds, error)) from error
        finally:
            with self._lock:
                self._idle.append(request)


def available() -> list[Runtime]:
    """One entry per device that `open_session` knows, each tried with a tiny network."""
    try:
        version = str(_package().__version__).split("-")[0]
    except BackendUnavailable as error:
        return [Runtime("openvino", "cpu", "", False, str(error))]
    return [_try(device, version) for device in ("cpu", "gpu")]


def _try(device: str, version: str) -> Runtime:
    try:
        session = OpenVinoSession(tiny_network(), device=device, threads=1)
    except BackendUnavailable as error:
        return Runtime("openvino", device, version, False, str(error))
    return Runtime("openvino", device, version, runs(session), session.provider)


@cache
def _core(ov: ModuleType) -> openvino.Core:
    """The process's one OpenVINO core, kept for good.

    Its CPU plug-in gives the thread that loads it another stack for signal handlers, and frees
    that stack with the core. Cores that come and go leave a stack behind that is gone: the next
    Ctrl-C would be a segmentation fault.
    """
    return ov.Core()


def _package() -> ModuleType:
    """Openvino, imported only when asked for: it is an extra and takes 0.4 s to import.

    Importing it sends a usage report to its maker through the package openvino_telemetry, whether
    or not anybody agreed. Cameras have no business doing that, so that package is hidden while
    openvino is imported for the first time; openvino then takes its own stand-in.
    """
    try:
        with _hidden("openvino_telemetry"):
            import openvino
    except ImportError as error:
        raise BackendUnavailable(
            "backend openvino needs the openvino package: pip install 'facestream[openvino]'"
        ) from error
    module: ModuleType = openvino
    return module


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make importing `name` fail inside the block, unless it has been imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _choose(core: openvino.Core, device: str) -> str:
    """OpenVINO's name of the device."""
    if device not in _DEVICES:
        raise BackendUnavailable(
            f"openvino knows the devices {', '.join(_DEVICES)}; got {device!r}"
        )
    present = {name.split(".")[0] for name in core.available_devices}
    if _DEVICES[device] not in present:
        raise BackendUnavailable(
            f"device {device}: openvino finds {', '.join(sorted(present))} here; take device cpu, "
            "or install the driver of the accelerator"
        )
    return _DEVICES[device]


def _read(core: openvino.Core, model: Path | bytes) -> openvino.Model:
    if isinstance(model, bytes) and not model:
        raise CorruptModelFile("0 bytes: expected a whole ONNX or OpenVINO network")
    try:
        network = core.read_model(model)
        shapes = {port.get_any_name(): port.get_partial_shape() for port in network.inputs}
        if any(shape[0].is_static and shape[0].get_length() == 1 for shape in shapes.values()):
            for shape in shapes.values():
                shape[0] = -1
            network.reshape(shapes)
    except RuntimeError as error:
        raise CorruptModelFile(_explain(model, error)) from error
    return network


def _explain(model: Path | bytes, error: Exception) -> str:
    name = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
    # The text starts with source locations of the library; what went wrong comes after them.
    told = [line for line in str(error).splitlines() if line and not line.startswith("Exception")]
    reason = " ".join(" ".join(told).split())[:200]
    return f"{name}: expected a whole ONNX or OpenVINO network, openvino says: {reason}"
