"""The committed documentation is what the code generates: run `make docs` after changing either."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import facestream
from facestream.stream.events import KINDS, decode
from facestream.tools.docs import write_all, write_schema
from facestream.tools.docs_events import MESSAGES, message_examples

ROOT = Path(facestream.__file__).parent


@pytest.mark.parametrize("path", write_all(), ids=lambda path: path.name)
def test_committed_documentation_equals_what_the_generator_gives(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == write_all()[path], "run `make docs`"


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link


def test_no_schema_is_left_of_a_message_that_is_gone() -> None:
    assert {path.stem for path in (ROOT / "docs" / "schemas").iterdir()} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_schema_explains_every_property_and_closes_none(name: str) -> None:
    schema = write_schema(name)
    struct = MESSAGES[name]
    tag = struct.__struct_config__
    definition = schema["$defs"][struct.__name__]
    assert definition["properties"][tag.tag_field]["enum"] == [tag.tag]
    assert set(definition["properties"]) == {tag.tag_field, *struct.__struct_fields__}
    for definition in schema["$defs"].values():
        # Fields may be added: a reader must not refuse what it does not know.
        assert "additionalProperties" not in definition
        assert definition["description"]
        assert all(described["description"] for described in definition["properties"].values())


def test_there_is_an_example_of_every_message() -> None:
    assert {name: type(message) for name, message in message_examples().items()} == MESSAGES


def test_the_examples_of_the_page_are_events() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    blocks = [block.split("\n```")[0] for block in page.split("```json\n")[1:]]
    assert [decode(block.encode()).kind for block in blocks] == list(KINDS)
