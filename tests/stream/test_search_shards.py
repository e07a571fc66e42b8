"""A gallery on two real Ray nodes: the answers of one index, whatever changes and whoever dies."""

from __future__ import annotations

import gc
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from multiprocessing import Pipe, active_children
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import ConfigError, GalleryError, RecordError
from facestream.configs.schema import MatchConfig
from facestream.models import search_gpu
from facestream.models.ida import Anchors
from facestream.models.search import Hit, SearchIndex
from facestream.models.search_versions import RowNumbers
from facestream.stream import ray_cluster, search_actor, search_lead
from facestream.stream.search_actor import Piece, Search, Shard, merge_hits
from facestream.stream.search_file import RowFile
from facestream.stream.search_lead import Change, Leader, Order, Step, _Actor
from facestream.stream.search_shards import ShardedGallery, ShardedIndex, Talk
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
DENSITIES = ANCHORS.density(VECTORS)
PROBES = unit(VECTORS[:20] + 0.1 * DRAW.standard_normal((20, C)))
KNOWN: dict[str, Any] = {"anchors": ANCHORS, "densities": DENSITIES}
NONE: dict[str, Any] = {"anchors": None, "densities": None}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and another node, one CPU each."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="fs-") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "100")  # many tests may run beside
        # Ray notes the address of the newest cluster in a folder that it takes for granted.
        patch.setenv("RAY_TMPDIR", folder)
        Path(folder, "ray").mkdir()
        from ray.cluster_utils import Cluster

        # Without what takes seconds to start and is of no use here.
        node = {"num_cpus": 1, "object_store_memory": ROOM, "include_log_monitor": False}
        head = {**node, "include_dashboard": False, "no_monitor": True, "temp_dir": folder}
        running: Any = Cluster(initialize_head=True, head_node_args=head)
        try:
            running.add_node(**node)
            yield running
        finally:
            running.shutdown()
            signal.signal(signal.SIGTERM, before)


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


def same(index: SearchIndex, whole: SearchIndex) -> None:
    own = ANCHORS.density(PROBES)
    for by, k in (("ida", 3), ("ida", 40), ("cosine", 3)):
        expected = whole.search(PROBES, k, by=by, densities=own)
        assert index.search(PROBES, k, by=by, densities=own) == expected


def test_two_nodes_answer_as_one_index_whatever_changes_and_whoever_is_lost(cluster: Any) -> None:
    others = shard_processes()
    make = ShardedGallery(cluster.address, patience=PATIENCE)
    whole = SearchIndex(VECTORS, OWNERS, **KNOWN)
    try:
        index = make(VECTORS, OWNERS, **KNOWN)
        assert sorted(index.placement().values()) == [1500, 1501]
        assert index.method == "exact, on 2 nodes of a Ray cluster (1,501, 1,500 vectors)"
        assert (index.identities, index.dimension) == (whole.identities, C)
        same(index, whole)
        # Others come and go, all owners change: what stays is not sent again, and whoever has
        # the version before sees it as it was.
        rows = np.r_[np.arange(5, 700), np.arange(900, COUNT)]
        added = unit(PROBES[:7] + 0.05)
        vectors, owners = np.concatenate([VECTORS[rows], added]), DRAW.integers(0, 500, 2803)
        sent: list[int] = []
        ask = make._talk.ask  # type: ignore[union-attr]

        def note(question: object) -> object:
            if isinstance(question, Piece):
                sent.append(len(question.numbers))
            return ask(question)

        make._talk.ask = note  # type: ignore[union-attr,method-assign]
        known = {
            "anchors": ANCHORS,
            "densities": np.concatenate([DENSITIES[rows], ANCHORS.density(added)]),
        }
        later, later_whole = make(vectors, owners, **known), SearchIndex(vectors, owners, **known)
        assert sent == [7]
        same(index, whole)
        same(later, later_whole)
        mine = shard_processes() - others
        assert len(mine) == 2
        os.kill(min(mine), signal.SIGKILL)
        same(later, later_whole)  # the search that meets the loss mends it
        same(index, whole)
        after = shard_processes() - others
        assert len(after) == 2 and len(after & mine) == 1
        del index
        gc.collect()
        assert sum(later.placement().values()) == 2803  # the rows of the other version are gone
        node = next(iter(cluster.worker_nodes))
        cluster.remove_node(node)
        same(later, later_whole)
        assert list(later.placement().values()) == [2803]
    finally:
        make.close()
    wait_until(lambda: not shard_processes() - others, "actors are left behind")
    with pytest.raises(GalleryError, match="was lost"):
        later.search(PROBES, 3)


