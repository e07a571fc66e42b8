"""What a configuration searches with."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from facestream import ConfigError
from facestream.configs.schema import MatchConfig
from facestream.models import search_approximate, search_gpu
from facestream.models.search import SearchIndex
from facestream.models.search_approximate import ApproximateIndex
from facestream.models.search_layers import LayeredIndex
from facestream.stream import ray_cluster
from facestream.stream.gallery import Gallery
from facestream.stream.known import KnownPeople
from facestream.stream.searching import index_maker

EYE = np.eye(6, dtype=np.float32)


def made(config: MatchConfig) -> SearchIndex:
    return index_maker(config)(EYE, np.arange(6), anchors=None, densities=None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_exact_search_at_the_precision_that_is_set(precision) -> None:
    index = made(MatchConfig(precision=precision))
    assert type(index) is LayeredIndex and index.method.startswith(f"exact, {precision}: ")
    assert [hits[0].identity for hits in index.search(EYE, 1)] == list(range(6))


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(search_gpu, "_DRIVERS", ("no-such-driver",))
    with pytest.raises(ConfigError, match=r"match\.device: cuda needs a GPU .* but no GPU here"):
        index_maker(MatchConfig(device="cuda"))
    assert made(MatchConfig(device="cpu")).search(EYE[:1], 1)[0][0].identity == 0


def test_approximate_search() -> None:
    pytest.importorskip("faiss", reason="no FAISS: pip install 'facestream[faiss]'")
    assert type(made(MatchConfig(search="approximate"))) is ApproximateIndex


@pytest.mark.parametrize("more", [{"precision": "int8"}, {"cluster": "host:1"}, {"device": "cuda"}])
def test_what_excludes_approximate_search_is_refused(more) -> None:
    with pytest.raises(ConfigError, match=r"leave match\.precision, .* out"):
        index_maker(MatchConfig(search="approximate", **more))


def test_extras_that_are_missing_are_named_before_the_gallery_is_read(monkeypatch) -> None:
    for module in (search_approximate, ray_cluster):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"facestream\[faiss\]"):
        index_maker(MatchConfig(search="approximate"))
    with pytest.raises(ConfigError, match=r"facestream\[cluster\]"):
        index_maker(MatchConfig(cluster="host:6379"))


def test_a_cluster_is_asked_for_at_its_address() -> None:
    with pytest.raises(ConfigError, match=r"match\.cluster must be HOST:PORT.* got 'here'"):
        made(MatchConfig(cluster="here"))


def test_every_version_of_the_gallery_is_made_so(tmp_path: Path) -> None:
    pack = {"pack": "tiny", "embedder": "a" * 64}
    with Gallery.open(tmp_path / "gallery.db", create=True) as gallery:

        def enrol(name: str, axis: int) -> None:
            where = {"source": f"{name}.jpg", "digest": f"{axis:064x}"}
            gallery.add_sample(name, EYE[axis], norm=1.0, quality=0.5, **where, **pack)

        enrol("Anna", 0)
        make = index_maker(MatchConfig(precision="bfloat16"))
        with KnownPeople(
            gallery, dimension=6, anchors=None, make_index=make, look_seconds=0.02, **pack
        ) as known:
            assert known()[1].method.startswith("exact, bfloat16")
            enrol("Bert", 1)
            deadline = time.monotonic() + 20
            while len(known()[2]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert known()[1].method.startswith("exact, bfloat16")
