"""Who computes cosines: all agree, and the measurement decides."""

import logging

import numpy as np
import pytest

from facestream.models import search_kernels
from facestream.models.search import SearchIndex
from facestream.models.search_kernels import (
    UNMEASURED,
    KernelChoice,
    choose_kernels,
    kernels,
    measure_kernels,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def nothing_chosen_yet(monkeypatch):
    monkeypatch.setattr(search_kernels, "_chosen", {})
    monkeypatch.setattr(search_kernels, "missing_gpu", lambda: "no GPU here")


@pytest.mark.parametrize("name", ["product", "rows", "faiss"])
@pytest.mark.parametrize("probes", [1, 3])
def test_every_kernel_gives_the_inner_products(name, probes):
    if name == "faiss":
        pytest.importorskip("faiss", reason="no FAISS: pip install 'facestream[faiss]'")
    draw = np.random.default_rng(0)
    keys, rows = unit(draw.standard_normal((probes, 33))), unit(draw.standard_normal((70, 33)))
    got = kernels()[name](keys, rows[5:])
    assert got.shape == (probes, 65) and got.dtype == np.float32
    np.testing.assert_allclose(got, keys.astype(np.float64) @ rows[5:].T, rtol=0, atol=1e-6)


def test_without_faiss_numpy_remains(monkeypatch):
    monkeypatch.setattr(search_kernels.importlib.util, "find_spec", lambda name: None)
    assert list(kernels()) == ["product", "rows"]


def test_the_quickest_is_chosen_for_each_size_of_batch(monkeypatch):
    """A clock that only calls of kernels move: 1 and 9 ms for one probe, 5 and 2 for several."""
    now = [0.0]

    def kernel(one: float, several: float):
        def run(probes, rows):
            now[0] += 1e-3 * (one if len(probes) == 1 else several)

        return run

    made = {"product": kernel(9, 2), "rows": kernel(1, 5)}
    monkeypatch.setattr(search_kernels, "kernels", lambda: made)
    monkeypatch.setattr(search_kernels.time, "perf_counter", lambda: now[0])
    choice = measure_kernels(np.zeros((100, 4), np.float32))
    assert (choice.few, choice.many, choice.rows) == ("rows", "product", 100)
    assert choice.seconds["rows"] == pytest.approx({1: 1e-3, 8: 5e-3})
    assert (choice.name(1), choice.name(2)) == ("rows", "product") and choice.on_cpu() == choice
    assert str(choice) == (
        "1 probe by rows (ms: product 9.00, rows 1.00); "
        "8 probes by product (ms: product 2.00, rows 5.00); on 100 rows"
    )


def test_it_is_measured_and_told_once_and_only_for_large_galleries(monkeypatch, caplog):
    monkeypatch.setattr("facestream.models.search_scan.MEASURED_FROM", 60)
    draw = np.random.default_rng(1)
    rows = unit(draw.standard_normal((60, 5)))
    with caplog.at_level(logging.INFO, "facestream.models.search_kernels"):
        methods = {SearchIndex(rows, np.arange(60)).method for _ in range(2)}
    choice = choose_kernels(rows)
    assert choice.rows == 60 and set(choice.seconds) == set(kernels())
    assert methods == {f"exact, float32: {choice}"}
    (line,) = [record.message for record in caplog.records]
    assert line == f"gallery search, 5 dimensions: {choice}"
    small = SearchIndex(rows[:59], np.arange(59), precision="int8")
    assert small.method == f"exact, int8: {UNMEASURED}" == "exact, int8: product (not measured)"


@pytest.mark.parametrize("few", sorted(kernels()))
def test_a_search_is_the_same_by_every_kernel(few, monkeypatch):
    draw = np.random.default_rng(2)
    rows = unit(draw.standard_normal((5000, 24)))
    probes = unit(rows[:6] + 0.3 * draw.standard_normal((6, 24)))
    for precision in ("float32", "bfloat16", "int8"):
        monkeypatch.undo()
        index = SearchIndex(rows, np.arange(5000), precision=precision)
        expected = index.search(probes, 4)
        monkeypatch.setattr(
            "facestream.models.search_scan.UNMEASURED", KernelChoice(few, few, {}, 0)
        )
        index = SearchIndex(rows, np.arange(5000), precision=precision)
        assert index.method.endswith(f": {few} (not measured)")
        assert index.search(probes, 4) == expected
        assert [index.search(probe[None], 4)[0] for probe in probes] == expected
