"""The committed documentation is what the code generates: run `make docs` after changing either."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import typer

import facestream
from facestream.configs.schema import PublishConfig
from facestream.configs.training import preset_names
from facestream.models.pooling import POOLINGS
from facestream.stream.events import KINDS, AnyEvent, decode
from facestream.stream.journal import Journal
from facestream.stream.publish import Publisher
from facestream.tools.cli import app
from facestream.tools.docs import write_all, write_schema
from facestream.tools.docs_events import MESSAGES, message_examples
from facestream.tools.docs_examples import examples

ROOT = Path(facestream.__file__).parent
WRITTEN = write_all()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_committed_documentation_equals_what_the_generator_gives(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == WRITTEN[path], "run `make docs`"


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


def commands_of(page: str) -> list[list[str]]:
    """Every `facestream …` of a page, in a sentence or a block, as words without the first."""
    lines = re.findall(r"`(facestream [^`\n]+)`|^ {4}(facestream .+)$", page, re.MULTILINE)
    return [shlex.split(inline or block, comments=True)[1:] for inline, block in lines]


REPRODUCTION = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in REPRODUCTION.split("\n## ")[1:])
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
RECIPES = ("magface", "cqa", "caface", "ida", "fiqa")


@pytest.mark.parametrize("page", [REPRODUCTION, TRAINING], ids=["reproduction", "training"])
def test_every_command_of_the_pages_on_training_is_one(page: str) -> None:
    facestream_command = typer.main.get_command(app)
    commands = [words for words in commands_of(page) if "RECIPE" not in words]
    assert commands
    for words in commands:
        command, rest = facestream_command, list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        left = rest[:1] if hasattr(command, "commands") else []
        assert not left or left[0].startswith("-"), f"no command: facestream {' '.join(words)}"
        command.make_context(" ".join(words), rest)  # raises for unknown options, runs nothing


def test_the_presets_of_the_training_page_exist() -> None:
    trained = [words for words in commands_of(TRAINING) if words[0] == "train"]
    trained = [words for words in trained if "RECIPE" not in words]
    assert {words[1] for words in trained} == {*RECIPES, "embedder"}
    for words in trained:
        assert words[2] in preset_names(words[1])


def test_the_presets_and_poolings_of_the_reproduction_page_exist() -> None:
    trained = [words for words in commands_of(REPRODUCTION) if words[0] == "train"]
    for recipe in RECIPES:
        named = {words[2] for words in trained if words[1] == recipe}
        assert named and named <= set(preset_names(recipe)), recipe
    assert set(re.findall(r"--pooling ([a-z+-]+)", REPRODUCTION)) <= set(POOLINGS)


@pytest.mark.parametrize(
    ("paper", "figures", "tables"),
    [
        ("MagFace", 7, 3),
        ("CQA-Face", 5, 4),
        ("CAFace", 7, 5),
        ("IDA", 10, 5),
        ("Label optimisation", 4, 4),
    ],
)
def test_every_figure_and_table_has_a_row(paper: str, figures: int, tables: int) -> None:
    roman = {"I": "1", "II": "2", "III": "3", "IV": "4"}
    rows = re.findall(r"^\| (Figure|Table)s? ([^|]+) \|", SECTIONS[paper], re.MULTILINE)
    found = {
        (kind, int(number))
        for kind, names in rows
        for name in names.split(" and ")[0].split(", ")
        for number in re.findall(r"\d+", roman.get(name, name))
    }
    wanted = {("Figure", number + 1) for number in range(figures)}
    assert found == wanted | {("Table", number + 1) for number in range(tables)}


def test_what_was_run_here_stands_in_the_page_it_is_quoted_from() -> None:
    pages = re.split(r"\]\((benchmarks/\w+\.md)\)", REPRODUCTION)
    quoted = 0
    for link, text in zip(pages[1::2], pages[2::2], strict=True):
        page = (ROOT / "docs" / link).read_text(encoding="utf-8").replace("**", "")
        for row in re.findall(r"^\| here, [^|]+\|(.+)\|$", text, re.MULTILINE):
            for cell in row.split("|"):
                assert cell.strip() in page, f"{link} does not have {cell.strip()} any more"
                quoted += 1
    assert quoted


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


def a_round(number: int) -> list[AnyEvent]:
    """One event of every kind; the match is the fourth."""
    return [msgspec.structs.replace(event, id=f"{event.kind}-{number}") for event in examples()]


def test_the_subscriber_of_the_page_misses_nothing(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    section = page[page.index("### A subscriber that misses nothing") :]
    script = section.split("```python\n")[1].split("```")[0]
    config = PublishConfig("tcp://127.0.0.1:*", heartbeat_seconds=0.1)
    with (
        Journal.open(tmp_path / "journal.db") as journal,
        Publisher(journal, config) as publisher,
        ExitStack() as running,
    ):
        publisher.publish_many(a_round(1))  # before anybody listens
        script = script.replace("tcp://127.0.0.1:5555", publisher.endpoint)
        script = script.replace("tcp://127.0.0.1:5556", publisher.replay_endpoint)
        command = [sys.executable, "-c", script]
        run = running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        running.callback(run.kill)
        assert run.stdout is not None
        heard = [run.stdout.readline()]
        publisher.publish_many(a_round(2))
        publisher.publish_many(a_round(1))  # repeats
        publisher.publish_many(a_round(3))
        heard += [run.stdout.readline() for _ in range(2)]
        publisher.close()
        journal.append_many(a_round(4))  # while nobody sends
        with Publisher(journal, replace(config, endpoint=publisher.endpoint)) as again:
            again.publish_many(a_round(5))
            heard += [run.stdout.readline() for _ in range(2)]
    assert [line.split() for line in heard] == [
        [str(sequence), "entrance", "ada"] for sequence in (4, 11, 18, 25, 32)
    ]
