"""The key store: a folder of CURVE keys, and what each of them may do.

    server.key_secret         the pair that this machine's tcp sockets show
    server.key                its public half, for people
    local.key_secret          the pair with which programs of this machine connect to each other
    allowed/NAME.key          public keys that may connect, with their role and topics
    peers/ADDRESS.key_secret  pairs with which this machine's nodes connect to other machines

Files have pyzmq's certificate form (zmq.auth), with what is ours under `metadata`. A client needs
one file, NAME.key_secret: its pair, and the server's public key. Needs pyzmq and msgspec alone.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

import zmq

from .. import ConfigError, PublishError
from .rights import EVERYTHING, covers, parse_right

Role = Literal["subscriber", "node"]
OWN = "local"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::[0-9]{1,5})?")
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_FILE_MOST = 65536


@dataclass(frozen=True)
class Key:
    """A key that may connect.

    public: its public half, 40 characters of Z85. topics: rights as `parse_right` gives them.
    created_at: UTC.
    """

    name: str
    role: Role
    topics: tuple[str, ...]
    created_at: datetime
    public: str

    def may_read(self, topic: str) -> bool:
        """Whether `topic` is inside the rights of this key, see `rights.covers`."""
        return any(covers(right, topic) for right in self.topics)


@dataclass(frozen=True)
class Pair:
    """A pair of keys, 40 characters of Z85 each; server: the public key of who it connects to."""

    name: str
    public: str
    secret: str = field(repr=False)
    server: str


def load_pair(path: Path | str) -> Pair:
    """The pair in a NAME.key_secret file.

    Raises PublishError where it cannot be read, is no such file, or others could read it too.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise PublishError(f"the key {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PublishError(
            f"the secret key {path} can be read by other users of this machine (mode "
            f"{stat.S_IMODE(mode):o}): chmod 600 it, and make a new one if somebody may have"
        )
    values = _read(path)
    if not {"public-key", "secret-key", "server-key"} <= values.keys():
        raise PublishError(
            f"{path} is no secret key of facestream: expected public-key, secret-key and "
            "server-key, as `facestream keys new NAME` writes them into NAME.key_secret"
        )
    return Pair(
        values.get("name", path.stem),
        values["public-key"],
        values["secret-key"],
        values["server-key"],
    )


