"""docs/asyncapi.yaml is a whole AsyncAPI document: whatever it refers to is in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import facestream
from facestream.stream.events import KINDS, parse_topic
from facestream.tools.docs_asyncapi import asyncapi
from facestream.tools.docs_events import MESSAGES, REPLAY
from facestream.tools.docs_examples import examples, heartbeat_example

DOCUMENT = Path(facestream.__file__).parent / "docs" / "asyncapi.yaml"
PARSER = "@asyncapi/parser@3.6.3"
VALIDATE = """
const { Parser } = require("@asyncapi/parser");
const text = require("fs").readFileSync(process.argv[2], "utf8");
new Parser().parse(text).then(({ document, diagnostics }) => {
  const errors = diagnostics.filter((found) => found.severity === 0);
  for (const found of errors) console.log(found.path.join("."), found.message);
  process.exit(document && errors.length === 0 ? 0 : 1);
});
"""


def references(node: Any) -> Iterator[str]:
    """Every $ref at any depth."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)


def test_every_reference_leads_somewhere() -> None:
    document = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
    found = set(references(document))
    assert len(found) > 50
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in node, reference
            node = node[part]


def test_nothing_in_components_is_left_unused() -> None:
    document = asyncapi()
    used = set(references(document))
    for group, members in document["components"].items():
        for name in members:
            assert f"#/components/{group}/{name}" in used, name


def test_every_message_has_a_channel_an_operation_and_an_example() -> None:
    document = asyncapi()
    channels, operations = document["channels"], document["operations"]
    assert set(channels) == {*KINDS, "heartbeat", "replay"}
    assert set(channels["replay"]["messages"]) == set(REPLAY)
    sent = {operation["channel"]["$ref"] for operation in operations.values()}
    assert sent == {f"#/channels/{name}" for name in channels}
    answers = operations["answer.replay"]
    assert len(answers["messages"]) + len(answers["reply"]["messages"]) == len(REPLAY)
    for name, message in document["components"]["messages"].items():
        struct = MESSAGES[name]
        (example,) = message["examples"]
        assert set(example["payload"]) == {
            struct.__struct_config__.tag_field,
            *struct.__struct_fields__,
        }


def test_addresses_are_the_topics_that_events_travel_under() -> None:
    channels = asyncapi()["channels"]
    for event in examples():
        assert channels[event.kind]["address"].format(camera=event.camera) == event.topic
    about = parse_topic(heartbeat_example().topic)
    address = channels["heartbeat"]["address"].format(kind=about.kind, camera=about.camera)
    assert address == "facestream/v1/heartbeat/match/entrance"


@pytest.fixture(scope="module")
def official_parser(pytestconfig: pytest.Config) -> Path:
    """Folder of AsyncAPI's own parser, from npm, kept in pytest's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("docs/asyncapi.yaml IS NOT VALIDATED: no node and npm; apt-get install npm")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(PARSER.replace("/", "-"))
    if not (folder / "complete").exists():
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PARSER]
        done = subprocess.run(
            [*command, "--prefix", str(folder)], capture_output=True, text=True, timeout=150
        )
        if done.returncode != 0:
            pytest.skip(f"docs/asyncapi.yaml IS NOT VALIDATED: npm: {done.stderr.strip()[-200:]}")
        (folder / "complete").touch()
    return folder


def validate(parser: Path, document: Path) -> subprocess.CompletedProcess[str]:
    script = parser / "validate.cjs"
    script.write_text(VALIDATE, encoding="utf-8")
    return subprocess.run(
        ["node", str(script), str(document)], capture_output=True, text=True, timeout=120
    )


def test_the_official_parser_finds_no_error(official_parser: Path) -> None:
    done = validate(official_parser, DOCUMENT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_official_parser_would_find_an_error(official_parser: Path, tmp_path: Path) -> None:
    document = asyncapi()
    document["components"]["messages"]["match"]["examples"][0]["payload"]["track"] = "seven"
    del document["operations"]["send.match"]["action"]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = validate(official_parser, wrong)
    assert done.returncode == 1, done.stderr
    assert 'must have required property "action"' in done.stdout
