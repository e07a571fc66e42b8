"""Nodes of one process: orders that come before they are built."""

from __future__ import annotations

import threading
from pathlib import Path

from facestream import FacestreamError, SourceMissing
from facestream.configs.schema import CameraConfig, Config, PublishConfig, TopologyConfig
from facestream.configs.topology import nodes_of
from facestream.models.pack import Pack
from facestream.tools.members import Members
from facestream.tools.topology import place

PATIENCE = 60.0


def test_a_failure_elsewhere_is_heard_while_the_nodes_are_still_made(
    open_models: Pack, tmp_path: Path
) -> None:
    """Else whoever waits for the process to end waits in vain: it has nobody to work for."""
    config = Config(
        (CameraConfig("door", "synthetic:?faces=0&size=64x64"),),
        publish=PublishConfig(endpoint="", journal=str(tmp_path / "journal.db")),
        topology=TopologyConfig(transport="ipc"),
    )
    nodes = place(nodes_of(config), "ipc", tmp_path)
    deciding = [node for node in nodes if "decide" in node.stages]
    members = Members(config, deciding, nodes, quiet=True, pack=open_models)
    members.fail(SourceMissing("another node has failed"))
    raised: list[BaseException] = []

    def run() -> None:
        try:
            members.run()
        except FacestreamError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [SourceMissing]
