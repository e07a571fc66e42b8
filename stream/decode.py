"""Video through PyAV: files, GIF, RTSP, HTTP and webcams."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .. import SourceCorrupt, SourceError, SourceMissing, SourceUnreachable
from ..configs.schema import CameraConfig
from .hardware import accelerator
from .memory import keep_picture_memory
from .records import Frame, Image
from .redact import redact_address
from .timing import Timeline
from .watcher import SourceInfo

# Containers without times of their own: FFmpeg invents 25 frames per second for them.
_UNTIMED = {"mpjpeg", "mjpeg", "h264", "hevc"}
_UDP_BUFFER = 2 * 1024 * 1024  # bytes; a keyframe at 1080p arrives as one burst
_FPS_MOST = 500  # above it, FFmpeg took the clock's unit for a frame rate
# FFmpeg turns the picture counterclockwise by this many degrees to show it upright.
_TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_CLOCKWISE,
}


class SourceStalled(SourceUnreachable):
    """A live source is connected and gives no frame."""


class VideoSource:
    """One opened video; iterate it once for its frames, then close it.

    The first picture is decoded at opening, so that what opens is video. `paced` says that a live
    source is really a file: its reader must wait until a frame is due. `dropped` counts frames that
    could not be decoded ("corrupt"), and those that a file announces and does not hold ("missing":
    it was cut off). Iteration ends with the file; a live source that ends raises SourceUnreachable,
    one that gives no frame for `stall_seconds` raises SourceStalled. Frames before `first` are
    decoded, but not converted or given.
    """

    def __init__(
        self, config: CameraConfig, *, live: bool, timeline: Timeline, dropped: Counter[str]
    ) -> None:
        """Open the video and decode its first picture.

        Raises SourceMissing, SourceCorrupt or SourceUnreachable; ConfigError for an unknown
        hardware decoder.
        """
        self.dropped = dropped
        self.first = 0
        self._config = config
        self._live = live
        self._timeline = timeline
        self._device = config.url.startswith("/dev/")
        self._file = "://" not in config.url and not self._device
        self._rtsp = config.url.lower().startswith(("rtsp://", "rtsps://"))
        self._container = self._open()
        try:
            self._stream = self._choose_stream()
            finite = self._container.duration is not None and not self._device
            self._endless = live and not finite and not self._file
            self.paced = live and finite and not self._rtsp
            self._decoded = self._decode()
            self._head = next(self._decoded, None)
            if self._head is None:
                raise SourceCorrupt(f"{self._name}: expected video, got no picture that decodes")
            self.info = self._describe(self._head)
        except BaseException:
            self._container.close()
            raise
        fps = self.info.fps
        start = self._container.start_time
        timeline.begin(1.0 / fps if fps else 0.04, None if start is None else start / av.time_base)

    @property
    def _name(self) -> str:
        return redact_address(self._config.url)

    @property
    def decoder(self) -> str:
        """What decodes, for people: "h264 in software", "h264 in hardware"."""
        context = self._stream.codec_context
        return f"{context.name} in {'hardware' if context.is_hwaccel else 'software'}"

    def __iter__(self) -> Iterator[Frame]:
        """Yield every `stride`-th frame with its full picture; see Timeline for its times."""
        decoded: VideoFrame | None = self._head
        untimed = self._container.format.name in _UNTIMED
        while decoded is not None:
            raw = None if untimed or decoded.pts is None else float(decoded.time)
            stamp = self._timeline.stamp(raw)
            if stamp.sequence >= self.first and stamp.sequence % self._config.stride == 0:
                yield Frame(self._config.name, *stamp, picture(decoded))
            decoded = next(self._decoded, None)

    def close(self) -> None:
        """Close the connection or file."""
        self._container.close()

    def _open(self) -> InputContainer:
        config = self._config
        wait = config.stall_seconds
        options: dict[str, str] = {}
        if self._rtsp:
            # Without the three probe limits opening takes seconds; sound would hide that no
            # picture comes.
            options = {
                "rtsp_transport": config.transport,
                "allowed_media_types": "video",
                "probesize": "32768",
                "analyzeduration": "100000",
                "fpsprobesize": "0",
                "buffer_size": str(_UDP_BUFFER),
            }
        elif not self._file:
            options = {"analyzeduration": "1000000"}
        try:
            container = av.open(
                f"file:{config.url}" if self._file else config.url,
                "r",
                format="v4l2" if self._device else None,
                options=options,
                metadata_errors="replace",
                timeout=None if self._file else (wait, wait),
                hwaccel=accelerator(config.name, config.hardware),
            )
        except (av.error.FFmpegError, OSError) as error:
            raise self._explain(error) from None  # the cause's text holds the password
        return container

    def _choose_stream(self) -> VideoStream:
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
            raise SourceCorrupt(f"{self._name}: expected a video stream, got none (sound only?)")
        if self._container.format.name == "tty":  # FFmpeg would draw the letters
            raise SourceCorrupt(f"{self._name}: expected video, got a text file")
        # Threads over whole frames decode fastest but hold frames back: not for live video.
        stream.thread_type = "SLICE" if self._live else "AUTO"
        return stream

    def _describe(self, first: VideoFrame) -> SourceInfo:
        height, width = picture(first).shape[:2]
        stream, config = self._stream, self._config
        rate = stream.average_rate
        duration = None if self._endless else self._container.duration
        return SourceInfo(
            camera=config.name,
            url=self._name,
            live=self._live,
            width=width,
            height=height,
            fps=float(rate) if rate is not None and 0 < rate <= _FPS_MOST else None,
            frames=None if self._endless else (stream.frames or None),
            duration=None if duration is None else duration / av.time_base,
        )

    def _decode(self) -> Generator[VideoFrame, None, None]:
        """Yield the frames that decode; count those that do not, or are not there."""
        last, read = time.monotonic(), 0
        # A live file's sound is read too, so that sound without pictures is seen as a stall.
        wanted = self._container.streams if self._live else [self._stream]
        packets: Iterator[Packet[Any]] = self._container.demux(*wanted)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                raise self._explain(error, opened=True) from None
            if packet is None:
                break
            if packet.stream_index == self._stream.index:
                read += packet.size > 0
                for frame in self._pictures(packet):
                    yield frame
                    last = time.monotonic()
            self._check_alive(last)
        if self._endless:
            raise SourceUnreachable(f"{self._name}: the stream ended (camera or server went away)")
        if read < self._stream.frames:
            self.dropped["missing"] += self._stream.frames - read

    def _pictures(self, packet: Packet[Any]) -> list[VideoFrame]:
        """The whole pictures that a packet completes; the others are counted."""
        try:
            frames = [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
        except av.error.FFmpegError:
            self.dropped["corrupt"] += 1
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        if len(whole) < len(frames):
            self.dropped["corrupt"] += len(frames) - len(whole)
        return whole

    def _check_alive(self, last: float) -> None:
        """Raise SourceStalled where packets come and pictures do not."""
        if self._live and time.monotonic() - last > self._config.stall_seconds:
            raise self._stalled()

    def _stalled(self) -> SourceStalled:
        return SourceStalled(f"{self._name}: no picture for {self._config.stall_seconds:g} s")

    def _explain(self, error: Exception, *, opened: bool = False) -> SourceError:
        """Turn an error of FFmpeg into ours; never with the address as it was given."""
        name = self._name
        reason = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, av.error.ProtocolNotFoundError):
            return SourceMissing(f"{name}: no reader for this kind of address; see docs for kinds")
        if not self._file:
            return self._explain_remote(error, reason, opened)
        if opened:
            return SourceCorrupt(f"{name}: the file breaks off in the middle ({reason})")
        if isinstance(error, FileNotFoundError):
            return SourceMissing(f"{name}: no such file")
        if isinstance(error, PermissionError):
            return SourceMissing(f"{name}: may not be read; check its permissions")
        return SourceCorrupt(f"{name}: expected video, got a file that does not open ({reason})")

    def _explain_remote(self, error: Exception, reason: str, opened: bool) -> SourceError:
        name = self._name
        if isinstance(error, av.error.ExitError):
            if opened:
                return self._stalled()
            wait = self._config.stall_seconds
            return SourceUnreachable(f"{name}: no answer within {wait:g} s")
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return SourceUnreachable(f"{name}: refused; check user name and password")
        if isinstance(error, av.error.HTTPNotFoundError):
            return SourceUnreachable(f"{name}: nothing at this address; check the path")
        if isinstance(error, FileNotFoundError):
            return SourceMissing(f"{name}: no such device; check that the camera is plugged in")
        if isinstance(error, av.error.InvalidDataError) and not opened:
            return SourceCorrupt(f"{name}: answers, but not with video")
        return SourceUnreachable(f"{name}: {reason}")


def picture(frame: VideoFrame) -> Image:
    """Return a decoded frame upright as (H, W, 3) uint8 BGR."""
    # One conversion thread: FFmpeg's pool for a single picture costs more than it saves.
    image = frame.to_ndarray(format="bgr24", threads=1)
    turn = _TURNS.get(frame.rotation % 360)
    upright = image if turn is None else cv2.rotate(image, turn)
    return np.asarray(upright, dtype=np.uint8)


class DecodingRates(NamedTuple):
    """One clip decoded to BGR by PyAV's own best loop (bare) and by this source.

    bare, source: frames per second of wall-clock time, medians. ratio: CPU time of the bare loop
    over that of the source, each at its best, which other work on the machine disturbs least;
    1 means that reading through this module costs nothing.
    """

    bare: float
    source: float
    ratio: float


def measure_decoding(path: Path, repeats: int = 3) -> DecodingRates:
    """Decode a file `repeats` times each way, by turns.

    Raises SourceError if the file does not open.
    """
    keep_picture_memory()
    runs: dict[Callable[[Path], int], list[_Run]] = {_read_ours: [], _read_bare: []}
    for _ in range(repeats):
        for loop, seen in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = loop(path)
            seen.append(_Run(count / (time.perf_counter() - wall), time.process_time() - cpu))
    ours, bare = runs[_read_ours], runs[_read_bare]
    return DecodingRates(
        bare=median(run.fps for run in bare),
        source=median(run.fps for run in ours),
        ratio=min(run.cpu for run in bare) / min(run.cpu for run in ours),
    )


class _Run(NamedTuple):
    fps: float
    cpu: float


def _read_bare(path: Path) -> int:
    count = 0
    with av.open(str(path), "r") as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            frame.to_ndarray(format="bgr24", threads=1)
            count += 1
    return count


def _read_ours(path: Path) -> int:
    config = CameraConfig(name="bench", url=str(path), mode="recorded")
    source = VideoSource(config, live=False, timeline=Timeline(live=False), dropped=Counter())
    count = sum(1 for _ in source)
    source.close()
    return count
