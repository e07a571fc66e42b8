"""Access on real sockets: who gets in, who does not, and that the others never notice."""

from __future__ import annotations

import os
import random
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from facestream import PublishError
from facestream.configs.schema import AccessConfig
from facestream.stream.access import LARGEST, Access
from facestream.stream.keys import KeyStore, Pair, load_pair

PATIENCE = 30.0
ANY_PORT = "tcp://127.0.0.1:*"
Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    """A context that must close at once: open sockets left in a test would hang it."""
    context: Context = zmq.Context()
    yield context
    closing = threading.Thread(target=context.term, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive(), "context could not terminate: a test left sockets open"


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys")


class Server:
    """An XPUB that says "tick" without end, and is bound again when a key was revoked."""

    def __init__(self, context: Context, folder: Path, role: str = "subscriber") -> None:
        self.access = Access(AccessConfig(str(folder)), context)
        self.role = role
        self.users: list[str] = []
        self.rebound = 0
        self._context = context
        self._stop = threading.Event()
        self._socket, self.endpoint = self._bind(ANY_PORT)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _bind(self, endpoint: str) -> tuple[zmq.Socket[bytes], str]:
        bound = self._context.socket(zmq.XPUB)
        bound.linger = 0
        return bound, self.access.bind(bound, endpoint, "publish.endpoint", self.role)  # type: ignore[arg-type]

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(10):
                frame = self._socket.recv(copy=False)
                if frame.bytes[:1] == b"\1":
                    self.users.append(_user(frame))
            self._socket.send(b"tick", zmq.DONTWAIT)
            if self.access.revoked(self._socket):
                self._socket.close()
                self._socket, _ = self._bind(self.endpoint)
                self.rebound += 1
        self._socket.close()
        self.access.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


def _user(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # no metadata: the connection has no key


@pytest.fixture
def serve(context: Context, store: KeyStore) -> Iterator[Callable[..., Server]]:
    """Starts servers on the test's keys."""
    with ExitStack() as stack:

        def start(role: str = "subscriber", folder: Path | None = None) -> Server:
            server = Server(context, folder or store.folder, role)
            stack.callback(server.close)
            return server

        yield start


class Subscriber:
    """A SUB socket, with a key or without, that knows how its handshakes went."""

    def __init__(self, context: Context, endpoint: str, pair: Pair | None) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.reconnect_ivl = 20
        if pair is not None:
            self._socket.curve_publickey = pair.public.encode()
            self._socket.curve_secretkey = pair.secret.encode()
            self._socket.curve_serverkey = pair.server.encode()
        self._monitor = self._socket.get_monitor_socket()
        self._socket.subscribe(b"")
        self._socket.connect(endpoint)

    def hears(self, seconds: float = PATIENCE) -> bool:
        """Whether something new comes."""
        while self._socket.poll(0):
            self._socket.recv()
        return bool(self._socket.poll(int(seconds * 1000)))

    def wait_for(self, *events: zmq.Event) -> None:
        """Until one of these things has happened to the connection."""
        deadline = time.monotonic() + PATIENCE
        while self._monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            if parse_monitor_message(self._monitor.recv_multipart())["event"] in events:
                return
        raise AssertionError(f"none of {events} happened")

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)


@pytest.fixture
def join(context: Context) -> Iterator[Callable[[Server, Pair | None], Subscriber]]:
    """Connects subscribers."""
    with ExitStack() as stack:

        def connect(server: Server, pair: Pair | None) -> Subscriber:
            subscriber = Subscriber(context, server.endpoint, pair)
            stack.callback(subscriber.close)
            return subscriber

        yield connect


Serve = Callable[..., Server]
Join = Callable[[Server, Pair | None], Subscriber]


def make(store: KeyStore, name: str, *topics: str, role: str = "subscriber") -> Pair:
    _, file = store.create(name, role, topics, store.folder.parent)  # type: ignore[arg-type]
    return load_pair(file)


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_good_key_gets_in_and_the_server_knows_whose_it_is(
    store: KeyStore, serve: Serve, join: Join
) -> None:
    pair = make(store, "wall", "match/door")
    server = serve()
    assert server.access.secured
    assert join(server, pair).hears()
    eventually(lambda: bool(server.users))
    assert server.users == [f"wall/{pair.public}"]
    assert server.access.may_read(server.users[0], "facestream/v1/match/door")
    assert not server.access.may_read(server.users[0], "facestream/v1/unknown/door")
    assert not server.access.may_read("wall/" + "x" * 40, "facestream/v1/match/door")


def test_without_the_right_keys_nobody_gets_in_and_others_go_on(
    store: KeyStore, serve: Serve, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    good, node = make(store, "wall"), make(store, "box", role="node")
    stranger = make(KeyStore(store.folder.parent / "elsewhere"), "stranger")
    server = serve()
    listener = join(server, good)
    assert listener.hears()
    refused = {
        "no key": None,
        "unknown key": Pair("stranger", stranger.public, stranger.secret, good.server),
        "wrong server key": Pair("wall", good.public, good.secret, stranger.server),
        "wrong role": node,
    }
    for reason, pair in refused.items():
        subscriber = join(server, pair)
        subscriber.wait_for(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH,
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        )
        eventually(partial(server.access.refusals.counts.__getitem__, reason))
        assert not subscriber.hears(0.1)
        assert listener.hears()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(refused), told  # though one of them tries again and again
    assert not any(secret in line for line in told for secret in (good.secret, stranger.secret))


def test_a_subscribers_key_is_none_for_a_nodes_socket(
    store: KeyStore, serve: Serve, join: Join
) -> None:
    wall, box = make(store, "wall"), make(store, "box", role="node")
    server = serve("node")
    join(server, wall).wait_for(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert server.access.refusals.counts["wrong role"] == 1
    assert join(server, box).hears()


def test_a_new_key_works_at_once(store: KeyStore, serve: Serve, join: Join) -> None:
    make(store, "wall")
    server = serve()
    assert join(server, make(store, "second")).hears()
    assert server.rebound == 0


def test_revoking_ends_live_connections_and_the_others_come_back(
    store: KeyStore, serve: Serve, join: Join
) -> None:
    pairs = [make(store, name) for name in ("leaver", "stayer")]
    server = serve()
    leaver, stayer = (join(server, pair) for pair in pairs)
    assert leaver.hears() and stayer.hears()
    store.revoke("leaver")
    leaver.wait_for(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert not leaver.hears(0.2)
    assert stayer.hears()
    assert server.rebound == 1


def test_losing_a_right_cuts_the_connection_and_winning_one_does_not(
    store: KeyStore, context: Context
) -> None:
    user = f"wall/{make(store, 'wall', 'match', 'unknown').public}"
    file = store.folder / "allowed" / "wall.key"

    def change(topics: str) -> None:
        text = file.read_text().splitlines()
        draft = file.with_suffix(".draft")
        draft.write_text("\n".join(f"topics = {topics}" if "topics" in t else t for t in text))
        draft.rename(file)

    with Access(AccessConfig(str(store.folder)), context) as access:
        with context.socket(zmq.XPUB) as bound:
            endpoint = access.bind(bound, ANY_PORT, "publish.endpoint", "subscriber")
            revoked: list[bool] = []
            change("match/* unknown/* */hall")

            def widened() -> bool:
                revoked.append(access.revoked(bound))
                return access.may_read(user, "facestream/v1/system/hall")

            eventually(widened)
            assert not any(revoked)
            change("match/*")
            eventually(lambda: access.revoked(bound))
            bound.close(0)
        with context.socket(zmq.XPUB) as again:
            assert access.bind(again, endpoint, "publish.endpoint", "subscriber") == endpoint
            assert not access.revoked(again)


def test_the_first_key_closes_sockets_that_asked_for_none(
    store: KeyStore, serve: Serve, join: Join
) -> None:
    server = serve()
    assert not server.access.secured
    anybody = join(server, None)
    assert anybody.hears()
    assert server.users == [""] and server.access.may_read("", "")
    pair = make(store, "wall")
    anybody.wait_for(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    assert join(server, pair).hears()


@pytest.fixture
def short_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that gets no answer is given up soon."""
    monkeypatch.setattr("facestream.stream.access.HANDSHAKE_SECONDS", 2.0)


@pytest.mark.usefixtures("short_handshakes")
def test_nobody_gets_in_once_nobody_answers(store: KeyStore, context: Context) -> None:
    """libzmq lets everybody in where no ZAP handler is, unless told not to."""
    stranger = make(KeyStore(store.folder.parent / "elsewhere"), "stranger")
    server = make(store, "wall").server
    access = Access(AccessConfig(str(store.folder)), context)
    with context.socket(zmq.XPUB) as bound:
        bound.linger = 0
        endpoint = access.bind(bound, ANY_PORT, "publish.endpoint", "subscriber")
        access.close()
        access.close()
        subscriber = Subscriber(
            context, endpoint, Pair("", stranger.public, stranger.secret, server)
        )
        subscriber.wait_for(
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        assert not bound.poll(100)
        subscriber.close()


def test_beyond_loopback_takes_keys_or_as_many_words(
    store: KeyStore, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    everywhere = "tcp://0.0.0.0:*"
    folder = str(store.folder)
    with (
        Access(AccessConfig(folder), context) as access,
        context.socket(zmq.XPUB) as bound,
        pytest.raises(PublishError, match="`facestream keys new NAME`"),
    ):
        access.bind(bound, everywhere, "publish.endpoint", "subscriber")
    open_to_all = AccessConfig(folder, listen_without_keys=True)
    with Access(open_to_all, context) as access, context.socket(zmq.XPUB) as bound:
        assert access.bind(bound, everywhere, "publish.endpoint", "subscriber")
        assert "without keys: everybody" in caplog.text
        bound.close(0)
    make(store, "wall")
    with Access(AccessConfig(folder), context) as access, context.socket(zmq.XPUB) as bound:
        assert access.bind(bound, everywhere, "publish.endpoint", "subscriber")
        assert bound.mechanism == zmq.CURVE
        bound.close(0)


def hop(context: Context, later: Access, earlier: Access, to: str | None = None) -> bool:
    """Whether a node's DEALER reaches a node's ROUTER and hears the answer."""
    with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.linger = dealer.linger = 0
        failed = dealer.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        try:
            endpoint = later.bind(router, ANY_PORT, "topology.nodes", "node")
            earlier.connect(dealer, endpoint if to is None else to.format(endpoint.split(":")[-1]))
            dealer.send(b"work")
            poller = zmq.Poller()
            poller.register(router, zmq.POLLIN)
            poller.register(failed, zmq.POLLIN)
            happened = dict(poller.poll(int(PATIENCE * 1000)))
            assert happened, "the connection neither came about nor failed"
            if router not in happened:
                return False
            router.send_multipart(router.recv_multipart())
            return bool(dealer.poll(int(PATIENCE * 1000)))
        finally:
            dealer.disable_monitor()
            failed.close(0)


def test_nodes_of_one_machine_need_nothing_said(store: KeyStore, context: Context) -> None:
    with Access(AccessConfig(str(store.folder)), context) as access:
        assert hop(context, access, access)
    make(store, "wall")
    with Access(AccessConfig(str(store.folder)), context) as access:
        assert hop(context, access, access)


def test_a_node_on_another_machine_takes_the_key_that_was_made_for_it(
    tmp_path: Path, context: Context
) -> None:
    there, here = KeyStore(tmp_path / "there"), KeyStore(tmp_path / "here")
    _, file = there.create("box", "node", (), tmp_path)
    make(here, "wall")  # this machine has subscribers of its own
    with (
        Access(AccessConfig(str(there.folder)), context) as later,
        Access(AccessConfig(str(here.folder)), context) as earlier,
    ):
        assert not hop(context, later, earlier)
        here.add_peer(file, "127.0.0.1")
        assert hop(context, later, earlier)
        assert hop(context, later, earlier, "tcp://localhost:{}")
        there.revoke("box")
        assert not hop(context, later, earlier)


def test_faces_travel_to_other_machines_with_a_key_only(store: KeyStore, context: Context) -> None:
    with (
        Access(AccessConfig(str(store.folder)), context) as access,
        context.socket(zmq.DEALER) as dealer,
        pytest.raises(PublishError, match=r"facestream keys new NAME --role node.*keys import"),
    ):
        access.connect(dealer, "tcp://192.0.2.1:6000")


def test_a_socket_file_is_for_its_user_alone(
    store: KeyStore, context: Context, tmp_path: Path
) -> None:
    make(store, "wall")
    path = tmp_path / "events"
    with (
        Access(AccessConfig(str(store.folder)), context) as access,
        context.socket(zmq.XPUB) as bound,
        context.socket(zmq.SUB) as local,
    ):
        bound.linger = local.linger = 0
        before = os.umask(0)
        try:
            access.bind(bound, f"ipc://{path}", "publish.endpoint", "subscriber")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        with pytest.raises(PublishError, match="events is in use"):
            access.bind(bound, f"ipc://{path}", "publish.endpoint", "subscriber")
        local.subscribe(b"")  # no key: the file system says who may
        local.connect(f"ipc://{path}")
        assert bound.poll(int(PATIENCE * 1000))
        assert access.may_read(_user(bound.recv(copy=False)), "")


def test_a_port_in_use_is_named(context: Context, store: KeyStore) -> None:
    with (
        Access(AccessConfig(str(store.folder)), context) as access,
        context.socket(zmq.XPUB) as bound,
        socket.socket() as taken,
    ):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PublishError, match=f"port {port} is in use; stop the program"):
            access.bind(bound, f"tcp://127.0.0.1:{port}", "publish.endpoint", "subscriber")


@pytest.mark.parametrize("secured", [False, True])
def test_garbage_on_the_port_changes_nothing_for_others(
    store: KeyStore,
    serve: Serve,
    join: Join,
    caplog: pytest.LogCaptureFixture,
    secured: bool,
) -> None:
    pair = make(store, "wall") if secured else None
    server = serve()
    listener = join(server, pair)
    assert listener.hears()
    address = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    dice = random.Random(7)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)
    hello = b"\x04\xc8\x05HELLO\x01\x00" + dice.randbytes(192)
    waves: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        lambda: dice.randbytes(dice.randrange(1, 4000)),
        lambda: greeting[: dice.randrange(len(greeting))],
        lambda: greeting + hello,
        lambda: greeting + hello[: dice.randrange(len(hello))],
        lambda: greeting + b"\x06" + b"\xff" * 8 + dice.randbytes(100),  # says it has 2^64 bytes
    ]
    halves: list[socket.socket] = []
    with ExitStack() as stack:
        for number in range(2100):
            raw = socket.create_connection(address, timeout=PATIENCE)
            if number % 10:
                with raw:
                    raw.sendall(waves[number % len(waves)]())
            else:  # stays, half way through the handshake
                halves.append(stack.enter_context(raw))
                raw.sendall(greeting[:20])
        assert listener.hears()
        assert join(server, pair).hears()
    eventually(lambda: server.access.refusals.counts.total() > 1000)
    assert listener.hears()
    assert len(caplog.records) < 10
    assert server.rebound == 0


def test_a_frame_that_is_too_large_ends_its_connection_and_no_other(
    store: KeyStore, serve: Serve, join: Join, context: Context
) -> None:
    server = serve()
    listener = join(server, None)
    assert listener.hears()
    with context.socket(zmq.XSUB) as hostile:
        hostile.linger = 0
        monitor = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile.connect(server.endpoint)
        hostile.send(b"\x01" + b"x" * LARGEST["subscriber"])
        assert monitor.poll(int(PATIENCE * 1000))
        hostile.disable_monitor()
        monitor.close(0)
    assert listener.hears()
    assert server.users == [""]


@pytest.mark.usefixtures("short_handshakes")
def test_a_folder_that_became_unsafe_lets_nobody_new_in(
    store: KeyStore, serve: Serve, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make(store, "wall")
    server = serve()
    inside = join(server, pair)
    assert inside.hears()
    (store.folder / "allowed").chmod(0o777)
    second = store.folder / "allowed" / "planted.key"
    second.write_text((store.folder / "allowed" / "wall.key").read_text())
    waiting = join(server, pair)
    eventually(lambda: server.access.refusals.counts["keys unreadable"] > 0)
    assert inside.hears() and not waiting.hears(0.1)
    assert caplog.text.count("could let themselves in") >= 1
    second.unlink()
    (store.folder / "allowed").chmod(0o700)
    assert waiting.hears()  # it was told to try again, and did


def test_keys_of_two_folders_cannot_be_checked_in_one_context(
    tmp_path: Path, context: Context
) -> None:
    with ExitStack() as stack:
        for name in ("one", "two"):
            store = KeyStore(tmp_path / name)
            make(store, name)
            access = stack.enter_context(Access(AccessConfig(str(store.folder)), context))
            bound = stack.enter_context(context.socket(zmq.XPUB))
            if name == "one":
                access.bind(bound, ANY_PORT, "publish.endpoint", "subscriber")
                continue
            with pytest.raises(PublishError, match="another Access of this process; share it"):
                access.bind(bound, ANY_PORT, "publish.endpoint", "subscriber")
