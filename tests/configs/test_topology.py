"""Nodes of a configuration: what is filled in, and how each mistake is named."""

from __future__ import annotations

from typing import Any

import pytest

from facestream import ConfigError
from facestream.configs.load import from_mapping, override, preset
from facestream.configs.schema import CameraConfig, Config, NodeConfig, TopologyConfig
from facestream.configs.topology import STAGES, address_of, nodes_of, processes_of

CAMERAS = [{"name": "door", "url": "door.mp4"}, {"name": "yard", "url": "yard.mp4"}]
SOURCE = {"name": "cams", "stages": ["source", "detect"]}
EMBED = {"name": "gpu", "stages": ["embed"], "endpoint": "tcp://10.0.0.2:5600"}
DECIDE = {"name": "core", "stages": ["decide"], "endpoint": "tcp://10.0.0.3:5600"}
FRAMES = {"name": "faces", "stages": ["detect", "embed", "decide"]}


def given(*nodes: dict[str, Any], **topology: Any) -> Config:
    return from_mapping({"cameras": CAMERAS, "topology": {"nodes": list(nodes), **topology}})


def standard(transport: Any) -> tuple[NodeConfig, ...]:
    cameras = (CameraConfig("door", "door.mp4"), CameraConfig("yard", "yard.mp4"))
    return nodes_of(Config(cameras, topology=TopologyConfig(transport=transport)))


def test_without_a_topology_there_are_no_nodes() -> None:
    assert standard("none") == ()


@pytest.mark.parametrize("transport", ["inproc", "ipc", "tcp"])
def test_standard_nodes_make_one_chain(transport: str) -> None:
    nodes = standard(transport)
    assert [stage for node in nodes for stage in node.stages] == list(STAGES)
    assert [node.to for node in nodes] == [node.name for node in nodes[1:]] + [""]
    assert [node.cameras for node in nodes] == [("door", "yard")] + [()] * (len(nodes) - 1)


def test_frames_never_travel_over_tcp() -> None:
    assert standard("tcp")[0].stages == ("source", "detect")


def test_threads_share_a_process_and_nothing_else_does() -> None:
    assert [len(process) for process in processes_of(standard("inproc"))] == [4]
    assert [len(process) for process in processes_of(standard("ipc"))] == [1, 1, 1, 1]
    mixed = given(
        {"name": "cams", "stages": ["source"]},
        {"name": "faces", "stages": ["detect"], "endpoint": "inproc://faces"},
        EMBED,
        DECIDE,
    )
    names = [[node.name for node in process] for process in processes_of(nodes_of(mixed))]
    assert names == [["cams", "faces"], ["gpu"], ["core"]]


def test_the_next_node_is_found_where_only_one_can_be_meant() -> None:
    nodes = nodes_of(given(SOURCE, EMBED, DECIDE))
    assert [(node.name, node.to) for node in nodes] == [
        ("cams", "gpu"),
        ("gpu", "core"),
        ("core", ""),
    ]


def test_machines_may_share_the_next_node() -> None:
    nodes = nodes_of(
        given(
            {**SOURCE, "name": "a", "cameras": ["door"]},
            {**SOURCE, "name": "b", "cameras": ["yard"]},
            EMBED,
            DECIDE,
        )
    )
    assert [(node.to, node.cameras) for node in nodes[:2]] == [
        ("gpu", ("door",)),
        ("gpu", ("yard",)),
    ]


def test_a_node_that_listens_everywhere_says_where_it_is_found() -> None:
    open_ended = {**EMBED, "endpoint": "tcp://0.0.0.0:5600"}
    with pytest.raises(ConfigError, match=r"topology.nodes\[1\].address is needed: .* everywhere"):
        given(SOURCE, open_ended, DECIDE)
    nodes = nodes_of(given(SOURCE, {**open_ended, "address": "tcp://gpu.example:5600"}, DECIDE))
    assert address_of(nodes[1]) == "tcp://gpu.example:5600"
    assert address_of(nodes[2]) == "tcp://10.0.0.3:5600"


