"""Both runtimes behind one Session: same numbers, threads, and errors that say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from facestream import BackendUnavailable, CorruptModelFile, MissingModelFile, ModelError
from facestream.models.backends import available, open_session

BACKENDS = ["onnxruntime", "openvino"]


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(0, 60, (count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def network(make_embedder) -> bytes:
    return make_embedder().SerializeToString()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_and_file_give_the_same_session(backend, network, tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(network)
    x = {"input": pictures(2)}
    from_file, from_bytes = (open_session(m, backend=backend) for m in (path, network))
    assert from_file.inputs == from_bytes.inputs == ("input",)
    assert from_file.outputs == from_bytes.outputs == ("embedding",)
    assert np.array_equal(from_file.run(x)["embedding"], from_bytes.run(x)["embedding"])
    assert from_file.provider == f"{backend} CPU"


def test_runtimes_agree_in_float32(network):
    one, other = (open_session(network, backend=b).run({"input": pictures(5)}) for b in BACKENDS)
    assert np.allclose(one["embedding"], other["embedding"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_batch_may_change_from_run_to_run(backend, network):
    session = open_session(network, backend=backend, threads=1)
    x = pictures(7)
    whole = session.run({"input": x})["embedding"]
    for count in (1, 3, 7):
        part = session.run({"input": x[:count]})["embedding"]
        assert np.allclose(part, whole[:count], rtol=1e-5, atol=1e-5)


def test_openvino_frees_a_batch_of_one(make_embedder):
    session = open_session(make_embedder(batch=1).SerializeToString(), backend="openvino")
    assert session.run({"input": pictures(4)})["embedding"].shape == (4, 6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_session_serves_many_threads(backend, network):
    """Every thread gets the result of its own input, and results outlive the next run."""
    session = open_session(network, backend=backend, threads=1)
    inputs = [np.full((1, 3, 8, 8), value, np.float32) for value in range(40)]
    alone = [session.run({"input": x})["embedding"] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: session.run({"input": x})["embedding"], inputs))
    assert np.allclose(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("broken", ["empty", "text", "truncated"])
def test_a_broken_file_is_named_in_one_line(backend, broken, network, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": network[:-40]}[broken])
    with pytest.raises(CorruptModelFile, match=r"broken\.onnx: expected a whole") as caught:
        open_session(path, backend=backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_bytes_are_refused(backend, network):
    for data in (b"", b"hello", network[:-40]):
        with pytest.raises(CorruptModelFile, match=f"{len(data)} bytes: expected a whole"):
            open_session(data, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_file_says_what_brings_it(backend, tmp_path):
    with pytest.raises(MissingModelFile, match="facestream models pull"):
        open_session(tmp_path / "absent.onnx", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_with_wrong_shapes_says_what_was_fed(backend, network):
    session = open_session(network, backend=backend)
    with pytest.raises(ModelError, match=r"failed on input \(1, 5, 8, 8\) float32"):
        session.run({"input": np.zeros((1, 5, 8, 8), np.float32)})


def test_unknown_names_are_refused(network):
    with pytest.raises(BackendUnavailable, match="got 'torch'"):
        open_session(network, backend="torch")
    for backend in BACKENDS:
        with pytest.raises(BackendUnavailable, match="got 'abacus'"):
            open_session(network, backend=backend, device="abacus")


def test_an_accelerator_is_taken_or_refused(network):
    """Whatever this machine has: a named device either runs, or the error says how to mend it."""
    for runtime in available():
        if runtime.usable:
            session = open_session(network, backend=runtime.backend, device=runtime.device)
            assert session.provider == runtime.note
        else:
            with pytest.raises(BackendUnavailable, match="install"):
                open_session(network, backend=runtime.backend, device=runtime.device)


def test_both_runtimes_are_usable_on_the_processor():
    usable = {(r.backend, r.device): r for r in available() if r.usable}
    for backend in BACKENDS:
        assert usable[backend, "cpu"].version


def test_openvino_absent_names_the_extra(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'facestream\[openvino\]'"):
        open_session(network, backend="openvino")
    absent = [runtime for runtime in available() if runtime.backend == "openvino"]
    assert absent and not any(runtime.usable for runtime in absent)


def test_openvino_is_imported_only_when_asked_for():
    code = (
        "import sys; from facestream.models.backends import open_session; "
        "assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_openvino_reports_to_nobody():
    """Its telemetry package, which sends a message when openvino is imported, is never loaded."""
    code = (
        "import sys, threading; from facestream.models.backends import available; "
        "assert any(r.backend == 'openvino' and r.usable for r in available()); "
        "assert 'openvino_telemetry' not in sys.modules; "
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


AFTERWARDS = """
import faulthandler, gc, signal, subprocess, sys
faulthandler.enable()
from facestream.models.backends import open_session
from facestream.models.backends.probe import tiny_network
first = open_session(tiny_network(), backend="openvino")
second = open_session(tiny_network(), backend="openvino")
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGALRM, lambda *_: print("handled"))
signal.setitimer(signal.ITIMER_REAL, 0.1)
subprocess.run(["sleep", "0.5"], check=True)
"""


def test_signals_are_handled_after_openvino_sessions_are_gone() -> None:
    """OpenVINO moves the stack of signal handlers: what it leaves must not be freed memory."""
    command = [sys.executable, "-c", AFTERWARDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
