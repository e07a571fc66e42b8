"""A real RTSP server for tests: loops clips without re-encoding them.

Runs under the system's Python, which has GStreamer's bindings, not under the project's:
    /usr/bin/python3 rtsp_server.py --mount /cam=clip.mp4 [--mount /b=other.h264] [--port N]
        [--user NAME --password PASSWORD] [--silent-after FRAMES] [--only tcp|udp]
Prints "ready PORT" when it listens. Debian packages: python3-gst-1.0, gir1.2-gst-rtsp-server-1.0,
gstreamer1.0-rtsp, gstreamer1.0-plugins-base, -good and -bad.
"""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer  # noqa: E402, F401

LAUNCH = (
    "( appsrc name=clip format=time is-live=false block=true max-bytes=200000"
    " caps=video/x-h264,stream-format=byte-stream,alignment=au"
    " ! identity sync=true ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
)


def read_access_units(path):
    """Return the clip's coded pictures with their pts in ns, and its length in ns."""
    demux = "qtdemux !" if path.endswith(".mp4") else ""
    pipeline = Gst.parse_launch(
        f"filesrc location={path} ! {demux} h264parse config-interval=-1"
        " ! video/x-h264,stream-format=byte-stream,alignment=au"
        " ! appsink name=out sync=false"
    )
    sink = pipeline.get_by_name("out")
    pipeline.set_state(Gst.State.PLAYING)
    units = []
    while (sample := sink.emit("pull-sample")) is not None:
        buffer = sample.get_buffer()
        units.append((buffer.extract_dup(0, buffer.get_size()), buffer.pts, buffer.duration))
    pipeline.set_state(Gst.State.NULL)
    first = min(pts for _, pts, _ in units)
    length = max(pts for _, pts, _ in units) - first + units[0][2]
    return [(data, pts - first) for data, pts, _ in units], length


class LoopedClip(GstRtspServer.RTSPMediaFactory):
    """Feeds the pictures of a clip to each client, over and over, until told to fall silent."""

    def __init__(self, path, silent_after):
        super().__init__()
        self.units, self.length = read_access_units(path)
        self.silent_after = silent_after
        self.set_launch(LAUNCH)
        self.set_shared(False)
        self.connect("media-configure", self.feed)

    def feed(self, _factory, media):
        source = media.get_element().get_by_name_recurse_up("clip")
        position = [0]
        source.connect("need-data", lambda src, _size: self.push(src, position))

    def push(self, source, position):
        if self.silent_after and position[0] >= self.silent_after:
            return
        turn, index = divmod(position[0], len(self.units))
        data, pts = self.units[index]
        buffer = Gst.Buffer.new_wrapped(data)
        buffer.pts = buffer.dts = turn * self.length + pts
        position[0] += 1
        source.emit("push-buffer", buffer)


def require_password(server, user, password):
    """Ask for basic authentication on every mount."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mount", action="append", required=True, help="/name=clip")
    parser.add_argument("--port", default="0")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--silent-after", type=int, default=0)
    parser.add_argument("--only", choices=["tcp", "udp"], help="refuse the other transport")
    args = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    for mount in args.mount:
        name, path = mount.split("=", 1)
        factory = LoopedClip(path, args.silent_after)
        if args.only:
            factory.set_protocols(getattr(GstRtsp.RTSPLowerTrans, args.only.upper()))
        if args.user:
            permissions = GstRtspServer.RTSPPermissions()
            for right in ("media.factory.access", "media.factory.construct"):
                permissions.add_permission_for_role("viewer", right, True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(name, factory)
    if args.user:
        require_password(server, args.user, args.password)
    if server.attach(None) == 0:
        raise SystemExit("cannot listen")
    print("ready", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