def test_presets_have_the_nodes_they_speak_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    assert len(nodes_of(preset("processes"))) == 4
    assert [node.to for node in nodes_of(preset("several-machines"))] == ["faces", "faces", ""]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([{**SOURCE, "name": "a b"}], r"nodes\[0\].name must be letters, digits, .* got 'a b'"),
        (
            [SOURCE, {**EMBED, "name": "cams"}],
            r"nodes\[1\].name is 'cams' like topology.nodes\[0\]",
        ),
        ([{**SOURCE, "stages": []}], r"nodes\[0\].stages must be some of source, .* got none"),
        (
            [{**SOURCE, "stages": ["source", "embed"]}],
            r"nodes\[0\].stages must be .* follow each other, got source, embed",
        ),
        (
            [{**SOURCE, "stages": ["detect", "source"]}],
            r"nodes\[0\].stages must be .* follow each other, got detect, source",
        ),
        (
            [{**SOURCE, "stages": ["paint"]}],
            r"nodes\[0\].stages\[0\] must be one of source, detect, embed, decide, got 'paint'",
        ),
        (
            [{**SOURCE, "endpoint": "ipc:///run/x"}],
            r"nodes\[0\].endpoint: nothing comes before node cams, .* leave it out",
        ),
        ([SOURCE, {**EMBED, "cameras": ["door"]}], r"nodes\[1\].cameras: node gpu has no source"),
        ([SOURCE, {**EMBED, "endpoint": ""}], r"nodes\[1\].endpoint must be inproc://NAME, .* ''"),
        (
            [SOURCE, {**EMBED, "endpoint": "tcp://10.0.0.2:*"}],
            r"nodes\[1\].endpoint must be .* tcp://HOST:PORT, got 'tcp://10.0.0.2:\*'",
        ),
        (
            [SOURCE, EMBED, {**DECIDE, "endpoint": EMBED["endpoint"]}],
            r"nodes\[2\].endpoint is 'tcp://10.0.0.2:5600' like topology.nodes\[1\].endpoint",
        ),
        ([SOURCE, EMBED], "must have exactly one node with the decide stage, got none"),
        (
            [SOURCE, EMBED, DECIDE, {**DECIDE, "name": "two", "endpoint": "ipc:///run/two"}],
            "must have exactly one node with the decide stage, got core and two",
        ),
        ([SOURCE, DECIDE], r"nodes\[0\].to is needed: .* begins with embed, got none"),
        (
            [SOURCE, EMBED, {**EMBED, "name": "cpu", "endpoint": "ipc:///run/c"}, DECIDE],
            r"nodes\[0\].to is needed: .* begins with embed, got gpu and cpu",
        ),
        (
            [{**SOURCE, "to": "gpv"}, EMBED, DECIDE],
            r"nodes\[0\].to must be a node that begins with embed \(gpu\), got 'gpv', did you mean",
        ),
        ([SOURCE, EMBED, {**DECIDE, "to": "gpu"}], r"nodes\[2\].to: nothing comes after node core"),
        (
            [{**SOURCE, "stages": ["source"]}, {**FRAMES, "endpoint": "tcp://10.0.0.2:5600"}],
            r"nodes\[0\].to: frames do not travel over tcp, and node faces listens on tcp://10",
        ),
        (
            [{"name": "all", "stages": ["source", "detect", "embed", "decide"]}, EMBED],
            r"nodes\[1\].to is needed: .* begins with decide, got none",
        ),
        (
            [
                {**SOURCE, "to": "gpu"},
                EMBED,
                {**EMBED, "name": "cpu", "endpoint": "ipc:///run/c"},
                DECIDE,
            ],
            r"nodes\[2\]: no node comes before cpu; name it in the `to` of one .* with detect",
        ),
        (
            [{**SOURCE, "cameras": ["dor"]}, EMBED, DECIDE],
            r"nodes\[0\].cameras names 'dor', which is no camera, did you mean door\?",
        ),
        (
            [{**SOURCE, "cameras": ["door"]}, EMBED, DECIDE],
            "camera yard must be read by exactly one node with the source stage, got none",
        ),
        (
            [SOURCE, {**SOURCE, "name": "b", "cameras": ["yard"]}, EMBED, DECIDE],
            "camera yard must be read by exactly one node with the source stage, got cams and b",
        ),
    ],
)
def test_mistakes_are_named_by_their_key(nodes: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        given(*nodes)


def test_a_transport_and_nodes_contradict_each_other() -> None:
    with pytest.raises(
        ConfigError, match=r"topology\.transport is ipc, and topology.nodes are given"
    ):
        given(SOURCE, EMBED, DECIDE, transport="ipc")


def test_an_annotated_video_needs_the_frames() -> None:
    config = from_mapping({"cameras": CAMERAS, "output": {"folder": "out", "video": True}})
    with pytest.raises(
        ConfigError, match=r"output\.video needs the frames where events are decided"
    ):
        override(config, "topology.transport=ipc")
    one = {"name": "all", "stages": list(STAGES)}
    from_mapping({"cameras": CAMERAS, "output": {"video": True}, "topology": {"nodes": [one]}})
