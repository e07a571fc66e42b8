"""The configuration reference says everything the dataclasses say."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import get_type_hints

from facestream.configs.reference import attribute_docs, describe_type, write_reference
from facestream.configs.schema import CameraConfig, Config, Count, DetectConfig, NodeConfig

# The module, not the package of the same room.
schema = importlib.import_module("facestream.configs.schema")


def sections() -> dict[str, type]:
    return {**get_type_hints(Config), "cameras": CameraConfig, "topology.nodes": NodeConfig}


def test_every_field_of_every_section_has_a_docstring() -> None:
    for kind in (Config, *sections().values()):
        missing = {f.name for f in dataclasses.fields(kind)} - set(attribute_docs(kind))
        assert not missing, f"{kind.__name__} does not explain {missing}"


def test_every_dataclass_of_the_schema_is_a_section() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(schema, dataclasses.is_dataclass)
        if kind.__name__.endswith("Config")
    }
    assert kinds == {Config, *sections().values()}


def test_the_reference_lists_every_key_with_its_default() -> None:
    text = write_reference()
    for name, kind in sections().items():
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for field in dataclasses.fields(kind):
            assert f"\n| `{field.name}` |" in section
    assert "| `stride` | whole number, 1 or more | `1` | Process every n-th frame. |" in text
    assert "| `name` | text | required |" in text
    assert "number, 0 to 1 or null | `null` |" in text


def test_types_are_put_in_words() -> None:
    hints = get_type_hints(CameraConfig, include_extras=True)
    assert describe_type(hints["region"]) == "list of 4: number, 0 to 1"
    assert describe_type(hints["transport"]) == "`tcp` \\| `udp`"
    assert describe_type(Count) == "whole number, 1 or more"
    assert describe_type(tuple[int, ...]) == "list of whole number"
    assert describe_type(dict[str, int]) == "mapping of text to whole number"


def test_a_docstring_over_several_lines_becomes_one() -> None:
    assert "\n" not in attribute_docs(CameraConfig)["mode"]
    assert attribute_docs(DetectConfig)["batch"].startswith("Frames of one size")
