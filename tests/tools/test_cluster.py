"""`--cluster`: work spread over real Ray nodes, of which some are killed."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facestream import ConfigError, FacestreamError, MissingModelFile
from facestream.models.feature_store import (
    BLOCK,
    Features,
    FeatureStore,
    State,
    StoreKey,
    StoreLayout,
    create_store,
    fill_blocks,
    fill_store,
)
from facestream.models.pack import Pack
from facestream.tools.cluster import MOST_LOSSES, spread_over_cluster
from facestream.tools.eval_faces import EmbedOptions, FaceSet, FolderPictures, embed_faces
from facestream.tools.eval_sent import EmbedSent, card_mark, send_rows

BLOCKS = 8
COUNT = BLOCKS * BLOCK - 9
NAMES = [f"face/{number:04}.jpg" for number in range(COUNT)]
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_log_monitor": False}
PATIENCE = 100.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one CPU; the tests add nodes and remove them."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="fs-") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "100")  # many tests may run beside
        # Ray notes the address of the newest cluster in a folder that it takes for granted.
        patch.setenv("RAY_TMPDIR", folder)
        Path(folder, "ray").mkdir()
        from ray.cluster_utils import Cluster

        # Without what takes seconds to start and is of no use here.
        head = {**NODE, "include_dashboard": False, "no_monitor": True, "temp_dir": folder}
        running: Any = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield running
        finally:
            started = descendants_with("ray")
            running.shutdown()
            signal.signal(signal.SIGTERM, before)
        wait_until(lambda: not started & processes().keys(), "processes of Ray are left behind")


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it has just ended
            found[int(entry.name)] = int(parent), line
    return found


def descendants_with(text: str) -> set[int]:
    """Processes that this one started, or that those started, whose command line has the text."""
    everybody = processes()
    found, more = set(), {os.getpid()}
    while more:
        more = {pid for pid, (parent, _) in everybody.items() if parent in more}
        found |= more
    return {pid for pid in found if text in everybody[pid][1]}


def features_of(rows: range) -> Features:
    """What a pack would say: a function of the row alone."""
    vectors = np.array([np.random.default_rng(row).normal(size=10) for row in rows], np.float32)
    states = np.array([State.NO_FACE if row % 50 == 3 else State.EMBEDDED for row in rows], "u1")
    none = np.zeros((0, 8), np.float32)
    styles = np.zeros((len(rows), 0, 2), np.float32)
    return Features(states, vectors[:, :8], none, vectors[:, 8], vectors[:, 9], styles)


def plain() -> Callable[[range], Features]:
    return features_of


def same(rows: range) -> range:
    return rows


@dataclass(frozen=True)
class HangOn:
    """Every worker does one block. Then a worker on the doomed node never ends its second, and
    the others wait for that. Files in the folder tell who began what."""

    folder: Path
    doomed: str

    def __call__(self) -> Callable[[range], Features]:
        import ray

        node = ray.get_runtime_context().get_node_id()

        def compute(rows: range) -> Features:
            second = any(self.folder.glob(f"{node}-*"))
            (self.folder / f"{node}-{rows.start // BLOCK}-{os.getpid()}").touch()
            hanging = self.folder / "hanging"
            if second and node == self.doomed:
                hanging.touch()
                time.sleep(PATIENCE)
                raise AssertionError("this worker should have been killed with its node")
            if second:
                wait_until(hanging.exists, "the doomed node got no second block")
            return features_of(rows)

        return compute


@dataclass(frozen=True)
class Die:
    """The worker that computes this block is killed, each time."""

    block: int

    def __call__(self) -> Callable[[range], Features]:
        def compute(rows: range) -> Features:
            if rows.start == self.block * BLOCK:
                os.kill(os.getpid(), signal.SIGKILL)
            return features_of(rows)

        return compute


def no_pack() -> Callable[[range], Features]:
    raise MissingModelFile("pack 'open' needs open.onnx, which is not on this machine")


def bad_work() -> Callable[[range], Features]:
    def compute(rows: range) -> Features:
        raise ZeroDivisionError("in a block")

    return compute


def new_store(folder: Path) -> FeatureStore:
    return create_store(folder, StoreKey("tiny", "none", "00ff"), NAMES, StoreLayout(COUNT, 8))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    fill_store(new_store(tmp_path / "whole"), plain)
    return contents(tmp_path / "whole")


def test_work_that_kills_every_worker_ends_the_run_and_the_rest_is_kept(
    cluster: Any, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    store = new_store(tmp_path / "store")
    times = f"lost {MOST_LOSSES + 1} times .*kept; run the command again"
    with pytest.raises(FacestreamError, match=times):
        fill_blocks(store, lambda todo: spread_over_cluster(cluster.address, Die(2), same, todo))
    kept = [block for block in range(BLOCKS) if block not in store.pending()]
    assert {0, 1} <= set(kept) and 2 not in kept
    whole = np.load(tmp_path / "whole" / "embeddings.npy")
    for block in kept:
        rows = store.rows(block)
        np.testing.assert_array_equal(store.embeddings[rows], whole[rows])


def test_what_a_node_cannot_do_is_told_with_its_name(cluster: Any) -> None:
    def run(start: Callable[[], Callable[[range], Features]]) -> None:
        next(spread_over_cluster(cluster.address, start, same, {0: range(3)}))

    with pytest.raises(MissingModelFile, match=r"^node \S+: pack 'open' needs open.onnx"):
        run(no_pack)
    with pytest.raises(FacestreamError, match=r"^node \S+: ZeroDivisionError: in a block$"):
        run(bad_work)


def embed_command(pairs: Path, store: Path, address: str) -> list[str]:
    command = [sys.executable, "-m", "facestream.tools.cli", "evaluate", "verification", str(pairs)]
    return [*command, "--store", str(store), "--no-flip", "--resamples", "0", "--cluster", address]


def test_the_command_can_be_interrupted_leaves_nobody_behind_and_goes_on(
    cluster: Any, tmp_path: Path, open_models: Pack
) -> None:
    random = np.random.default_rng(3)
    noise = random.integers(0, 255, (12, 112, 112, 3), np.uint8)
    faces = [cv2.imencode(".png", face)[1].tobytes() for face in noise]
    pictures = [faces[place % 12] for place in range(3 * BLOCK - 4)]
    same_person = [place % 2 == 0 for place in range(len(pictures) // 2)]
    (tmp_path / "noise.bin").write_bytes(pickle.dumps((pictures, same_person)))
    store = tmp_path / "store"
    command = embed_command(tmp_path / "noise.bin", store, cluster.address)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        wait_until(lambda: (store / "store.json").is_file(), "the command began no store")
        wait_until(lambda: FeatureStore(store).faces_done() > 0, "no block was stored")
        busy = descendants_with("ray::_work_here")
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130 and told == b"" and busy
    wait_until(lambda: not busy & processes().keys(), "workers are left behind")
    assert not FeatureStore(store).complete
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    names = FeatureStore(store).names
    (tmp_path / "pictures").mkdir()
    for name, picture in zip(names, pictures, strict=True):
        (tmp_path / "pictures" / name.rpartition("/")[2]).write_bytes(picture)
    files = FolderPictures(tmp_path / "pictures", [name.rpartition("/")[2] for name in names])
    here = FaceSet("noise", names, files, "aligned")
    alone = embed_faces(here, EmbedOptions("open", store=tmp_path / "alone", workers=1), flip=False)
    assert contents(alone.folder) == contents(store)


def test_a_node_with_another_version_is_refused(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "facestream").mkdir()
    (tmp_path / "facestream" / "__init__.py").write_text('__version__ = "0.0.9"\n')
    environment = {"PYTHONPATH": str(tmp_path)}
    other = cluster.add_node(**NODE, env_vars=environment)
    try:
        with pytest.raises(ConfigError, match=r"^node .* has facestream 0\.0\.9, this machine has"):
            next(spread_over_cluster(cluster.address, plain, same, {0: range(3)}))
    finally:
        cluster.remove_node(other, allow_graceful=False)


def test_a_node_killed_in_the_middle_loses_and_doubles_nothing(
    cluster: Any, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    doomed = cluster.add_node(**NODE)
    (marks := tmp_path / "marks").mkdir()
    stored: list[int] = []

    def spread(blocks: Mapping[int, range]) -> Generator[tuple[int, Features], None, None]:
        start = HangOn(marks, doomed.node_id)
        for block, features in spread_over_cluster(cluster.address, start, same, blocks):
            stored.append(block)
            yield block, features
            if len(stored) == 2:
                wait_until((marks / "hanging").exists, "the doomed node got no second block")
                cluster.remove_node(doomed, allow_graceful=False)

    store = new_store(tmp_path / "store")
    fill_blocks(store, spread)
    assert sorted(stored) == list(range(BLOCKS))
    assert contents(store.folder) == undisturbed
    begun = [path.name.split("-") for path in marks.glob("*-*")]
    lost = [block for node, block, _ in begun if node == doomed.node_id]
    assert len(lost) == 2 and len(begun) == BLOCKS + 1  # one was handed out again, and once
    wait_until(
        lambda: not {int(pid) for _, _, pid in begun} & processes().keys(),
        "workers are left behind",
    )


def test_pictures_go_along_with_their_rows_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    for name in "abd":
        (tmp_path / name).write_bytes(name.encode())
    landmarks = np.arange(40, dtype=np.float32).reshape(4, 5, 2)
    scores = np.arange(4, dtype=np.float32)
    pictures = FolderPictures(tmp_path, list("abcd"))
    faces = FaceSet("four", list("abcd"), pictures, "landmarks", landmarks, scores)
    sent = pickle.loads(pickle.dumps(send_rows(faces, range(1, 4))))
    assert sent.names == ["b", "c", "d"] and sent.alignment == "landmarks"
    assert sent.pictures.read(0) == b"b" and sent.pictures.read(2) == b"d"
    with pytest.raises(OSError, match="picture 1"):
        sent.pictures.read(1)
    np.testing.assert_array_equal(sent.landmarks, landmarks[1:])
    np.testing.assert_array_equal(sent.detector, scores[1:])


def test_a_node_refuses_to_embed_with_another_pack_of_the_same_name(open_models: Pack) -> None:
    card = open_models.card
    stricter = replace(card, detector=replace(card.detector, score=0.9))
    told = replace(card, description="The same networks in other words.")
    assert card_mark(stricter) != card_mark(card) == card_mark(told)
    with pytest.raises(ConfigError, match="pack open is not the one on the machine of the command"):
        EmbedSent("open", "onnxruntime", card_mark(stricter), flip=False, styles=False)()


def run_at(address: str) -> None:
    next(spread_over_cluster(address, plain, same, {0: range(3)}, patience=1.0))


@pytest.mark.parametrize("address", ["auto", "local", "ray://head:10001", "head", "head:ray", ""])
def test_only_the_address_of_a_running_cluster_is_taken(address: str) -> None:
    with pytest.raises(ConfigError, match="--cluster must be HOST:PORT of a running cluster's"):
        run_at(address)


def test_an_address_without_a_cluster_is_an_error_within_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ConfigError, match="nothing answered within 1 s"):
            run_at(f"127.0.0.1:{port}")
    with pytest.raises(
        ConfigError, match=f":{port}: no Ray cluster can be joined there .*refused.*ray start"
    ):
        run_at(f"127.0.0.1:{port}")


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'facestream\[cluster\]'"):
        run_at("127.0.0.1:6379")


def test_workers_and_a_cluster_exclude_each_other(tmp_path: Path, open_models: Pack) -> None:
    faces = FaceSet("one", ["a"], FolderPictures(tmp_path, ["a"]), "aligned")
    options = EmbedOptions("open", store=tmp_path / "s", workers=2, skip_bad=True, cluster="h:1")
    with pytest.raises(ConfigError, match="--workers 2 counts processes of this machine"):
        embed_faces(faces, options, flip=False)
