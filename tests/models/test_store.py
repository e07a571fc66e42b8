"""Where packs are found, what a damaged or missing file says, and networks built once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import ModelProto

from facestream import CorruptModelFile, MissingModelFile, ModelError, UnknownPack
from facestream.models import store
from facestream.models.card import Card, FileSpec
from facestream.models.card_file import read_card
from facestream.models.store import (
    CARDS,
    cache_folder,
    cards,
    check_file,
    load_card,
    locate,
    model_folders,
    network,
    pack_folder,
    verify,
    verify_file,
    written_whole,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no other folders."""
    monkeypatch.setenv("FACESTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACESTREAM_MODELS", raising=False)
    return tmp_path / "cache"


def write_card(folder: Path, name: str, networks: dict[str, bytes]) -> Path:
    """A card like buffalo_l's whose files are these bytes; the files are not written."""
    raw = yaml.safe_load((CARDS / "buffalo_l.yaml").read_text(encoding="utf-8"))
    raw["name"] = name
    for key, data in networks.items():
        raw["files"][key].update(
            file=f"{key}.onnx", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


@pytest.fixture
def card(cache: Path, tmp_path: Path) -> Card:
    return read_card(write_card(tmp_path, "tiny", {"detector": b"detector", "embedder": b"embed"}))


def test_packs_are_found_by_name_and_by_path(cache: Path, tmp_path: Path) -> None:
    assert set(cards()) >= {"open", "omz", "buffalo_l", "antelopev2"}
    assert load_card("open").name == "open"
    path = write_card(tmp_path, "tiny", {})
    assert load_card(path) == load_card(str(path)) == read_card(path)
    with pytest.raises(UnknownPack, match=r"'opne'; did you mean 'open'\?.*known packs:.*omz"):
        load_card("opne")
    with pytest.raises(MissingModelFile, match=r"nothing\.yaml"):
        load_card(tmp_path / "nothing.yaml")


def test_folders_of_the_variable_come_before_what_is_installed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_card(first, "mine", {})
    write_card(second, "open", {})
    monkeypatch.setenv("FACESTREAM_MODELS", os.pathsep.join([str(first), str(second)]))
    assert model_folders() == [first, second]
    assert load_card("mine").folder == first
    assert load_card("open").folder == second


def test_files_are_looked_for_in_order(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    monkeypatch.setenv("FACESTREAM_MODELS", os.pathsep.join([str(flat), str(nested)]))
    places = [
        flat / "tiny" / "detector.onnx",
        flat / "detector.onnx",
        nested / "tiny" / "detector.onnx",
        pack_folder("tiny") / "detector.onnx",
        card.folder / "detector.onnx",
    ]
    for place in reversed(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"detector")
        assert locate(card, "detector") == place


def test_a_missing_file_names_the_command_or_the_source(cache: Path, card: Card) -> None:
    with pytest.raises(MissingModelFile, match=r"dlib_face.*with `facestream models pull open`"):
        locate(load_card("open"), "dlib_weights")
    with pytest.raises(MissingModelFile, match=r"Open Model Zoo.*set FACESTREAM_MODELS"):
        locate(load_card("omz"), "embedder_ir")


def test_a_damaged_file_says_what_was_expected_and_what_to_do(card: Card) -> None:
    good = card.folder / "detector.onnx"
    good.write_bytes(b"detector")
    (card.folder / "embedder.onnx").write_bytes(b"embed")
    assert verify(card) == [good, card.folder / "embedder.onnx"]
    good.write_bytes(b"detecto")
    with pytest.raises(CorruptModelFile, match=r"expected 8 bytes, got 7; delete it, then get it"):
        verify_file(card, "detector")
    good.write_bytes(b"detectoR")
    with pytest.raises(CorruptModelFile, match=r"expected sha256 [0-9a-f]{64}, got [0-9a-f]{64}"):
        verify(card)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file"
    with pytest.raises(KeyboardInterrupt), written_whole(target) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []
    with written_whole(target) as partial:
        partial.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"


@pytest.fixture
def styled(cache: Path, tmp_path: Path, make_embedder: type[ModelProto]) -> tuple[Card, Path]:
    """A card whose embedder is a tiny network with tensors to cut style statistics from."""
    data = make_embedder().SerializeToString()
    path = write_card(tmp_path, "tiny", {"embedder": data})
    (tmp_path / "embedder.onnx").write_bytes(data)
    return read_card(path), tmp_path / "embedder.onnx"


def test_a_network_is_built_once_and_again_when_it_is_damaged(styled: tuple[Card, Path]) -> None:
    card, published = styled
    assert network(card, "embedder") == published
    built = network(card, "embedder", ("relu1",))
    assert built.parent == cache_folder() / "built"
    assert "style" in [output.name for output in onnx.load(built).graph.output]
    before = built.stat().st_mtime_ns
    assert network(card, "embedder", ("relu1",)) == built
    assert built.stat().st_mtime_ns == before
    content = built.read_bytes()
    built.write_bytes(content[:-1])
    assert network(card, "embedder", ("relu1",)).read_bytes() == content


def test_a_new_recipe_builds_anew(
    styled: tuple[Card, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card, _ = styled
    first = network(card, "embedder", ("relu1",))
    assert network(card, "embedder", ("conv2",)) != first
    monkeypatch.setattr(store, "STYLE_VERSION", 2)
    second = network(card, "embedder", ("relu1",))
    assert second != first
    assert second.read_bytes() == first.read_bytes()


def test_processes_that_build_at_once_get_the_same_whole_network(
    styled: tuple[Card, Path],
) -> None:
    card, _ = styled
    built = network(card, "embedder", ("relu1",))
    content = built.read_bytes()
    built.write_bytes(content[:-1])  # damaged: all of them want to remove it, and to build anew
    script = (
        "import sys; from pathlib import Path\n"
        "from facestream.models.card_file import read_card\n"
        "from facestream.models.store import network\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(network(read_card(Path({str(card.path)!r})), 'embedder', ('relu1',)))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(3)]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        told = [child.communicate("go\n", timeout=60)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert told == [f"{built}\n"] * 3
    assert built.read_bytes() == content
    assert list(built.parent.iterdir()) == [built]


def test_a_cache_that_cannot_be_written_is_named(styled: tuple[Card, Path]) -> None:
    card, _ = styled
    cache_folder().write_text("a file where the folder should be")
    with pytest.raises(ModelError, match=r"cannot write .*set FACESTREAM_CACHE"):
        network(card, "embedder", ("relu1",))


def test_a_changed_source_is_refused_though_it_was_built_before(
    styled: tuple[Card, Path],
) -> None:
    card, published = styled
    network(card, "embedder", ("relu1",))
    published.write_bytes(published.read_bytes()[::-1])
    with pytest.raises(CorruptModelFile, match="sha256"):
        network(card, "embedder", ("relu1",))


def test_checksums_are_those_of_sha256(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert store.checksum(path) == digest
    spec = FileSpec("file", digest, len(data), load_card("open").files["dlib_weights"].source, "")
    check_file(path, spec, "")


def test_installed_packages_may_carry_packs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    write_card(site / "carried_pack", "carried", {"detector": b"d", "embedder": b"e"})
    (site / "carried_pack" / "__init__.py").touch()
    (site / "carried_pack" / "detector.onnx").write_bytes(b"d")
    info = site / "carried_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carried-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[facestream.packs]\ncarried = carried_pack\n")
    monkeypatch.syspath_prepend(str(site))
    assert "carried" in cards()
    card = load_card("carried")
    assert verify_file(card, "detector") == site / "carried_pack" / "detector.onnx"


def test_a_package_that_carries_packs_but_is_broken_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "torn-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[facestream.packs]\ntorn = torn_pack\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(ModelError, match="torn_pack says that it carries packs, but cannot be"):
        load_card("open")