def test_an_int8_gallery_without_anchors_and_its_child_that_is_killed(cluster: Any) -> None:
    plain = SearchIndex(VECTORS, OWNERS)
    make = index_maker(MatchConfig(cluster=cluster.address, precision="int8"))
    assert isinstance(make, ShardedGallery)
    with make:
        index = make(VECTORS, OWNERS, **NONE)
        assert isinstance(index, ShardedIndex)
        assert index.search(PROBES, 4) == plain.search(PROBES, 4)
        assert index.search(PROBES[:0], 4) == []
        with pytest.raises(RecordError, match="k = 0"):
            index.search(PROBES, 0)
        (child,) = (one for one in active_children() if one.name == "facestream-search")
        child.kill()  # as Ray does when the cluster's head is lost
        with pytest.raises(GalleryError, match=r"was lost \(exit code -9\).*ray status"):
            index.search(PROBES, 1)
        again = make(VECTORS, OWNERS, **NONE)  # the next version finds the cluster again
        assert again.search(PROBES, 4) == plain.search(PROBES, 4)


def test_a_wrong_address_is_told() -> None:
    for address in ("nowhere", "ray://host:1", "127.0.0.1:x"):
        with pytest.raises(ConfigError, match=r"must be HOST:PORT"):
            ShardedGallery(address)(VECTORS, OWNERS, **NONE)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match="no Ray cluster can be joined there"):
            ShardedGallery(address)(VECTORS, OWNERS, **NONE)