class KeyStore:
    """The keys of one folder. Holds nothing: every call looks at the files."""

    def __init__(self, folder: Path) -> None:
        """The folder need not be there: then there are no keys."""
        self.folder = folder

    def server(self) -> Pair | None:
        """The pair that this machine's sockets show; None where no key was ever made."""
        return self._pair("server")

    def own(self) -> Pair | None:
        """The pair with which programs of this machine connect to each other."""
        return self._pair(OWN)

    def peer(self, host: str, port: str) -> Pair | None:
        """The pair for a node on another machine: of HOST:PORT, else of HOST."""
        return self._pair(f"peers/{host}:{port}") or self._pair(f"peers/{host}")

    def peers(self) -> list[str]:
        """Addresses that this machine's nodes have a pair for."""
        return sorted(path.stem for path in (self.folder / "peers").glob("*.key_secret"))

    def allowed(self) -> tuple[dict[str, Key], dict[str, str]]:
        """Keys that may connect, by name; and of files that are no keys, what is wrong with them.

        Raises PublishError where others can write into the folder, and so let themselves in.
        """
        keys: dict[str, Key] = {}
        damaged: dict[str, str] = {}
        self._check_folders()
        for path in sorted(self._allowed_folder.glob("*.key")):
            try:
                keys[path.stem] = _as_key(path)
            except (PublishError, ConfigError, OSError) as error:
                if path.exists():  # else it was revoked meanwhile
                    damaged[path.stem] = str(error)
        return keys, damaged

    def stamp(self) -> tuple[tuple[str, int, int, int], ...]:
        """Changes when a key is made, changed or revoked: of each file name, inode, time, size."""
        found = []
        for folder in (self.folder, self._allowed_folder):
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                continue  # no keys yet
            except OSError as error:
                raise PublishError(
                    f"the folder of keys {folder} cannot be read: {error.strerror}; set "
                    "access.keys to a folder"
                ) from error
            for name in names:
                if name.endswith((".key", ".key_secret")):
                    path = folder / name
                    with suppress(FileNotFoundError):  # it went as we looked, or links to nothing
                        at = path.stat()
                        found.append((str(path), at.st_ino, at.st_mtime_ns, at.st_size))
        return tuple(sorted(found))

    def create(self, name: str, role: Role, topics: tuple[str, ...], out: Path) -> tuple[Key, Path]:
        """Make a key: its rights and public half here, its secret in out/NAME.key_secret.

        The first one makes the pairs of this machine as well. Raises ConfigError for a name that is
        malformed or taken, a topic that is none, or a node with topics; PublishError where files
        cannot be written.
        """
        _check_name(name)
        if role == "node" and topics:
            raise ConfigError("a node reads no events: --topic is for --role subscriber")
        rights = tuple(dict.fromkeys(map(parse_right, topics)))
        if role == "subscriber" and not rights:
            rights = (EVERYTHING,)
        path = self._allowed_folder / f"{name}.key"
        carried = out / f"{name}.key_secret"
        # Before the first key: it turns keys on, and nobody could come in.
        if not out.is_dir() or not os.access(out, os.W_OK | os.X_OK):
            raise PublishError(f"--out {out} is no folder that can be written to: name another")
        with self._changing():
            if path.exists():
                raise ConfigError(
                    f"there is a key called {name} already: revoke it first (`facestream keys "
                    f"revoke {name}`), or choose another name"
                )
            if carried.exists():
                raise _taken(carried)
            server = self._ensure_server()
            public, secret = _new_pair()
            key = Key(name, role, rights, datetime.now(UTC), public)
            try:
                _write(carried, {"name": name, "server-key": server.public}, public, secret)
            except FileExistsError as error:
                raise _taken(carried) from error
            try:
                _write(path, _metadata(key), public)
            except BaseException:
                carried.unlink()
                raise
        return key, carried

    def revoke(self, name: str) -> None:
        """Take a key off the list. Raises ConfigError where there is none of that name."""
        self._check_folders()  # a running program follows only a folder that is safe
        names = sorted(path.stem for path in self._allowed_folder.glob("*.key"))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `facestream keys list`"
            raise ConfigError(f"there is no key called {name}; {hint}")
        try:
            (self._allowed_folder / f"{name}.key").unlink(missing_ok=True)
        except OSError as error:
            raise PublishError(f"the key {name} cannot be revoked: {error.strerror}") from error

    def add_peer(self, file: Path, address: str) -> Path:
        """Take a key that another machine made for this one's nodes; returns where it lies now.

        address: HOST or HOST:PORT, as the topology says it. Takes the place of an earlier one.
        Raises ConfigError for a malformed address, PublishError as `load_pair`.
        """
        if not _ADDRESS.fullmatch(address):
            raise ConfigError(
                f"expected HOST or HOST:PORT of the machine that made the key, got {address!r}"
            )
        pair = load_pair(file)
        path = self.folder / "peers" / f"{address}.key_secret"
        with self._changing():
            path.unlink(missing_ok=True)
            _write(path, {"name": pair.name, "server-key": pair.server}, pair.public, pair.secret)
        return path

    @property
    def _allowed_folder(self) -> Path:
        return self.folder / "allowed"

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self.folder, self._allowed_folder, self.folder / "peers"

    def _pair(self, name: str) -> Pair | None:
        path = self.folder / f"{name}.key_secret"
        if not path.exists():
            return None
        self._check_folders()
        return load_pair(path)

    def _ensure_server(self) -> Pair:
        """This machine's pairs, made at first use: the server's last, since it turns keys on."""
        server = self.server()
        if server is not None:
            if self.own() is None:  # it was deleted, so that a new one is made
                self._make_own(server.public)
            return server
        public, secret = _new_pair()
        for name in (f"{OWN}.key_secret", "server.key"):
            (self.folder / name).unlink(missing_ok=True)  # of a first use that was cut off
        self._make_own(public)
        _write(self.folder / "server.key", {"name": "server"}, public)
        whole = {"name": "server", "server-key": public}
        _write(self.folder / "server.key_secret", whole, public, secret)
        return Pair("server", public, secret, public)

    def _make_own(self, server: str) -> None:
        metadata = {"name": OWN, "server-key": server}
        _write(self.folder / f"{OWN}.key_secret", metadata, *_new_pair())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The folders are there, safe, and changed by nobody else meanwhile."""
        try:
            for folder in self._folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PublishError(
                f"the folder of keys {self.folder} cannot be made: {error.strerror}"
            ) from error
        self._check_folders()
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _check_folders(self) -> None:
        for folder in self._folders:
            if folder.exists() and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PublishError(
                    f"the folder of keys {folder} can be written to by other users of this "
                    f"machine, who could let themselves in: chmod 700 {folder}"
                )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == OWN:
        raise ConfigError(
            "the name of a key has at most 64 letters, digits, dots, dashes and underscores, "
            f"begins with a letter or digit and is not {OWN!r}, got {name[:80]!r}"
        )


def _taken(carried: Path) -> ConfigError:
    return ConfigError(
        f"{carried} is there already: move it away, or name another folder with --out"
    )


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _metadata(key: Key) -> dict[str, str]:
    return {
        "name": key.name,
        "role": key.role,
        "topics": " ".join(key.topics),
        "created-at": key.created_at.isoformat(timespec="seconds"),
    }


def _as_key(path: Path) -> Key:
    _check_name(path.stem)
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PublishError(
            f"{path} can be written to by other users of this machine, who could change its key "
            "and rights: look at them, then chmod 600 it"
        )
    values = _read(path)
    role = values.get("role", "")
    if "public-key" not in values or role not in get_args(Role):
        raise PublishError(
            f"{path} is no key of facestream (no public-key, or a role that is neither subscriber "
            f"nor node): `facestream keys revoke {path.stem}`, then make a new one"
        )
    try:
        created_at = datetime.fromisoformat(values.get("created-at", ""))
    except ValueError as error:
        raise PublishError(f"{path}: created-at is no time: {error}") from error
    topics = tuple(map(parse_right, values.get("topics", "").split()))
    return Key(path.stem, cast(Role, role), topics, created_at, values["public-key"])


def _read(path: Path) -> dict[str, str]:
    """The values of a certificate file by name. Raises PublishError."""
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(_FILE_MOST)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise PublishError(f"the key {path} cannot be read: {why}") from error
    values = {}
    for line in text.splitlines():
        name, found, value = line.strip().partition(" = ")
        if found and not name.startswith("#"):
            values[name] = value.strip("\"' ")
    for name, value in values.items():
        if name.endswith("-key") and not _Z85.fullmatch(value):
            raise PublishError(
                f"the {name} in {path} is damaged: expected 40 characters of Z85, got {len(value)}"
            )
    return values


def _write(path: Path, metadata: Mapping[str, str], public: str, secret: str | None = None) -> None:
    """Write a new certificate file, whole or not at all. Raises FileExistsError, PublishError."""
    lines = ["#   CURVE key of facestream" + (", secret: keep it so" if secret else "")]
    lines += ["metadata", *(f"    {name} = {value}" for name, value in metadata.items())]
    lines += ["curve", f'    public-key = "{public}"']
    lines += [f'    secret-key = "{secret}"'] if secret else []
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, does not take the place of another
        finally:
            os.unlink(draft)
    except FileExistsError:
        raise
    except OSError as error:
        raise PublishError(f"the key {path} cannot be written: {error.strerror}") from error
