"""Recorded sources: every frame, upright, at its own time; a clear error for everything else."""

import logging
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available

from facestream import ConfigError, SourceCorrupt, SourceMissing, SourceUnreachable
from facestream.configs.schema import CameraConfig
from facestream.stream.decode import measure_decoding
from facestream.stream.hardware import hardware_decoders
from facestream.stream.records import Frame
from facestream.stream.source import Source, is_live, kind_of, open_source

from .conftest import index_of, numbered, write_clip


def camera(url: object, **settings: object) -> CameraConfig:
    return CameraConfig(name="door", url=str(url), **settings)  # type: ignore[arg-type]


def read(url: object, **settings: object) -> tuple[Source, list[Frame]]:
    source = open_source(camera(url, **settings))
    frames = list(source)
    source.close()
    return source, frames


def test_a_clip_with_b_frames_gives_every_frame_in_order(clip: Path) -> None:
    source, frames = read(clip)
    assert [f.sequence for f in frames] == list(range(20))
    assert [index_of(f.image) for f in frames] == pytest.approx(list(range(20)), abs=1)
    assert [f.pts for f in frames] == pytest.approx([i / 25 for i in range(20)], abs=1e-3)
    captured = [f.captured_at - frames[0].captured_at for f in frames]
    assert captured == pytest.approx([f.pts for f in frames])
    assert source.info.live is False
    assert (source.info.width, source.info.height) == (160, 96)
    assert source.info.duration == pytest.approx(0.8, abs=0.1)


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.3, 0.35, 1.1, 1.14]
    _, frames = read(write_clip(tmp_path / "vfr.mp4", 6, times=times))
    assert [f.pts for f in frames] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, rotation: int) -> None:
    source, frames = read(write_clip(tmp_path / "turned.mp4", 3, rotation=rotation))
    height, width = frames[0].image.shape[:2]
    assert (width, height) == ((160, 96) if rotation == 180 else (96, 160))
    assert (source.info.width, source.info.height) == (width, height)
    expected = np.rot90(numbered(0, (160, 96)), rotation // 90)  # counterclockwise
    assert np.abs(frames[0].image.astype(int) - expected).mean() < 8


def test_stride_skips_and_keeps_the_numbers(clip: Path) -> None:
    _, frames = read(clip, stride=3)
    assert [f.sequence for f in frames] == [0, 3, 6, 9, 12, 15, 18]
    assert [index_of(f.image) for f in frames] == pytest.approx([0, 3, 6, 9, 12, 15, 18], abs=1)


def test_a_file_address_is_a_path(clip: Path) -> None:
    named = clip.rename(clip.with_name("a b.mp4"))
    assert len(read(named.as_uri())[1]) == 20


def test_file_names_may_look_like_anything(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("rtsp.mp4", "a:b.mp4", "a#b?.mp4", "%03d.mp4", "-x.mp4", "\udcff.mp4"):
        (tmp_path / name).hardlink_to(clip)
        source = open_source(camera(name, mode="live"))
        source.close()
        assert source.paced, name
        source.info.url.encode()
    assert len(read("~/rtsp.mp4")[1]) == 20


def test_gif_delays_become_times(tmp_path: Path) -> None:
    delays = [0.1, 0.5, 0.2, 0.1]
    starts = [sum(delays[:i]) for i in range(4)]
    with av.open(str(tmp_path / "a.gif"), "w") as out:
        stream = out.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for index, start in enumerate(starts):
            frame = av.VideoFrame.from_ndarray(numbered(30 * index, (64, 48)), format="bgr24")
            frame.pts = round(start * 10)
            out.mux(stream.encode(frame.reformat(format="rgb8")))
        out.mux(stream.encode())
    _, frames = read(tmp_path / "a.gif")
    assert [f.pts for f in frames] == pytest.approx(starts, abs=0.011)


def test_a_truncated_transport_stream_gives_what_is_left(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.ts", 40).read_bytes()
    (tmp_path / "half.ts").write_bytes(whole[: len(whole) // 2])
    _, frames = read(tmp_path / "half.ts")
    assert 5 < len(frames) < 40
    assert all(f.image.shape == (96, 160, 3) for f in frames)


def test_a_file_that_was_cut_off_says_how_much_is_missing(tmp_path: Path, clip: Path) -> None:
    whole = tmp_path / "whole.mp4"
    with (
        av.open(str(clip)) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert read(whole)[0].dropped == {}
    cut, frames = read(tmp_path / "cut.mp4")
    assert 0 < len(frames) < 20 == cut.info.frames
    assert 0 < cut.dropped["missing"] <= 20 - len(frames)


def test_damaged_pictures_are_counted(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.ts", 60, gop=12, size=(320, 192)).read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data) // 3, len(data) * 2 // 3, 60):
        data[place] ^= 0x55
    (tmp_path / "damaged.ts").write_bytes(data)
    source, frames = read(tmp_path / "damaged.ts")
    assert source.dropped["corrupt"] > 0
    assert 20 < len(frames) < 60


def test_what_is_not_video_is_an_error_of_one_line(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "garbage.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:600])
    (tmp_path / "empty folder").mkdir()
    with av.open(str(tmp_path / "sound.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
    (tmp_path / "notes.txt").write_text("FFmpeg would draw these letters\n")
    for name in ("empty.mp4", "garbage.mp4", "cut.mp4", "sound.wav", "notes.txt", "empty folder"):
        with pytest.raises(SourceCorrupt, match=f"{name}: expected") as raised:
            open_source(camera(tmp_path / name))
        assert "\n" not in str(raised.value)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    for url in (tmp_path / "no.mp4", tmp_path / "no.jpg", tmp_path / "no", "/dev/video97"):
        with pytest.raises(SourceMissing, match="no such"):
            open_source(camera(url))
    with pytest.raises(SourceMissing, match="no such file"):
        open_source(camera(tmp_path / "no.mp4", mode="live"))
    with pytest.raises(SourceMissing, match="no reader"):
        open_source(camera("gopherx://u:secret@host/x"))


def test_an_unreachable_address_hides_its_password() -> None:
    with pytest.raises(SourceUnreachable) as raised:
        open_source(camera("rtsp://me:secret@127.0.0.1:9/x", stall_seconds=2.0))
    assert "rtsp://me:***@127.0.0.1:9/x" in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "kind", "live"),
    [
        ("rtsp://h/x", "network", True),
        ("http://h/x.mp4", "network", True),
        ("/dev/video0", "device", True),
        ("clip.mp4", "video", False),
        ("clip.gif", "video", False),
        ("face.JPG", "images", False),
        ("synthetic:", "synthetic", False),
        ("synthetic:?live=1", "synthetic", True),
    ],
)
def test_kind_and_mode_follow_the_address(url: str, kind: str, live: bool) -> None:
    assert (kind_of(url), is_live(camera(url))) == (kind, live)
    assert is_live(camera(url, mode="live")) and not is_live(camera(url, mode="recorded"))


def test_settings_that_cannot_be_are_named(clip: Path) -> None:
    wrong: list[dict[str, object]] = [{"stride": 0}, {"fps": 0.0}, {"hardware": "warp9"}]
    for settings in wrong:
        with pytest.raises(ConfigError, match=f"door: {next(iter(settings))} must be"):
            open_source(camera(clip, **settings))


def test_hardware_that_does_not_work_leaves_decoding_to_software(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(hardware_decoders()) <= set(hwdevices_available())
    broken = [name for name in hwdevices_available() if name not in hardware_decoders()]
    if not broken:
        pytest.skip("every hardware decoder works on this machine")
    with caplog.at_level(logging.WARNING):
        _, frames = read(clip, hardware=broken[0])
    assert len(frames) == 20
    assert "decoding in software" in caplog.text


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for index, size in ((2, (64, 48)), (10, (80, 60)), (1, (64, 48))):
        assert cv2.imwrite(str(tmp_path / f"f{index}.png"), numbered(index, size))
    (tmp_path / "f3.jpg").write_bytes(b"not a picture")
    (tmp_path / "f4.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "notes.txt").write_text("left alone")
    (tmp_path / "folder.jpg").mkdir()
    source, frames = read(tmp_path, fps=5.0)
    assert [index_of(f.image) for f in frames] == [1, 2, 10]
    assert [f.sequence for f in frames] == [0, 1, 2]
    assert [f.pts for f in frames] == pytest.approx([0.0, 0.2, 0.8])
    assert frames[2].image.shape == (60, 80, 3)
    assert source.dropped == {"unreadable": 2}
    assert (source.info.frames, source.info.fps) == (5, 5.0)


def test_a_single_picture_is_one_frame(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.jpg"), numbered(5, (64, 48)))
    _, frames = read(tmp_path / "face.jpg")
    assert [index_of(f.image) for f in frames] == [5]


def test_decoding_rates_are_measured(clip: Path) -> None:
    rates = measure_decoding(clip, repeats=1)
    assert rates.bare > 0 and rates.source > 0 and rates.ratio > 0


COUNTS = {
    "classroom.gif": (45, 2.99),
    "face-demographics-walking-and-pause.gif": (41, 3.41),
    "face-demographics-walking.gif": (35, 2.91),
    "head-pose-face-detection-female-and-male.gif": (56, 4.66),
    "head-pose-face-detection-female.gif": (23, 1.91),
    "head-pose-face-detection-male.gif": (62, 5.16),
    "one-by-one-person-detection.mp4": (1394, 139.4),
}


@pytest.mark.skipif("FACESTREAM_ASSETS" not in os.environ, reason="FACESTREAM_ASSETS is not set")
@pytest.mark.parametrize("name", COUNTS)
def test_real_clips_decode_whole(name: str) -> None:
    source, frames = None, 0
    source = open_source(camera(Path(os.environ["FACESTREAM_ASSETS"]) / "video" / name))
    last = 0.0
    for frame in source:
        frames, last = frames + 1, frame.pts
    source.close()
    count, duration = COUNTS[name]
    assert frames == count == source.info.frames
    assert source.info.duration == pytest.approx(duration, abs=0.02)
    assert duration - 0.15 < last < duration