def test_an_interrupt_while_the_child_starts_leaves_none(monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", interrupt)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(KeyboardInterrupt):
            ShardedGallery(address)(VECTORS, OWNERS, **NONE)
    assert not [one for one in active_children() if one.name == "facestream-search"]


class Child:
    """Stands in for the child: answers each question by its number, when it may."""

    pid, exitcode = 1, 0

    def __init__(self) -> None:
        here, self.link = Pipe()
        self.may, self.heard, self.forgotten = threading.Event(), threading.Event(), []
        self.talk = Talk(here, self)  # type: ignore[arg-type]
        threading.Thread(target=self._answer, args=(self.link,), daemon=True).start()

    def _answer(self, link: Connection) -> None:
        count = 0
        while True:
            try:
                gone, question = link.recv()
            except EOFError:
                return
            if question == "end":
                link.close()
                return
            self.forgotten += gone
            self.heard.set()
            self.may.wait(PATIENCE)
            count += 1
            link.send(GalleryError("full") if question == "fail" else (question, count))

    def join(self, timeout: float | None = None) -> None:
        pass

    kill = is_alive = join


def test_whoever_is_interrupted_leaves_no_answer_to_the_next_one() -> None:
    child = Child()

    def interrupt() -> None:
        child.heard.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        child.talk.ask(Step(1))
    child.talk.forget(7)
    child.may.set()
    assert child.talk.ask(Step(2)) == (Step(2), 2)
    assert child.forgotten == [7]
    with pytest.raises(GalleryError, match="full"):
        child.talk.ask("fail")  # type: ignore[arg-type]
    assert child.talk.ask(None) == (None, 4)
    child.talk.close()
    child.talk.close()
    with pytest.raises(GalleryError, match="it was closed"):
        child.talk.ask(None)


def test_many_threads_get_their_own_answers() -> None:
    child = Child()
    child.may.set()
    got: dict[int, Any] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            got[number] = child.talk.ask(Step(number))[0]
            assert got[number] == Step(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert got == {number: Step(number) for number in range(5)}
    for question in ("end", None):  # it ends, and later ones learn it, too
        with pytest.raises(GalleryError, match="was lost"):
            child.talk.ask(question)  # type: ignore[arg-type]


def test_an_index_that_nobody_has_is_forgotten_and_a_gallery_that_nobody_has_ends() -> None:
    child = Child()
    child.may.set()
    options: Any = {"anchors": None, "precision": "float32", "device": "auto"}
    first, second = (ShardedIndex(child.talk, n, OWNERS, C, **options) for n in (1, 2))
    del first
    gc.collect()
    asked: Any = second.search(PROBES, 1)
    assert asked[0].version == 2
    assert child.forgotten == [1]
    ended = child.talk._end
    jobs = child.talk._jobs
    del child.talk, second
    gc.collect()
    assert not ended.alive
    wait_until(jobs.empty, "the thread that talks goes on")


class Lost(Exception):
    """Of an actor that has died."""


class Remote:
    """Stands in for an actor of Ray: does at once what it is told; a dead one answers nothing."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self.is_dead = shard, False

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


class Method(NamedTuple):
    """One method of an actor."""

    actor: Remote
    name: str

    def options(self, **_: object) -> Method:
        return self

    def remote(self, *args: Any) -> Callable[[], Any]:
        done = getattr(self.actor.shard, self.name)(*args)

        def answer() -> Any:
            if self.actor.is_dead:
                raise Lost
            return done

        return answer


class Nodes(Leader):
    """A leader of actors in this process."""

    def __init__(
        self, count: int, precision: Any, patch: pytest.MonkeyPatch, draw: np.random.Generator
    ) -> None:
        ray = pytest.importorskip("ray")
        super().__init__(Order("here:1", ANCHORS, C, precision, "cpu"))
        self._lost = (Lost,)
        self.nodes = [f"node{number}" for number in range(count)]

        def wait(answers: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
            return [answer for answer in answers if draw.random() < 0.6], []

        patch.setattr(ray, "put", lambda value: value)
        patch.setattr(ray, "kill", lambda handle: None)
        patch.setattr(ray, "get", lambda answer, timeout: answer())
        patch.setattr(ray, "wait", wait)

    def _free_nodes(self) -> Iterator[str]:
        yield from [node for node in self.nodes if node not in self._actors]

    def _start(self, node: str) -> None:
        self._actors[node] = _Actor(Remote(Shard(*self._order[1:])))


class Version(NamedTuple):
    """What a version must answer, and the numbers of its rows."""

    numbers: np.ndarray
    whole: SearchIndex

    def check(self, leader: Leader, version: int) -> None:
        own = ANCHORS.density(PROBES)
        expected = self.whole.search(PROBES, 5, densities=own)
        assert leader.answer(((), Search(version, PROBES, own, 5, "ida"))) == expected


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    nodes=st.integers(1, 4),
    changes=st.integers(1, 5),
    precision=st.sampled_from(["float32", "int8"]),
)
def test_every_version_stays_what_it_is_while_others_are_made_and_actors_die(
    seed, nodes, changes, precision
) -> None:
    draw = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facestream.models.search_layers.SMALL", 10)
        patch.setattr(search_lead, "_SENT", 40 * C)
        leader, numbering = Nodes(nodes, precision, patch, draw), RowNumbers(C)
        rows, held, made = draw.permutation(300)[:150], np.empty(0, np.int64), {}
        for version in range(1, changes + 1):
            stay = rows[draw.random(len(rows)) < draw.choice([0.4, 0.95])]
            others = np.setdiff1d(np.arange(300), stay)
            rows = draw.permutation(np.concatenate([stay, draw.permutation(others)[:20]]))
            numbers = numbering.give(VECTORS[rows], DENSITIES[rows])
            new = ~np.isin(numbers, held)
            leader.answer(((), Piece(numbers[new], VECTORS[rows[new]], DENSITIES[rows[new]])))
            owners = draw.integers(0, 90, len(rows))
            leader.answer(((), Change(version, numbers, owners)))
            while not leader.answer(((), Step(version))):
                if draw.random() < 0.1 and leader._actors:
                    some = [*leader._actors.values()][int(draw.integers(len(leader._actors)))]
                    some.handle.is_dead = True
                    leader._losses = 0
                if made and draw.random() < 0.2:
                    made[version - 1].check(leader, version - 1)
            whole = SearchIndex(VECTORS[rows], owners, anchors=ANCHORS, densities=DENSITIES[rows])
            made[version], held = Version(numbers, whole), numbers
            gone = tuple(one for one in made if one < version - 1 or draw.random() < 0.2)
            gone = tuple(one for one in gone if one != version)
            for one in gone:
                made.pop(one)
            leader.answer((gone, None))
            for one, what in made.items():
                what.check(leader, one)
        live = np.unique(np.concatenate([what.numbers for what in made.values()]))
        there = np.concatenate([actor.numbers for actor in leader._actors.values()])
        assert np.array_equal(np.sort(there), live)
        assert np.isin(live, leader._rows.numbers).all()
        for actor in leader._actors.values():
            assert actor.handle.shard._indexes.keys() == made.keys()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Two actors that hold a version."""
    leader = Nodes(2, "float32", monkeypatch, np.random.default_rng(0))
    leader.answer(((), Piece(np.arange(100), VECTORS[:100], DENSITIES[:100])))
    leader.answer(((), Change(1, np.arange(100), OWNERS[:100])))
    while not leader.answer(((), Step(1))):
        pass
    return leader


def test_what_kills_every_actor_ends(two: Nodes) -> None:
    class Deadly(Remote):
        is_dead = property(lambda self: True, lambda self, value: None)  # type: ignore[assignment]

    def start(node: str) -> None:
        two._actors[node] = _Actor(Deadly(Shard(*two._order[1:])))

    two._start = start  # type: ignore[method-assign]
    for actor in two._actors.values():
        actor.handle.is_dead = True
    with pytest.raises(GalleryError, match="were lost 6 times in a row: look at the memory"):
        two.answer(((), Search(1, PROBES, None, 3, "cosine")))


def test_an_actor_that_hangs_counts_as_lost(two: Nodes, monkeypatch) -> None:
    ray = pytest.importorskip("ray")
    two.answer(((), Change(2, np.arange(50), OWNERS[:50])))
    with monkeypatch.context() as patch:
        patch.setattr(ray, "wait", lambda answers, **_: ([], answers))
        patch.setattr(search_lead, "ANSWER_SECONDS", -1.0)
        two.answer(((), Step(2)))
        before = set(two._actors)
        two.answer(((), Step(2)))
        assert before - set(two._actors) and two._waiting[0].since == 0
    while not two.answer(((), Step(2))):
        pass
    whole = SearchIndex(VECTORS[:50], OWNERS[:50])
    found = two.answer(((), Search(2, PROBES, None, 3, "cosine")))
    assert found == whole.search(PROBES, 3)


def test_a_cluster_without_nodes_is_told(two: Nodes, monkeypatch) -> None:
    monkeypatch.setattr(search_lead, "EMPTY_SECONDS", 0.0)
    two.nodes.clear()
    for actor in two._actors.values():
        actor.handle.is_dead = True
    with pytest.raises(GalleryError, match=r"no node that computes .*ray start --address=here:1"):
        two.answer(((), Search(1, PROBES, None, 3, "cosine")))


def test_what_a_node_says_is_told(two: Nodes, monkeypatch) -> None:
    ray = pytest.importorskip("ray")

    def fail(*_: object, **__: object) -> None:
        raise ray.exceptions.RayTaskError("search", "text", GalleryError("no room on the node"))

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(GalleryError, match=r"^no room on the node"):
        two.answer(((), Search(1, PROBES, None, 3, "cosine")))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_node_that_does_not_fit_is_refused_each_time(monkeypatch, device) -> None:
    ray = pytest.importorskip("ray")
    killed: list[object] = []

    def remote(**_: object) -> Callable[..., Any]:
        def make(shard: type[Shard]) -> Any:
            made = SimpleNamespace(remote=lambda *order: Remote(shard(*order)))
            return SimpleNamespace(options=lambda **_: made)

        return make

    monkeypatch.setattr(search_actor, "__version__", "0.0.9")
    monkeypatch.setattr(search_gpu, "_DRIVERS", ("no-such-driver",))
    leader = Leader(Order("here:1", None, C, "float32", device))
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(leader, "_free_nodes", lambda: ["ab" * 28])
    told = {"cpu": r"has facestream 0\.0\.9, this machine", "cuda": "needs a GPU"}[device]
    for _ in range(2):
        with pytest.raises(ConfigError, match=told):
            leader.step()
    assert len(killed) == 2 and not leader._actors


@pytest.mark.parametrize("name", ["GetTimeoutError", "ActorUnschedulableError", "NodeDiedError"])
def test_rows_of_an_actor_whose_node_is_gone_wait_for_another(monkeypatch, name) -> None:
    ray = pytest.importorskip("ray")

    def fail(*_: object, **__: object) -> None:
        raise getattr(ray.exceptions, name)("gone")

    monkeypatch.setattr(ray, "get", fail)
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    leader = Leader(Order("127.0.0.1:1", None, C, "float32", "auto"))
    leader._actors["node"] = _Actor("handle", np.arange(3, 9))
    assert leader._get("node", "answer") is None
    ((numbers, since),) = leader._waiting
    assert numbers.tolist() == list(range(3, 9)) and since == 0 and not leader._actors
    assert killed == ["handle"]


def test_rows_in_a_file_are_taken_by_number_and_dropped_when_few_are_needed(
    monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = RowFile(C)
    file.add(Piece(np.arange(10, 40), VECTORS[:30], DENSITIES[:30]))
    file.add(Piece(np.arange(35, 45), VECTORS[25:35], DENSITIES[25:35]))  # half of them again
    assert file.numbers.tolist() == list(range(10, 45)) and list(tmp_path.iterdir()) == []
    for _ in range(2):
        some = file.take(np.array([44, 12]))
        np.testing.assert_array_equal(some.vectors, VECTORS[[34, 2]])
        np.testing.assert_array_equal(some.densities, DENSITIES[[34, 2]])
        file.forget(np.array([12, 30, 44]))
        assert file.numbers.tolist() == [12, 30, 44]
    assert file.take(np.empty(0, np.int64)).vectors.shape == (0, C)


def test_a_full_disk_is_told_and_the_rows_that_are_there_stay(monkeypatch) -> None:
    file = RowFile(C)
    file.add(Piece(np.arange(9), VECTORS[:9], DENSITIES[:9]))
    whole = file._file
    file._file = FileIO("/dev/full", "r+")  # type: ignore[assignment]
    with pytest.raises(GalleryError, match=r"needs 0 MB .* No space left .*; free some space"):
        file.add(Piece(np.arange(9, 19), VECTORS[9:19], DENSITIES[9:19]))
    file._file.close()
    file._file = whole
    file.add(Piece(np.arange(9, 12), VECTORS[9:12], DENSITIES[9:12]))
    np.testing.assert_array_equal(file.take(np.arange(12)).vectors, VECTORS[:12])
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(GalleryError, match="No such file or directory; free some"):
        RowFile(C)


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'facestream\[cluster\]'"):
        ShardedGallery("127.0.0.1:1")(VECTORS, OWNERS, **NONE)


def test_wrong_arrays_are_refused() -> None:
    make = ShardedGallery("127.0.0.1:1")
    with pytest.raises(RecordError, match="owners"):
        make(VECTORS, OWNERS[1:], **NONE)
    with pytest.raises(RecordError, match="unit vectors"):
        make(2 * VECTORS, OWNERS, **NONE)


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
