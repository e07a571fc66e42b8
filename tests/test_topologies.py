"""The same clip gives the same events, wherever its stages run and however they batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import cv2
import pytest
import yaml

import facestream
from facestream.configs.load import from_mapping
from facestream.configs.topology import nodes_of
from facestream.models.pack import Pack
from facestream.stream.events import AnyEvent, System
from facestream.tools.run import execute

from .running import FRAMES, assert_same, running, scene_of, stored, undisturbed, write

RUNS = [  # transport, and the batches of detect and embed; more in test_kill
    ("none", 1, 1),
    ("inproc", 4, 16),
    ("inproc", 1, 4),
    ("ipc", 1, 16),
    ("tcp", 4, 1),
]


def configuration(
    clip: Path, photos: Path, transport: str, detect: int, embed: int, pack: str = "open"
) -> dict[str, Any]:
    return {
        "cameras": [{"name": "hall", "url": str(clip)}],
        "models": {"pack": pack},
        "detect": {"batch": detect},
        "embed": {"batch": embed},
        "gallery": {"folder": str(photos)},
        "publish": {"endpoint": "", "journal": f"{transport}.db"},
        "topology": {"transport": transport, "mark_frames": 16, "window": 32},
    }


def play(
    folder: Path, clip: Path, photos: Path, transport: str, detect: int, embed: int, pack: Pack
) -> tuple[dict[str, Any], list[AnyEvent]]:
    """Totals and events of a run; topologies of processes as users start them."""
    content = configuration(clip, photos, transport, detect, embed, pack.card.name)
    journal = folder / f"{transport}.db"
    if transport in ("ipc", "tcp"):
        with running(folder, "run", str(write(folder / "c.yaml", content)), "--json") as run:
            totals = run.totals()
        assert not list(folder.glob("facestream-*"))  # where the sockets were
        return totals, stored(journal)
    content["publish"]["journal"] = str(journal)
    ended = execute(from_mapping(content), pack=pack, quiet=True)
    return {"frames": ended.frames, "faces": ended.faces}, stored(journal)


@pytest.mark.parametrize(("transport", "detect", "embed"), RUNS)
def test_the_events_do_not_depend_on_where_stages_run(
    open_models: Pack,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    transport: str,
    detect: int,
    embed: int,
) -> None:
    scene = scene_of(open_models, tmp_path_factory)
    clip, photos = scene / "clip.mp4", scene / "photos"
    totals, events = play(tmp_path, clip, photos, transport, detect, embed, open_models)
    assert_same(undisturbed(open_models, tmp_path_factory), events)
    assert totals["frames"] == FRAMES and totals["faces"] > FRAMES


def test_real_people_are_recognised_alike(assets: Path, open_models: Pack, tmp_path: Path) -> None:
    """A clip of two people, one of them enrolled from frames of a clip of her own."""
    video = assets / "video"
    photos = tmp_path / "photos"
    (photos / "woman").mkdir(parents=True)
    with av.open(str(video / "head-pose-face-detection-female.gif")) as clip:
        for index, frame in enumerate(clip.decode(video=0)):
            if index % 9 == 0:
                picture = frame.to_ndarray(format="bgr24")
                cv2.imwrite(str(photos / "woman" / f"{index:03}.png"), picture)
    joint = video / "head-pose-face-detection-female-and-male.gif"
    both = [
        play(tmp_path, joint, photos, transport, 4, 16, open_models)[1]
        for transport in ("none", "tcp")
    ]
    assert_same(*both)
    assert "woman" in {getattr(event, "identity", None) for event in both[0]}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/nowhere.mp4", "facestream: /nowhere.mp4: no such file"),
        (
            "rtsp://me:secret-word@127.0.0.1:9/cam",
            "facestream: rtsp://me:***@127.0.0.1:9/cam: Connection refused; given up "
            "(retry_attempts is 1)",
        ),
    ],
)
def test_a_process_that_fails_ends_the_run_as_one_thread_would(
    tmp_path: Path, url: str, says: str
) -> None:
    content = {
        "cameras": [{"name": "hall", "url": url, "retry_attempts": 1}],
        "publish": {"endpoint": "", "journal": "ipc.db"},
        "topology": {"transport": "ipc"},
    }
    with running(tmp_path, "run", str(write(tmp_path / "c.yaml", content)), "--json") as run:
        assert run.end() == (3, "", f"{says}\n")
    last = stored(tmp_path / "ipc.db")[-1:] if (tmp_path / "ipc.db").exists() else []
    assert all(isinstance(e, System) and e.detail.startswith("Source") for e in last)


def documented() -> list[str]:
    """The YAML of docs/topologies.md."""
    page = (Path(facestream.__file__).parent / "docs" / "topologies.md").read_text()
    return re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", documented())
def test_what_the_documentation_shows_is_a_topology(text: str) -> None:
    assert len(nodes_of(from_mapping(yaml.safe_load(text)))) == 4
