"""Where packs lie on this machine: search order, checksums, and networks built here once.

Cards and files are looked for in the folders of $FACESTREAM_MODELS, then in the user's cache, then
in what installed packages carry (this one, and entry points of the group "facestream.packs").
Nothing is downloaded here; `pull` does that, and only when it is asked to.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.resources
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from platformdirs import user_cache_path

from .. import CorruptModelFile, MissingModelFile, ModelError, UnknownPack
from .card import Card, DerivedSpec, FileSpec
from .card_file import read_card
from .dlib_graph import build_dlib_graph
from .dlib_weights import read_dlib_network
from .onnx_surgery import add_style_outputs, free_shapes, load_onnx
from .openvino_ir import convert_ir

CARDS = Path(__file__).with_name("cards")
ENTRY_POINTS = "facestream.packs"
BLOCK = 1 << 20


def cache_folder() -> Path:
    """$FACESTREAM_CACHE, or the user's cache folder of this system. Not created here."""
    chosen = os.environ.get("FACESTREAM_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("facestream", appauthor=False)


def pack_folder(name: str) -> Path:
    """Where `facestream models pull` puts the files of a pack."""
    return cache_folder() / "models" / name


def model_folders() -> list[Path]:
    """The folders of $FACESTREAM_MODELS, in order."""
    chosen = os.environ.get("FACESTREAM_MODELS", "")
    return [Path(part).expanduser() for part in chosen.split(os.pathsep) if part]


def installed_folders() -> Iterator[Path]:
    """Folders of packs that installed packages carry, this package's own first.

    Raises ModelError for a package that cannot be imported.
    """
    yield CARDS
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        # The entry point names a package whose data files are the pack's card and files.
        try:
            yield Path(str(importlib.resources.files(entry.value)))
        except ImportError as error:
            raise ModelError(
                f"the installed package {entry.value} says that it carries packs, but cannot be "
                f"imported ({error}): mend or uninstall it"
            ) from error


def cards() -> dict[str, Path]:
    """Every card that can be found, by pack name; of two with one name the first found counts."""
    places = [*model_folders(), cache_folder() / "models", *installed_folders()]
    found: dict[str, Path] = {}
    for place in places:
        for path in [*sorted(place.glob("*.yaml")), *sorted(place.glob("*/card.yaml"))]:
            name = path.parent.name if path.name == "card.yaml" else path.stem
            found.setdefault(name, path)
    return found


def load_card(name_or_path: str | Path) -> Card:
    """The card of a pack, by its name or by the path of a YAML file.

    Raises UnknownPack with the nearest name, MissingModelFile, and ModelError for a bad card.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or os.sep in text:
        return read_card(Path(text).expanduser())
    known = cards()
    if text not in known:
        near = difflib.get_close_matches(text, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownPack(
            f"no model pack {text!r}; {hint}known packs: {', '.join(sorted(known))} "
            "(`facestream models list`), or give the path of a card"
        )
    return read_card(known[text])


def locate(card: Card, key: str) -> Path:
    """The file `key` of a card: the first one found along the search order, not yet verified.

    Raises MissingModelFile naming the command that gets it, or what a person has to do.
    """
    spec = card.files[key]
    for folder in model_folders():
        for path in (folder / card.name / spec.file, folder / spec.file):
            if path.is_file():
                return path
    for path in (pack_folder(card.name) / spec.file, card.folder / spec.file):
        if path.is_file():
            return path
    raise MissingModelFile(
        f"pack {card.name!r} needs {spec.file}, which is not on this machine; "
        f"{how_to_get(card, spec)}"
    )


def how_to_get(card: Card, spec: FileSpec) -> str:
    """What a user does to get a file, as the end of a sentence."""
    if spec.source.words is None:
        return f"get it with `facestream models pull {card.name}`"
    words = " ".join(spec.source.words.split())
    return f"get it from {words} and set FACESTREAM_MODELS to its folder"


def checksum(path: Path) -> str:
    """The sha256 of a file, read in blocks, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_file(card: Card, key: str) -> Path:
    """Locate a file and compare its size and checksum with the card; nothing is remembered.

    Raises MissingModelFile, or CorruptModelFile with what was expected and what was got.
    """
    path = locate(card, key)
    check_file(path, card.files[key], how_to_get(card, card.files[key]))
    return path


def verify(card: Card) -> list[Path]:
    """Verify every file of a pack; returns their paths. Raises as `verify_file`."""
    return [verify_file(card, key) for key in card.files]


def check_file(path: Path, spec: FileSpec, remedy: str) -> None:
    """Raise CorruptModelFile unless size and sha256 are those of `spec`."""
    size = path.stat().st_size
    if size != spec.bytes:
        raise CorruptModelFile(
            f"{path}: expected {spec.bytes} bytes, got {size}; delete it, then {remedy}"
        )
    got = checksum(path)
    if got != spec.sha256:
        raise CorruptModelFile(
            f"{path}: expected sha256 {spec.sha256}, got {got}; delete it, then {remedy}"
        )


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path to write to; it becomes `target` at once when the block ends well, or goes away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # Temporary files are private; models may be shared by several users of a machine.
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _build_dlib(sources: list[Path]) -> onnx.ModelProto:
    return build_dlib_graph(read_dlib_network(sources[0]))


def _build_free_shapes(sources: list[Path]) -> onnx.ModelProto:
    return free_shapes(load_onnx(sources[0]), spatial=True)


def _build_openvino_ir(sources: list[Path]) -> onnx.ModelProto:
    return convert_ir(sources[0], sources[1])


Builder = Callable[[list[Path]], onnx.ModelProto]
BUILDERS: dict[str, tuple[int, Builder]] = {
    "free_shapes": (1, _build_free_shapes),
    "dlib": (1, _build_dlib),
    "openvino_ir": (1, _build_openvino_ir),
}
"""Version and function of each builder. A new version makes every user's networks be built anew."""
STYLE_VERSION = 1


def network(card: Card, key: str, style_tensors: tuple[str, ...] = ()) -> Path:
    """The ONNX file of a key of `files` or `derived`, its sources verified.

    A derived network, or one that needs style outputs cut in, is built once into the user's cache.
    Its name carries the checksum of the recipe (sources, builder and version, style tensors), so a
    change of either builds it anew, and its own checksum, so a damaged one is built anew too.
    Raises as `verify_file` and the builders do, and ModelError when the cache cannot be written.
    """
    derived = card.derived.get(key)
    sources = derived.sources if derived else (key,)
    paths = [verify_file(card, source) for source in sources]
    if derived is None and not style_tensors:
        return paths[0]
    recipe = _recipe(card, sources, derived, style_tensors)
    folder = cache_folder() / "built"
    for path in folder.glob(f"{card.name}-{key}-{recipe}-*.onnx"):
        # Another process may be here for the same reason, and may take the file away first.
        with contextlib.suppress(FileNotFoundError):
            if checksum(path)[:16] == path.stem.rpartition("-")[2]:
                return path
            path.unlink()
    model = BUILDERS[derived.builder][1](paths) if derived else load_onnx(paths[0])
    if style_tensors:
        model = add_style_outputs(model, style_tensors)
    data = model.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()[:16]
    target = folder / f"{card.name}-{key}-{recipe}-{digest}.onnx"
    try:
        with written_whole(target) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}; free some space, or set "
            "FACESTREAM_CACHE to another folder"
        ) from error
    return target


def _recipe(
    card: Card, sources: tuple[str, ...], derived: DerivedSpec | None, style: tuple[str, ...]
) -> str:
    parts = [card.files[source].sha256 for source in sources]
    if derived:
        parts.append(f"{derived.builder} {BUILDERS[derived.builder][0]}")
    if style:
        parts.append(f"style {STYLE_VERSION} {' '.join(style)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
