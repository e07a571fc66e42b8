"""Real clips: two people enrolled from clips of their own are named where they are, nobody else is.

The clips are Intel's IoT DevKit samples (CC BY 4.0). The woman of the head-pose clip is by all
appearances also one of the three people of face-demographics-walking-and-pause.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import pytest

from facestream.configs.schema import (
    CameraConfig,
    Config,
    DetectConfig,
    EmbedConfig,
    GalleryConfig,
    ModelsConfig,
    PublishConfig,
)
from facestream.models.pack import Pack
from facestream.stream.events import MatchEvent, MatchRevised, SightingEnded, TrackEvent
from facestream.tools.build import Parts

PACKS = ["open", "omz"]
JOINT = "head-pose-face-detection-female-and-male.gif"
PEOPLE = {
    "woman": "head-pose-face-detection-female.gif",
    "man": "head-pose-face-detection-male.gif",
}
LONG = "one-by-one-person-detection.mp4"
LOOKED_AT = 36.0  # seconds of the long clip: most of the faces are there
# clip: tracks, who may be named besides nobody, stride (to save time)
OTHERS = {
    "classroom.gif": (4, set(), 1),
    "face-demographics-walking.gif": (2, set(), 1),
    "face-demographics-walking-and-pause.gif": (3, {"woman"}, 1),
    LONG: (None, set(), 4),
}
Run = Callable[..., list[TrackEvent]]


@pytest.fixture(scope="module")
def photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of each person's own clip, a folder per person."""
    folder = tmp_path_factory.mktemp("photos")
    for name, clip in PEOPLE.items():
        (folder / name).mkdir()
        with av.open(str(assets / "video" / clip)) as video:
            frames = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
        for index in range(0, len(frames), len(frames) // 6 + 1):
            assert cv2.imwrite(str(folder / name / f"{index:03}.png"), frames[index])
    return folder


@pytest.fixture(scope="module")
def clips(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The clips by name; the long one is cut."""
    found = {path.name: path for path in (assets / "video").iterdir()}
    short = tmp_path_factory.mktemp("clips") / LONG
    with av.open(str(found[LONG])) as source, av.open(str(short), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None and packet.dts * video.time_base < LOOKED_AT:
                packet.stream = stream
                out.mux(packet)
    return found | {LONG: short}


@pytest.fixture(scope="module")
def run(
    request: pytest.FixtureRequest,
    clips: dict[str, Path],
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Run a clip of the asset folder, once for all tests; returns the events of its tracks."""

    @cache
    def start(name: str, clip: str, batch: int = 4, stride: int = 1) -> list[TrackEvent]:
        pack: Pack = request.getfixturevalue(f"{name}_models")
        config = Config(
            cameras=(CameraConfig("cam", str(clips[clip]), stride=stride),),
            models=ModelsConfig(pack=name),
            detect=DetectConfig(batch=batch),
            embed=EmbedConfig(batch=batch),
            gallery=GalleryConfig(folder=str(photos)),
            publish=PublishConfig(endpoint="", journal=str(tmp_path_factory.mktemp("run") / "j")),
        )
        with Parts(config, pack) as parts:
            parts.pipeline().run()
            return [e for e in parts.journal.read() if isinstance(e, TrackEvent)]

    return start


@pytest.mark.parametrize("pack", PACKS)
def test_both_are_named_in_the_joint_clip_and_have_one_track_each(run: Run, pack: str) -> None:
    events = run(pack, JOINT)
    ends = [e for e in events if isinstance(e, SightingEnded)]
    assert sorted(str(e.identity) for e in ends) == ["man", "woman"]
    assert all(e.faces >= 50 and e.score is not None and e.score > e.threshold for e in ends)
    places = {e.identity: e.evidence[0].box[0] for e in ends}
    assert places["man"] != places["woman"]
    assert not [e for e in events if isinstance(e, MatchRevised)]
    assert {e.identity for e in events if isinstance(e, MatchEvent)} == {"man", "woman"}


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("who", PEOPLE)
def test_each_is_known_in_the_clip_of_their_own(run: Run, pack: str, who: str) -> None:
    ends = [e for e in run(pack, PEOPLE[who]) if isinstance(e, SightingEnded)]
    assert [e.identity for e in ends] == [who]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("clip", OTHERS)
def test_strangers_are_not_named(run: Run, pack: str, clip: str) -> None:
    tracks, allowed, stride = OTHERS[clip]
    events = run(pack, clip, 4, stride)
    named = {e.identity for e in events if isinstance(e, MatchEvent | MatchRevised | SightingEnded)}
    assert named - {None} <= allowed
    if tracks is not None:
        ends = [e for e in events if isinstance(e, SightingEnded)]
        assert len(ends) == tracks
        # Nobody comes or goes in the middle: a track that began at the start lasts to the end.
        assert all(e.frame >= max(end.frame for end in ends) - 2 for e in ends)


def comparable(event: TrackEvent) -> dict[str, Any]:
    """What must not depend on the run: everything but wall clocks, epoch and ids."""
    data = msgspec.to_builtins(event)
    for key in ("id", "epoch", "decided_at", "published_at", "captured_at", "started_at"):
        data.pop(key, None)
    data["evidence"] = [
        {k: v for k, v in frame.items() if k != "captured_at"} for frame in data.get("evidence", ())
    ]
    return data


@pytest.mark.parametrize(("stride", "batches"), [(1, (4, 16)), (3, (16,))])
@pytest.mark.parametrize("pack", PACKS)
def test_batch_sizes_change_nothing(
    run: Run, pack: str, stride: int, batches: tuple[int, ...]
) -> None:
    one, *others = (
        [comparable(e) for e in run(pack, JOINT, batch, stride)] for batch in (1, *batches)
    )
    assert len(one) >= 6
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)


def assert_close(one: object, other: object) -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6)
    else:
        assert one == other
