"""`facestream node`: a source that goes on while the node that decides is started again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from facestream.configs.schema import AccessConfig
from facestream.stream.access import Access
from facestream.stream.carriers import InMessage
from facestream.stream.flow import Begin
from facestream.stream.hop_in import HopIn

from ..running import running, write


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_the_cameras_of_a_process_belong_to_one_session(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Else a clip that had just ended would be run again where the answer to that was lost."""
    endpoint = f"ipc://{tmp_path}/rest"
    url = "synthetic:?seconds=1&size=64x64&faces=0"
    content: dict[str, Any] = {
        "cameras": [{"name": "door", "url": url}, {"name": "gate", "url": url}],
        "publish": {"endpoint": "", "journal": "events.db"},
        "topology": {
            "nodes": [
                {"name": "eyes", "stages": ["source"]},
                {"name": "rest", "stages": ["detect", "embed", "decide"], "endpoint": endpoint},
            ]
        },
    }
    with Access(AccessConfig(), context) as access:
        rest = HopIn(access, context, endpoint, node="rest", models="", pixels=InMessage, most=16)
        rest.start()
        try:
            file = str(write(tmp_path / "c.yaml", content))
            with running(tmp_path, "node", "eyes", file):
                begun: list[Begin] = []
                deadline = time.monotonic() + 60.0
                while len(begun) < 2:
                    assert time.monotonic() < deadline
                    begun += [down for down in rest.receive(0.1) if isinstance(down, Begin)]
        finally:
            rest.close()
    assert {begin.camera for begin in begun} == {"door", "gate"}
    assert len({begin.session for begin in begun}) == 1 and begun[0].session
