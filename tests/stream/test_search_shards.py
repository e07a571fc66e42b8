"""A gallery on two real Ray nodes: the answers of one index, whoever dies."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, GalleryError, RecordError
from facestream.configs.schema import MatchConfig
from facestream.models.ida import Anchors
from facestream.models.search import Hit, SearchIndex
from facestream.stream import ray_cluster, search_shards
from facestream.stream.search_lead import Leader, Order, Piece, _Actor, lead, merge_hits
from facestream.stream.search_shards import ShardedIndex
from facestream.stream.searching import index_maker

C, COUNT = 24, 3001
ROOM = 80 << 20
PATIENCE = 100.0


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


DRAW = np.random.default_rng(0)
CENTRES = DRAW.standard_normal((30, C))
VECTORS = unit(CENTRES[DRAW.integers(0, 30, COUNT)] + DRAW.standard_normal((COUNT, C)))
VECTORS[COUNT - 40 :] = VECTORS[:40]  # ties between the shards
OWNERS = DRAW.integers(0, 900, COUNT)  # people with rows in several
ANCHORS = Anchors(unit(CENTRES[DRAW.integers(0, 30, 99)] + DRAW.standard_normal((99, C))), "a")
PROBES = unit(VECTORS[:20] + 0.1 * DRAW.standard_normal((20, C)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node, one CPU each."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="fs-") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray notes the address of the newest cluster in a folder that it takes for granted.
        patch.setenv("RAY_TMPDIR", folder)
        Path(folder, "ray").mkdir()
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": ROOM}
        head = {**node, "include_dashboard": False, "temp_dir": folder}
        running: Any = Cluster(initialize_head=True, head_node_args=head)
        try:
            running.add_node(**node)
            yield running
        finally:
            running.shutdown()
            signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def whole() -> SearchIndex:
    return SearchIndex(VECTORS, OWNERS, anchors=ANCHORS)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def shard_processes() -> set[int]:
    """Ray's workers that hold a shard, of whatever cluster this user runs here."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"ray::Shard" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue  # it has just ended
    return found


def same(index: ShardedIndex, whole: SearchIndex) -> None:
    own = ANCHORS.density(PROBES)
    for by, k in (("ida", 3), ("ida", 40), ("cosine", 3)):
        expected = whole.search(PROBES, k, by=by, densities=own)
        assert index.search(PROBES, k, by=by, densities=own) == expected


def test_two_nodes_answer_as_one_index_and_rows_move_when_an_actor_or_a_node_is_lost(
    cluster: Any, whole: SearchIndex
) -> None:
    others = shard_processes()
    index = ShardedIndex(
        VECTORS, OWNERS, address=cluster.address, anchors=ANCHORS, patience=PATIENCE
    )
    try:
        assert sorted(index.placement().values()) == [1500, 1501]
        assert index.method == "exact, on 2 nodes of a Ray cluster (1,501, 1,500 vectors)"
        assert (index.identities, index.dimension) == (whole.identities, C)
        same(index, whole)
        mine = shard_processes() - others
        assert len(mine) == 2
        os.kill(min(mine), signal.SIGKILL)
        same(index, whole)  # the search that meets the loss mends it
        after = shard_processes() - others
        assert len(after) == 2 and len(after & mine) == 1
        assert sorted(index.placement().values()) == [1500, 1501]
        node = next(iter(cluster.worker_nodes))
        cluster.remove_node(node)
        same(index, whole)
        assert list(index.placement().values()) == [COUNT]
    finally:
        index.close()
    wait_until(lambda: not shard_processes() - others, "actors are left behind")
    with pytest.raises(GalleryError, match="was lost"):
        index.search(PROBES, 3)


def test_an_int8_gallery_without_anchors(cluster: Any) -> None:
    plain = SearchIndex(VECTORS, OWNERS)
    make = index_maker(MatchConfig(cluster=cluster.address, precision="int8"))
    index = make(VECTORS, OWNERS, anchors=None, densities=None)
    assert isinstance(index, ShardedIndex)
    try:
        assert index.search(PROBES, 4) == plain.search(PROBES, 4)
        assert index.search(PROBES[:0], 4) == []
        with pytest.raises(RecordError, match="k = 0"):
            index.search(PROBES, 0)
    finally:
        index.close()


