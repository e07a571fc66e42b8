"""A journal and a ZeroMQ context for tests; video: clips coded on the spot, real servers."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import zmq

from facestream.stream.gallery import Gallery
from facestream.stream.journal import Journal

SYSTEM_PYTHON = "/usr/bin/python3"
RTSP_SERVER = Path(__file__).parents[1] / "rtsp_server.py"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context that must close at once: open sockets left in a test would hang it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = 2000
    yield context
    closing = threading.Thread(target=context.term, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive(), "context could not terminate: a test left sockets open"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a gallery can be made: a file in a folder that is not there yet."""
    return tmp_path / "people" / "gallery.db"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    """An empty one at `path`."""
    with Gallery.open(path, create=True) as opened:
        yield opened


def numbered(index: int, size: tuple[int, int]) -> np.ndarray:
    """A picture that says which one it is by its brightness; red at the top left."""
    width, height = size
    image = np.full((height, width, 3), 30 + 4 * (index % 50), np.uint8)
    image[: height // 4, : width // 4] = (0, 0, 255)
    return image


def index_of(image: np.ndarray) -> int:
    """Read the number back from a `numbered` picture."""
    middle = image[image.shape[0] // 2 :, image.shape[1] // 2 :]
    return round((float(middle.mean()) - 30) / 4)


def write_clip(
    path: Path,
    frames: int = 20,
    *,
    fps: int = 25,
    size: tuple[int, int] = (160, 96),
    times: Sequence[float] | None = None,
    bframes: int = 2,
    rotation: int = 0,
    gop: int = 10,
) -> Path:
    """Code `numbered` pictures as H.264; `times` in seconds makes the frame rate variable."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"preset": "ultrafast", "crf": "12", "bf": str(bframes), "g": str(gop)}
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, size), format="bgr24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (times[index] if times else index / fps))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """20 frames, 25 per second, with B-frames."""
    return write_clip(tmp_path / "clip.mp4")


def without_keyframes(clip: Path, path: Path) -> bytes:
    """The clip as a transport stream of which no picture can be decoded."""
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None and not packet.is_keyframe:
                packet.stream = stream
                out.mux(packet)
    return path.read_bytes()


class RtspServer:
    """The server process; kill it, freeze it, start it again on the same port."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [SYSTEM_PYTHON, str(RTSP_SERVER), "--port", str(self.port), *self.arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("ready"):
            self.stop()
            raise RuntimeError(f"the RTSP server did not start: {line!r}")
        self.port = int(line.split()[1])

    def url(self, mount: str = "cam", login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}/{mount}"

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _missing_gstreamer() -> str | None:
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "names = 'appsrc appsink qtdemux h264parse rtph264pay'.split();"
        "missing = [n for n in names if Gst.ElementFactory.find(n) is None];"
        "raise SystemExit(f'no {missing}' if missing else 0)"
    )
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return f"no {SYSTEM_PYTHON}"
    done = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


@pytest.fixture(scope="session")
def gstreamer() -> None:
    """Skip, loudly, where the RTSP server's Debian packages are not installed."""
    missing = _missing_gstreamer()
    if missing:
        pytest.skip(
            f"RTSP IS NOT TESTED: {missing}; apt-get install python3-gst-1.0 "
            "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp gstreamer1.0-plugins-{base,good,bad}"
        )


@pytest.fixture
def rtsp(gstreamer: None, tmp_path: Path) -> Iterator[Callable[..., RtspServer]]:
    """Start RTSP servers: rtsp("--mount", "/cam=PATH", ...); a clip is served if none is named."""
    servers: list[RtspServer] = []

    def start(*arguments: str) -> RtspServer:
        if "--mount" not in arguments:
            path = write_clip(tmp_path / "served.mp4", 50, bframes=0)
            arguments = ("--mount", f"/cam={path}", *arguments)
        servers.append(RtspServer(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    """/clip: the file; /mjpeg: pictures for ever, 10 per second, /brief: four; /headless: video for
    ever without a picture that decodes; /text; else 404."""

    def __init__(self, clip: Path, closing: threading.Event, *rest: object) -> None:
        self.clip, self.closing = clip, closing
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/clip":
            self._send("video/mp4", self.clip.read_bytes())
        elif path == "/text":
            self._send("text/plain", b"hello, no video here" * 100)
        elif path in ("/mjpeg", "/brief"):
            self._stream(4 if path == "/brief" else None)
        elif path == "/headless":
            self._repeat(without_keyframes(self.clip, self.clip.with_suffix(".ts")))
        else:
            self.send_error(404)

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, pictures: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        index = 0
        with suppress(ConnectionError):
            while index != pictures and not self.closing.wait(0.1):
                picture = cv2.imencode(".jpg", numbered(index, (160, 96)))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
                self.wfile.write(head.encode() + b"\r\n" + picture + b"\r\n")
                index += 1

    def _repeat(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        with suppress(ConnectionError):
            while not self.closing.wait(0.05):
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def http(clip: Path) -> Iterator[str]:
    """An HTTP server on loopback; yields its address, "http://127.0.0.1:PORT"."""
    closing = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, clip, closing))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    closing.set()
    server.shutdown()
    server.server_close()
    thread.join(5)
