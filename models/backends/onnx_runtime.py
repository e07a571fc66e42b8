"""ONNX Runtime sessions: CPU, CUDA and TensorRT providers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]

from ... import BackendUnavailable, CorruptModelFile, ModelError
from . import Runtime
from .probe import describe_failure, runs, tiny_network

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
_NAMES = {
    "CPUExecutionProvider": "onnxruntime CPU",
    "CUDAExecutionProvider": "onnxruntime CUDA",
    "TensorrtExecutionProvider": "onnxruntime TensorRT",
}
_FATAL_ONLY = 4
# Both packages write the same folder, and the plain one comes with facestream.
_INSTALL_GPU = (
    "install CUDA and cuDNN, then `pip uninstall -y onnxruntime` and `pip install "
    "--force-reinstall --no-deps onnxruntime-gpu`, or take device cpu"
)


class OnnxRuntimeSession:
    """A network on ONNX Runtime. `run` may be called from several threads at once."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    provider: str

    def __init__(self, model: Path | bytes, *, device: str = "auto", threads: int = 0) -> None:
        """Load; see `open_session`."""
        wanted = _choose(device)
        self._session = _load(model, wanted, threads)
        taken = self._session.get_providers()[0]
        if device != "auto" and taken != wanted[0]:
            raise BackendUnavailable(
                f"device {device} was asked for, onnxruntime fell back to {taken}: {_INSTALL_GPU}"
            )
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self.provider = _NAMES.get(taken, f"onnxruntime {taken}")

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; returns every output by name. Raises ModelError when the run fails."""
        try:
            results = self._session.run(self.outputs, dict(feeds))
        except Exception as error:
            if _is_runtime_error(error):
                raise ModelError(describe_failure(feeds, error)) from error
            raise
        return dict(zip(self.outputs, results, strict=True))


def available() -> list[Runtime]:
    """One entry per device that `open_session` knows, each tried with a tiny network."""
    return [_try(device) for device in _PROVIDERS]


def _try(device: str) -> Runtime:
    try:
        session = OnnxRuntimeSession(tiny_network(), device=device, threads=1)
    except BackendUnavailable as error:
        return Runtime("onnxruntime", device, ort.__version__, False, str(error))
    return Runtime("onnxruntime", device, ort.__version__, runs(session), session.provider)


def _choose(device: str) -> tuple[str, ...]:
    """Providers to ask for, best first."""
    built_in = ort.get_available_providers()
    if device == "auto":
        return _PROVIDERS["cuda" if "CUDAExecutionProvider" in built_in else "cpu"]
    if device not in _PROVIDERS:
        raise BackendUnavailable(
            f"onnxruntime knows the devices auto, {', '.join(_PROVIDERS)}; got {device!r}"
        )
    providers = _PROVIDERS[device]
    if providers[0] not in built_in:
        raise BackendUnavailable(
            f"device {device}: the installed onnxruntime {ort.__version__} is built without "
            f"{providers[0]}; {_INSTALL_GPU}"
        )
    return tuple(provider for provider in providers if provider in built_in)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    # Waiting threads must sleep: decoders, trackers and other networks want the same cores.
    # Measured on two cores beside a decoding thread: 24 to 40 % more decoded frames and a
    # network that is 13 to 30 % faster than with spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(model: Path | bytes, providers: tuple[str, ...], threads: int) -> ort.InferenceSession:
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return ort.InferenceSession(source, _options(threads), providers=list(providers))
    except Exception as error:
        if _is_runtime_error(error):
            raise CorruptModelFile(_explain(model, error)) from error
        raise


def _is_runtime_error(error: Exception) -> bool:
    """Whether onnxruntime itself complains; its exceptions share no base class but Exception."""
    return type(error).__module__.startswith("onnxruntime")


def _explain(model: Path | bytes, error: Exception) -> str:
    name = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
    reason = " ".join(str(error).split())[:200]
    return f"{name}: expected a whole ONNX network, onnxruntime says: {reason}"