def test_no_file_of_the_gallery_is_left(cluster: Any, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    index = ShardedIndex(VECTORS[:9], OWNERS[:9], address=cluster.address, patience=PATIENCE)
    try:
        assert list(tmp_path.glob("facestream-*")) == []
        assert len(index.search(PROBES, 1)) == 20
        (child,) = (one for one in active_children() if one.name == "facestream-search")
        child.kill()  # as Ray does when the cluster's head is lost
        with pytest.raises(GalleryError, match=r"was lost \(exit code -9\).*ray status"):
            index.search(PROBES, 1)
    finally:
        index.close()
    assert list(tmp_path.glob("facestream-*")) == []


def test_a_wrong_address_is_told_and_nothing_is_left(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for address in ("nowhere", "ray://host:1", "127.0.0.1:x"):
        with pytest.raises(ConfigError, match=r"must be HOST:PORT"):
            ShardedIndex(VECTORS, OWNERS, address=address)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no Ray cluster can be joined there"):
            ShardedIndex(VECTORS, OWNERS, address=address)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_is_left(monkeypatch, tmp_path: Path) -> None:
    def full(file: Path, array: np.ndarray) -> None:
        file.write_bytes(b"some")
        raise OSError("72024 requested and 4 written")  # as NumPy says it

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(np, "save", full)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GalleryError, match=r"0 MB for temporary files .*written; free some"):
            ShardedIndex(VECTORS, OWNERS, address=address)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_by_a_child_that_comes_no_further_than_ray(
    monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    folder = search_shards._save(Piece(VECTORS, OWNERS, np.zeros(COUNT)))
    assert list(tmp_path.iterdir()) == [folder]
    here, there = Pipe()
    with here, there, pytest.raises(ImportError):
        lead(there, Order("127.0.0.1:1", folder, None, "float32"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["multiprocessing.context.SpawnProcess.start", "numpy.save"])
def test_no_file_is_left_where_no_child_is_started(monkeypatch, tmp_path: Path, broken) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(broken, interrupt)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(KeyboardInterrupt):
            ShardedIndex(VECTORS, OWNERS, address=address)
    gc.collect()  # the index, which the interrupt's traceback held
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["GetTimeoutError", "ActorUnschedulableError", "NodeDiedError"])
def test_rows_of_an_actor_whose_node_is_gone_are_homeless(monkeypatch, name) -> None:
    ray = pytest.importorskip("ray")

    def fail(*_: object, **__: object) -> None:
        raise getattr(ray.exceptions, name)("gone")

    monkeypatch.setattr(ray, "get", fail)
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    rows = Piece(VECTORS[:0], OWNERS[:0], np.zeros(0))
    leader = Leader(rows, Order("127.0.0.1:1", Path(), None, "float32"))
    leader._homeless = []
    leader._actors["node"] = _Actor("handle", [range(3, 9)])
    assert leader._get("node", "answer") is None
    assert leader._homeless == [range(3, 9)] and leader.placement() == {}
    assert killed == ["handle"]


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'facestream\[cluster\]'"):
        ShardedIndex(VECTORS, OWNERS, address="127.0.0.1:1")


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(RecordError, match="owners"):
        ShardedIndex(VECTORS, OWNERS[1:], address="127.0.0.1:1")
    with pytest.raises(RecordError, match="unit vectors"):
        ShardedIndex(2 * VECTORS, OWNERS, address="127.0.0.1:1")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 6), k=st.integers(1, 30))
def test_the_best_of_all_parts_are_the_best_of_the_whole(seed, parts, k) -> None:
    draw = np.random.default_rng(seed)
    vectors = VECTORS[draw.integers(0, COUNT, 60)]  # some of them twice: ties
    owners, probes = draw.integers(0, 25, 60), PROBES[draw.integers(0, 20, 3)]
    own, densities = ANCHORS.density(probes), ANCHORS.density(vectors)

    def search(rows: np.ndarray) -> list[tuple[Hit, ...]]:
        index = SearchIndex(vectors[rows], owners[rows], anchors=ANCHORS, densities=densities[rows])
        return index.search(probes, k, densities=own)

    found = [search(rows) for rows in np.array_split(draw.permutation(60), parts)]
    assert merge_hits(found, 3, k) == search(np.arange(60))


def test_merged_hits_by_hand() -> None:
    one = [(Hit(4, 0.9, 0.8), Hit(7, 0.5, 0.4))]
    other = [(Hit(2, 0.9, 0.7), Hit(7, 0.6, 0.3), Hit(4, 0.1, 0.1))]
    assert merge_hits([one, other], 1, 3) == [
        (Hit(2, 0.9, 0.7), Hit(4, 0.9, 0.8), Hit(7, 0.6, 0.3))
    ]
    assert merge_hits([one, other], 1, 1) == [(Hit(2, 0.9, 0.7),)]
    assert merge_hits([], 2, 1) == [(), ()]
