"""The configuration reference, written from the dataclasses of `schema`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import types
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .load import limits_of
from .schema import CameraConfig, Config, NodeConfig

_INTRODUCTION = """\
# Configuration

A configuration is one YAML file: `facestream run CONFIG.yaml`. Only `cameras` is required; a key
that is left out keeps its default. An unknown key is an error that names it and its nearest match.

- `${NAME}` in a text is replaced by the environment variable `NAME`. Keep passwords there, and
  write them as an address needs it (`@` as `%40`).
- `null` means "not set"; the meaning of the key says what is taken then.
- Relative paths start from the folder the program was started in. The data folder is that of
  `$FACESTREAM_DATA`, else the system's own for the user (`~/.local/share/facestream` on Linux).
- One value can be changed without editing the file: `match.threshold=0.4`, `cameras[0].stride=2`.

Commented examples ship with the package, in `configs/presets/`: `demo.yaml`, `one-camera.yaml`,
`many-cameras.yaml`, `processes.yaml`, `several-machines.yaml`.

This page is generated from `configs/schema.py`; do not edit it here.
"""

_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    datetime: "time",
    type(None): "null",
}


def attribute_docs(kind: type) -> dict[str, str]:
    """The docstring below each attribute of a class and its bases, on one line, by name."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.partition(".")[0] != kind.__module__.partition(".")[0]:
            continue
        (tree,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for attribute, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(attribute, ast.AnnAssign)
                and isinstance(attribute.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[attribute.target.id] = " ".join(below.value.value.split())
    return docs


def describe_type(annotation: Any) -> str:
    """A field's type in words, with the numbers it takes."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([describe_type(parts[0]), *map(str, limits_of(annotation))])
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(part) for part in parts)
    if origin is Literal:
        return " \\| ".join(f"`{part}`" for part in parts)
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {describe_type(parts[0])}"
    if origin is tuple:
        return f"list of {len(parts)}: {describe_type(parts[0])}"
    if origin is dict:
        return f"mapping of {describe_type(parts[0])} to {describe_type(parts[1])}"
    if dataclasses.is_dataclass(annotation):
        return "mapping"
    return _WORDS.get(annotation) or str(annotation.__name__)


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("*", "\\*")


def write_reference() -> str:
    """docs/configuration.md."""
    parts = [_INTRODUCTION]
    parts.append(_section("cameras", CameraConfig, "A list; each item has these keys."))
    hints = get_type_hints(Config)
    for name, kind in hints.items():
        if name != "cameras":
            parts.append(_section(name, kind, ""))
        if name == "topology":
            parts.append(
                _section("topology.nodes", NodeConfig, "A list; each item has these keys.")
            )
    return "\n".join(parts)


def _section(name: str, kind: type, note: str) -> str:
    """One dataclass as a heading and a table."""
    hints = get_type_hints(kind, include_extras=True)
    docs = attribute_docs(kind)
    lines = [f"## {name}", "", " ".join(filter(None, [inspect.getdoc(kind), note])), ""]
    lines += ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        words = escape(docs[field.name])
        lines.append(
            f"| `{field.name}` | {describe_type(hints[field.name])} | {_default(field)} | {words} |"
        )
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field[Any]) -> str:
    """A field's default as YAML writes it."""
    if field.default is dataclasses.MISSING:
        return "required"
    return f"`{json.dumps(field.default)}`"
