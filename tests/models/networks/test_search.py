"""The search of a GPU, on PyTorch's CPU: the pairs that NumPy finds, and how it is left."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError
from facestream.models import search_gpu, search_kernels, search_layers, search_scan
from facestream.models.ida import Anchors, aligned_score
from facestream.models.search import SearchIndex
from facestream.models.search_kernels import GPU, UNMEASURED, KernelChoice, choose_kernels
from facestream.models.search_layers import LayeredIndex
from facestream.models.search_rows import StoredRows
from facestream.models.search_scan import ExactScan, no_bars
from facestream.models.search_versions import IndexVersions

torch = pytest.importorskip("torch", reason="no PyTorch: pip install 'facestream[train]'")
from facestream.models.networks import search as gpu  # noqa: E402

C = 12
PRECISIONS = ["float32", "bfloat16", "int8"]
CHOICE = KernelChoice(GPU, GPU, {GPU: {1: 1e-3, 8: 1e-3}, "product": {1: 2e-3, 8: 2e-3}}, 60)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(draw: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Unit vectors around a few centres, some twice, so that densities differ and scores tie."""
    centres = draw.standard_normal((4, C))
    which = draw.integers(0, 4, count)
    rows = unit(centres[which] + spread * draw.standard_normal((count, C)))
    if count > 3:
        rows[draw.integers(0, count, count // 4)] = rows[0]
    return rows


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose GPU is PyTorch's CPU, and the quickest for galleries of any size."""
    monkeypatch.setattr(search_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(search_kernels, "missing_gpu", lambda: "")
    monkeypatch.setattr(search_scan, "MEASURED_FROM", 1)
    monkeypatch.setattr(
        search_scan,
        "choose_kernels",
        lambda rows, device: UNMEASURED if device == "cpu" else CHOICE,
    )
    return monkeypatch


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 700),
    probes=st.sampled_from([1, 2, 7]),
    need=st.sampled_from([1, 3, 40, 1000]),
    tau=st.sampled_from([0.3, 1.0, 8.0, 64.0]),
    spread=st.sampled_from([0.05, 0.5, 2.0]),
    precision=st.sampled_from(PRECISIONS),
    held=st.sampled_from([1, 2000, 1 << 25]),
    away=st.sampled_from([0.0, 0.1, 0.9]),
    coarse=st.booleans(),
)
def test_the_best_of_exhaustive_scoring_are_found(
    seed, size, probes, need, tau, spread, precision, held, away, coarse
) -> None:
    """By IDA and by cosine, in one chunk and in many, with rows that are gone."""
    draw = np.random.default_rng(seed)
    anchors = Anchors(clustered(draw, 50, spread), "a", k=5, tau=tau)
    vectors = clustered(draw, size, spread)
    keys = np.concatenate([clustered(draw, probes, spread), vectors[:1]])
    densities = anchors.density(vectors)
    order = np.argsort(densities, kind="stable")
    gone = np.flatnonzero(draw.random(size) < away)
    left = np.setdiff1d(np.arange(size), gone)
    need = min(need, max(1, len(left)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_HELD", held)
        patch.setattr(gpu.DeviceScan, "_is_coarse", lambda self: coarse)
        rows = StoredRows(vectors, order, precision)
        scan = gpu.DeviceScan(rows, densities[order], tau=tau, device="cpu").without(gone)
        for own in (anchors.density(keys), None):
            found, bars = scan.scan(keys, own, no_bars(len(keys), need))
            pairs = found.reaching(bars)
            assert not np.isin(pairs.rows, gone).any()
            assert len({*zip(pairs.probes.tolist(), pairs.rows.tolist(), strict=True)}) == len(
                pairs.rows
            )
            cosines = (keys.astype(np.float64)[:, None] * vectors[order].astype(np.float64)).sum(2)
            scores = cosines
            if own is not None:
                scores = aligned_score(cosines, own[:, None], densities[order], tau=tau)
            for probe in range(len(keys)):
                mine = pairs.rows[pairs.probes == probe]
                if len(left):
                    bar = np.sort(scores[probe, left])[-need]
                    wanted = left[scores[probe, left] >= bar]
                    assert set(wanted.tolist()) <= set(mine.tolist())
                    assert (bars[probe] <= np.sort(scores[probe, left])[-need:]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("held", [300, 1 << 25])
def test_a_search_is_the_same_bit_for_bit(precision, held, on_torch) -> None:
    on_torch.setattr(gpu, "_HELD", held)
    draw = np.random.default_rng(1)
    anchors = Anchors(clustered(draw, 200, 0.5), "a")
    vectors, owners = clustered(draw, 1501, 0.5), draw.integers(0, 500, 1501)
    probes = np.concatenate([clustered(draw, 4, 0.5), vectors[:2]]) * np.float32(1.0009)
    with_torch = SearchIndex(vectors, owners, anchors=anchors, precision=precision)
    assert with_torch._finder._mirror is not None
    plain = SearchIndex(vectors, owners, anchors=anchors, precision=precision, device="cpu")
    assert plain._finder._mirror is None
    for by, k in (("ida", 1), ("ida", 40), ("cosine", 5), ("ida", 600)):
        expected = plain.search(probes, k, by=by)
        assert with_torch.search(probes, k, by=by) == expected
        assert [with_torch.search(one[None], k, by=by)[0] for one in probes] == [
            plain.search(one[None], k, by=by)[0] for one in probes
        ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_few_pairs_come_back(precision, on_torch) -> None:
    draw = np.random.default_rng(2)
    vectors = unit(draw.standard_normal((9000, 64)))
    probes = unit(vectors[:20] + 0.05 * draw.standard_normal((20, 64)))
    scan = ExactScan(vectors, np.arange(9000), np.zeros(9000), tau=1.0, precision=precision)
    assert scan._mirror is not None
    assert 20 <= len(scan.find(probes, None, 1).rows) < 40


def test_rows_that_stay_are_not_sent_again(on_torch) -> None:
    on_torch.setattr(search_layers, "SMALL", 10)
    sent = []

    class Noted(gpu.DeviceScan):
        def __init__(self, rows, densities, **options):
            sent.append(len(rows))
            super().__init__(rows, densities, **options)

    on_torch.setattr(gpu, "DeviceScan", Noted)
    draw = np.random.default_rng(3)
    vectors = clustered(draw, 500, 0.5)
    make = IndexVersions("int8")
    made = []
    for some in (np.arange(400), np.arange(3, 401), np.arange(2, 450)[::-1]):
        index = make(vectors[some], some, anchors=None, densities=None)
        assert isinstance(index, LayeredIndex)
        made.append((index, SearchIndex(vectors[some], some, device="cpu")))
    assert sent == [400, 1, 51]  # the third with the one row of the second
    for index, plain in made:
        assert index.search(vectors[:30], 7) == plain.search(vectors[:30], 7)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_memory_on_the_gpu_the_cpu_searches_and_the_log_says_why(
    precision, on_torch, caplog
) -> None:
    draw = np.random.default_rng(4)
    vectors = clustered(draw, 600, 0.5)
    plain = SearchIndex(vectors, np.arange(600), device="cpu")
    index = SearchIndex(vectors, np.arange(600), precision=precision)
    assert index.method.startswith(f"exact, {precision}: 1 probe by torch")

    def full(self, *_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.\nmore")

    on_torch.setattr(gpu.DeviceScan, "_cosines", full)
    with caplog.at_level(logging.WARNING, search_scan.__name__):
        found = [index.search(vectors[:9], 3) for _ in range(2)]
    assert found == [plain.search(vectors[:9], 3)] * 2
    (line,) = [record.message for record in caplog.records]
    assert line == (
        "600 rows are searched on the CPU from now on: CUDA out of memory. Tried to allocate 2 MiB."
    )
    assert index.method.startswith(f"exact, {precision}: 1 probe by product")
    caplog.clear()
    on_torch.setattr(gpu.DeviceScan, "_room", full)
    with caplog.at_level(logging.WARNING, search_scan.__name__):
        index = SearchIndex(vectors, np.arange(600), precision=precision)
    assert "searched on the CPU from now on: CUDA out of memory" in caplog.text
    assert index.search(vectors[:9], 3) == found[0]


def test_a_gpu_that_is_lost_between_two_versions_is_left(on_torch, caplog) -> None:
    on_torch.setattr(search_layers, "SMALL", 10)
    vectors = clustered(np.random.default_rng(7), 400, 0.5)
    make = IndexVersions()
    make(vectors, np.arange(400), anchors=None, densities=None)

    def lost(self, *_: object) -> None:
        raise RuntimeError("CUDA error: device is gone")

    on_torch.setattr(gpu.DeviceScan, "_send", lost)
    with caplog.at_level(logging.WARNING, search_scan.__name__):
        index = make(vectors[5:], np.arange(395), anchors=None, densities=None)
    assert "400 rows are searched on the CPU from now on: CUDA error: device" in caplog.text
    plain = SearchIndex(vectors[5:], np.arange(395), device="cpu")
    assert index.search(vectors[:30], 7) == plain.search(vectors[:30], 7)


@pytest.fixture
def measured(on_torch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    on_torch.setattr(search_kernels, "_chosen", {})
    return on_torch


def test_it_is_measured_beside_the_others(measured) -> None:
    rows = clustered(np.random.default_rng(5), 300, 0.5)
    choice = choose_kernels(rows)
    assert GPU in choice.seconds and choice.seconds.keys() == {*search_kernels.kernels(), GPU}
    forced = choose_kernels(rows, "cuda")
    assert (forced.few, forced.many) == (GPU, GPU) and forced.on_gpu
    assert GPU not in (forced.on_cpu().few, forced.on_cpu().many)
    assert GPU not in choose_kernels(rows, "cpu").seconds


def test_a_gpu_that_fails_in_the_measurement_is_told_and_not_chosen(measured, caplog) -> None:
    def lost(self, *_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    measured.setattr(gpu.DeviceScan, "_cosines", lost)
    rows = clustered(np.random.default_rng(5), 300, 0.5)
    with caplog.at_level(logging.WARNING, search_kernels.__name__):
        assert GPU not in choose_kernels(rows, "cuda").seconds
    assert "no GPU searches: CUDA error: unspecified launch failure" in caplog.text


def test_no_torch_is_imported_where_no_driver_of_a_gpu_is() -> None:
    code = (
        "import sys, numpy as np\n"
        "from facestream.models import search_gpu\n"
        "search_gpu._DRIVERS = ('no-such-driver',)\n"
        "from facestream.models.search_kernels import measure_kernels\n"
        "print(search_gpu.missing_gpu(), *measure_kernels(np.eye(9, dtype=np.float32)).seconds)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words, is_imported = done.stdout.splitlines()
    assert words.startswith("no GPU here product rows") and is_imported == "False"


def test_why_there_is_no_gpu(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(search_gpu, "_DRIVERS", ("null",))  # a device that is everywhere
    if not torch.cuda.is_available():
        assert search_gpu.missing_gpu() == "there is a GPU, but PyTorch cannot use it"
        with pytest.raises(ConfigError, match=r"match\.device: cuda .* PyTorch cannot use it"):
            search_gpu.require_gpu()
    with monkeypatch.context() as patch:
        patch.setattr(search_gpu.importlib.util, "find_spec", lambda name: None)
        assert search_gpu.missing_gpu() == "there is a GPU, but no PyTorch that could use it"
    monkeypatch.setattr(search_gpu, "DEVICE", "cpu")
    assert search_gpu.missing_gpu() == ""
    search_gpu.require_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert search_gpu.missing_gpu() == "no GPU here"


def test_products_of_fewer_bits_are_allowed_for(monkeypatch) -> None:
    rows = StoredRows(np.eye(3, dtype=np.float32), np.arange(3), "float32")
    scan = gpu.DeviceScan(rows, np.zeros(3), tau=1.0, device="cpu")
    monkeypatch.setattr(scan, "_device", torch.device("cuda"))  # nothing is computed there
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for word, is_coarse in (("ieee", False), ("tf32", True), (before, before == "tf32")):
            torch.backends.cuda.matmul.fp32_precision = word
            assert scan._is_coarse() is is_coarse
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu(precision, on_torch) -> None:
    on_torch.setattr(search_gpu, "DEVICE", "cuda")
    draw = np.random.default_rng(6)
    vectors = clustered(draw, 20_000, 0.5)
    anchors = Anchors(clustered(draw, 200, 0.5), "a")
    index = SearchIndex(vectors, np.arange(20_000), anchors=anchors, precision=precision)
    assert index._finder._mirror is not None
    plain = SearchIndex(vectors, np.arange(20_000), anchors=anchors, device="cpu")
    assert index.search(vectors[:50], 10) == plain.search(vectors[:50], 10)
