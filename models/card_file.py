"""Cards as files: read strictly from YAML, and sections that a fit writes anew."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .. import MissingModelFile, ModelError
from .card import Card


def read_card(path: Path) -> Card:
    """Read and check a card.

    Raises MissingModelFile when there is no such file, and ModelError naming the file, the key
    and, for an unknown key, its nearest match.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingModelFile(f"{path}: no such model card") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a readable model card ({error})") from None
    return parse_card(text, path)


def parse_card(text: str, path: Path) -> Card:
    """Check the text of a card as if it were the file `path`; errors as in `read_card`."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date or a number that cannot be (2020-13-45); RecursionError: [[[[...
        raise ModelError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: a model card must be a mapping, got {type(raw).__name__}")
    _check_keys(raw, Card, str(path), "")
    if "path" in raw:
        raise ModelError(f"{path}: 'path' is set by the program, remove it from the card")
    try:
        card = msgspec.convert(raw, Card)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: {error}") from None
    _check_values(card, path)
    return dataclasses.replace(card, path=path.resolve())


def replace_section(path: Path, section: str, values: dict[str, Any] | None) -> None:
    """Write one top-level section of a card anew (ida, decision, measured, self_test).

    The rest of the file, comments included, stays as it is; a section that is not there yet is
    added at the end, and with None one that is there goes. Raises ModelError, and changes nothing,
    when the result is not a valid card.
    """
    text = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    block = ""
    if values is not None:
        block = yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True, width=96)
    # A section runs to the next line that begins in the first column.
    found = re.search(rf"^{re.escape(section)}:.*\n(?:(?:[ \t-].*)?\n)*", text, re.MULTILINE)
    if found:
        gap = "\n" if block and found.group().endswith("\n\n") else ""
        text = text[: found.start()] + block + gap + text[found.end() :]
    elif block:
        text += "\n" + block
    parse_card(text, path)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _check_keys(raw: Any, kind: Any, path: str, where: str) -> None:
    """Raise ModelError for a key that the dataclass behind `kind` does not have."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is dict and isinstance(raw, dict):
        for key, value in raw.items():
            _check_keys(value, typing.get_args(kind)[1], path, f"{where}{key}.")
    if not dataclasses.is_dataclass(kind) or not isinstance(raw, dict):
        return
    hints = typing.get_type_hints(kind)
    for key, value in raw.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise ModelError(f"{path}: unknown key '{where}{key}'; {hint}")
        _check_keys(value, hints[key], path, f"{where}{key}.")


def _check_values(card: Card, path: Path) -> None:
    """Raise ModelError where values of the right type do not fit together."""

    def expect(holds: bool, message: str) -> None:
        if not holds:
            raise ModelError(f"{path}: {message}")

    expect(_is_plain(card.name), f"bad pack name {card.name!r}")
    for key, spec in card.files.items():
        where = f"files.{key}"
        expect(_is_file_name(spec.file), f"{where}.file must be a plain file name")
        sums = [spec.sha256, *([spec.source.archive.archive_sha256] if spec.source.archive else [])]
        for checksum in sums:
            expect(
                bool(re.fullmatch(r"[0-9a-f]{64}", checksum)),
                f"{where} needs sha256 sums of 64 hexadecimal digits, got {checksum!r}",
            )
        given = [v for v in dataclasses.astuple(spec.source) if v is not None]
        expect(len(given) == 1, f"{where}.source needs exactly one of archive, insightface, words")
    for key, derived in card.derived.items():
        wanted = 2 if derived.builder == "openvino_ir" else 1
        expect(
            len(derived.sources) == wanted and all(s in card.files for s in derived.sources),
            f"derived.{key} needs {wanted} sources out of files, got {', '.join(derived.sources)}",
        )
        expect(key not in card.files, f"{key!r} is both in files and in derived")
    for key in (*card.files, *card.derived):
        # Keys become part of the names of files that are built here.
        expect(_is_plain(key), f"bad key {key!r}: lower-case letters, digits, dash and underscore")
    beside = {
        "ida.anchors": card.ida.anchors if card.ida else None,
        "ida.learned.file": card.ida.learned.file if card.ida and card.ida.learned else None,
        "strangers.file": card.strangers.file if card.strangers else None,
        "quality.head.file": card.quality.head.file if card.quality.head else None,
        **{f"fusion.{name}.file": head.file for name, head in card.fusion.heads.items()},
    }
    for where, file in beside.items():
        expect(file is None or _is_file_name(file), f"{where} must be a plain file name")
    _check_networks(card, expect)


def _check_networks(card: Card, expect: Callable[[bool, str], None]) -> None:
    """Whether detector, embedder and quality name networks and crops that there are."""
    networks = {"detector.file": card.detector.file, "embedder.file": card.embedder.file}
    templates = {"embedder.template": card.embedder.template}
    if card.quality.kind == "model":
        expect(
            bool(card.quality.file and card.quality.template and card.quality.unit),
            "quality.kind model needs quality.file, quality.template and quality.unit",
        )
    expect(
        (card.quality.kind == "head") == (card.quality.head is not None),
        "quality.kind head and quality.head go together",
    )
    if card.quality.file is not None:
        networks["quality.file"] = card.quality.file
    if card.quality.template is not None:
        templates["quality.template"] = card.quality.template
    known = [*card.files, *card.derived]
    for where, network in networks.items():
        expect(network in known, f"{where} is {network!r}, expected one of {', '.join(known)}")
    for where, template in templates.items():
        expect(len(template.points) == 5, f"{where} needs 5 points, got {len(template.points)}")
    expect(
        bool(card.embedder.style_tensors) == bool(card.embedder.style_channels),
        "embedder.style_tensors and embedder.style_channels go together",
    )


def _is_plain(name: str) -> bool:
    return bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name))


def _is_file_name(file: str) -> bool:
    """Whether this is a name in a folder, and neither a path nor the folder itself."""
    return file not in ("", ".", "..") and Path(file).name == file
