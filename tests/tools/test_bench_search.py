"""`facestream bench search`: what it measures, and its page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models import search_gpu, search_kernels, search_scan
from facestream.models.ida import Anchors
from facestream.models.search import SearchIndex
from facestream.models.search_rows import StoredRows
from facestream.tools import bench_search as bench
from facestream.tools.bench_search_page import NAMES, page
from facestream.tools.cli import app

PAGE = Path(bench.__file__).parents[1] / "docs" / "benchmarks" / "search.md"


@pytest.fixture(scope="module")
def gallery() -> bench.Gallery:
    return bench.make_gallery(bench.pack_anchors("omz"), 1500, np.random.default_rng(3))


def test_vectors_are_like_the_packs_embeddings(gallery: bench.Gallery) -> None:
    anchors = gallery.anchors.vectors
    assert gallery.vectors.shape == (1500, 256) and gallery.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(gallery.vectors, axis=1), 1, atol=1e-5)
    ours, theirs = np.cov(gallery.vectors.T), np.cov(anchors.T)
    largest = np.linalg.eigvalsh(ours)[-20:].sum(), np.linalg.eigvalsh(theirs)[-20:].sum()
    assert largest[0] == pytest.approx(largest[1], rel=0.25)
    real, made = bench.density_of(gallery.anchors), gallery.densities
    assert made.mean() == pytest.approx(real["mean"], rel=0.15)
    assert made.std() == pytest.approx(real["std"], rel=0.3)


def test_the_density_of_an_anchor_leaves_itself_out() -> None:
    three = Anchors(np.eye(4, dtype=np.float32)[:3], "three", k=1)
    assert bench.density_of(three) == {"mean": 0.0, "std": 0.0}


def test_probes_are_of_people_and_of_strangers(gallery: bench.Gallery) -> None:
    probes = bench.make_probes(gallery, 400, np.random.default_rng(0))
    nearest = (probes @ gallery.vectors.T).max(axis=1)
    known = (np.abs(probes @ gallery.vectors.T - bench.APART) < 1e-4).any(axis=1)
    assert 0.4 < known.mean() < 0.65 and (nearest[known] >= bench.APART - 1e-4).all()


def test_the_plain_way_finds_what_the_index_finds_by_cosine(gallery: bench.Gallery) -> None:
    probes = bench.make_probes(gallery, 9, np.random.default_rng(0))
    found = SearchIndex(gallery.vectors, np.arange(1500)).search(probes, bench.TOP)
    stored = StoredRows(gallery.vectors, np.arange(1500), "bfloat16")
    for rows, near in ((gallery.vectors, 1e-5), (stored, 3e-3)):
        scores, top = bench.search_plainly(rows, probes)
        for hits, some, columns in zip(found, scores, top, strict=True):
            assert [hit.score for hit in hits] == pytest.approx(list(some), abs=near)
            if rows is gallery.vectors:
                assert [hit.identity for hit in hits] == columns.tolist()


def test_ratios_are_of_the_same_repetition(monkeypatch) -> None:
    now = [0.0]

    def way(name, seconds):
        durations = iter([1.0, *seconds])  # one to warm up

        def search(probes):
            now[0] += next(durations)

        return bench.Way(name, "float32", search)

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench.time, "process_time", lambda: 2 * now[0] + 1)
    every = [way("plain", [1, 2, 4]), way("cosine", [2, 2, 2]), way("ida", [1, 4, 12])]
    rows = bench.measure_ways(every, [np.zeros((1, 2), np.float32)], 3)
    ida = rows[2]
    assert ida["seconds"] == {"median": 4, "low": 2.5, "high": 8}
    assert ida["to_plain"] == ida["cpu_to_plain"] == {"median": 2, "low": 1.5, "high": 2.5}
    assert ida["to_cosine"]["median"] == 2 and rows[0]["to_plain"]["median"] == 1


def test_times_of_wrong_answers_are_none(gallery: bench.Gallery) -> None:
    right = SearchIndex(gallery.vectors, np.arange(1500))
    wrong = SearchIndex(gallery.vectors, np.arange(1500)[::-1])
    probes = bench.make_probes(gallery, 2, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="a bug"):
        bench.check_same({"float32": right, "bfloat16": right, "int8": wrong}, probes)


def test_a_gpu_is_measured_where_there_is_one(gallery: bench.Gallery, monkeypatch) -> None:
    pytest.importorskip("torch", reason="no PyTorch: pip install 'facestream[train]'")
    monkeypatch.setattr(search_gpu, "_DRIVERS", ("no-such-driver",))
    assert search_gpu.gpu_words() == "no GPU here"
    indexes, _ = bench.make_indexes(gallery)
    assert not [one for one in indexes if one.endswith(bench.ON_GPU)]
    assert {way.name for way in bench.ways(gallery, indexes)} & {"ida_gpu", "cosine_gpu"} == set()
    monkeypatch.setattr(search_gpu, "_DRIVERS", ("null",))  # a device that is everywhere
    monkeypatch.setattr(search_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(search_scan, "MEASURED_FROM", 1000)
    monkeypatch.setattr(search_kernels, "_chosen", {})
    assert search_gpu.gpu_words().endswith(" on the CPU")
    indexes, built = bench.make_indexes(gallery)
    assert "8 probes by torch" in built["int8 on a GPU"]["method"]
    assert "torch" not in built["int8"]["method"]
    probes = bench.make_probes(gallery, 3, np.random.default_rng(0))
    bench.check_same(indexes, probes)
    rows = bench.measure_ways(bench.ways(gallery, indexes), [probes], 1)
    names = {(row["way"], row["precision"]) for row in rows}
    assert {("ida_gpu", name) for name in bench.PRECISIONS} <= names
    assert {way for way, _ in names} <= NAMES.keys()


def test_a_pack_without_anchors_is_named() -> None:
    with pytest.raises(ConfigError, match="'buffalo_l' has no anchors"):
        bench.pack_anchors("buffalo_l")


def test_the_command_prints_and_writes_what_it_measured(tmp_path: Path, monkeypatch) -> None:
    few = Anchors(bench.pack_anchors("open").vectors[:200], "few")
    monkeypatch.setattr(bench, "pack_anchors", lambda name: few)
    out = tmp_path / "deep" / "search.md"
    command = ["bench", "search", "--size", "1000", "--batch", "2", "--repeats", "2"]
    done = CliRunner().invoke(app, [*command, "--pack", "open", "--write", str(out), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    report["galleries"][0]["times"] = {2: report["galleries"][0]["times"]["2"]}  # as it was
    assert out.read_text(encoding="utf-8") == page(report)
    (gallery,) = report["galleries"]
    assert gallery["bytes"] == 1000 * few.vectors.shape[1] * 4
    by = {(row["way"], row["precision"]): row for row in gallery["times"][2]}
    assert by["plain", "float32"]["to_plain"]["median"] == 1
    assert {("ida", name) for name in bench.PRECISIONS} <= by.keys()
    assert gallery["indexes"]["int8"]["bytes"] < gallery["indexes"]["float32"]["bytes"] / 2
    text = out.read_text(encoding="utf-8")
    assert f"    {report['command']} --write docs/benchmarks/search.md\n" in text
    assert "## 1,000 vectors, 2 probes at once" in text
    assert "{" not in text and len(report["loads"]) == 2


def test_the_committed_page_is_whole_and_its_command_is_one() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("    facestream ")]
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command.make_context("search", list(words)).params["write"] == Path(*PAGE.parts[-3:])
    tables = text.split("\n\n|")[1:]
    assert len(tables) == text.count("\n## ")
    for table in tables:
        rows = table.split("\n\n")[0].splitlines()
        assert len({f"|{rows[0]}".count("|"), *(row.count("|") for row in rows[1:])}) == 1
