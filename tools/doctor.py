"""`facestream doctor`: what is installed, what really runs it, what is wrong and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import typer

State = Literal["ok", "note", "wrong"]
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}
CORE = ("numpy", "opencv-python-headless", "av", "pyzmq", "msgspec", "onnxruntime", "onnx")
EXTRAS = {
    "openvino": "openvino",
    "faiss": "faiss-cpu",
    "insightface": "insightface",
    "cluster": "ray",
    "console": "fastapi",
    "train": "torch",
}
CLASHES = (("opencv-python", "opencv-python-headless"), ("onnxruntime", "onnxruntime-gpu"))
LEAST_FREE = 1 << 30


class Check(NamedTuple):
    """One finding. `note` is worth knowing, `wrong` needs the mend."""

    area: str
    name: str
    state: State
    found: str
    mend: str = ""


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Look at this installation: packages, accelerators, decoders, packs, folders.

    Exit code 0 when nothing is wrong, 1 otherwise.

    Example: facestream doctor
    """
    checks = [
        *check_packages(),
        *check_inference(),
        *check_search(),
        *check_decoders(),
        *check_packs(),
        *check_folders(),
    ]
    if as_json:
        typer.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        show(checks)
    raise typer.Exit(1 if any(check.state == "wrong" for check in checks) else 0)


def installed(package: str) -> str | None:
    """Version of an installed distribution, None when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages() -> Iterator[Check]:
    """Python, the packages of the default installation, the extras, and known clashes."""
    yield Check("system", "python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield Check("system", "cores", "ok", str(os.cpu_count()))
    for package in CORE:
        version = installed(package)
        if version is None and package == "onnxruntime" and installed("onnxruntime-gpu"):
            continue
        if version is None and package == "opencv-python-headless" and installed("opencv-python"):
            yield Check("packages", package, "note", "opencv-python stands in for it")
            continue
        mend = "" if version else f"python -m pip install {package}"
        yield Check("packages", package, "ok" if version else "wrong", version or "missing", mend)
    for extra, package in EXTRAS.items():
        version = installed(package)
        yield Check("extras", extra, "ok", f"{package} {version}" if version else "not installed")
    for one, other in CLASHES:
        if installed(one) and installed(other):
            yield Check(
                "packages",
                f"{one} and {other}",
                "wrong",
                "both are installed and write to the same folder",
                f"python -m pip uninstall -y {one} {other} && python -m pip install {other}",
            )


def check_inference() -> Iterator[Check]:
    """Every runtime and device, by really running a network on it."""
    from ..models.backends import available

    for runtime in available():
        name = f"{runtime.backend} {runtime.device}"
        found, mend = runtime.note, ""
        if not runtime.usable:
            found, mend = "not usable here", runtime.note
        cpu_lost = runtime.backend == "onnxruntime" and runtime.device == "cpu"
        state: State = "ok" if runtime.usable else "wrong" if cpu_lost else "note"
        yield Check("inference", name, state, found, mend)


def check_search() -> Iterator[Check]:
    """Who computes the cosines of a large gallery's search, by measuring it."""
    import numpy as np

    from ..models.search_gpu import gpu_words
    from ..models.search_kernels import measure_kernels

    rows = np.random.default_rng(0).standard_normal((20_000, 512), np.float32)
    yield Check("search", "512 dimensions", "ok", f"{measure_kernels(rows)}; {gpu_words()}")


def check_decoders() -> Iterator[Check]:
    """FFmpeg's libraries and the hardware decoders that open a device here."""
    import av

    from ..stream.hardware import hardware_decoders

    versions = ", ".join(
        f"{name} {'.'.join(map(str, version))}"
        for name, version in sorted(av.library_versions.items())
        if name in ("libavcodec", "libavformat")
    )
    yield Check("video", "FFmpeg", "ok", versions)
    working = ", ".join(hardware_decoders())
    yield Check("video", "hardware decoders", "ok", working or "none works here: software decodes")


def check_packs() -> Iterator[Check]:
    """Which packs are complete on this machine, and that their checksums hold."""
    from .. import MissingModelFile, ModelError
    from ..models.pack import load_card
    from ..models.store import cards, verify

    for name in cards():
        try:
            card = load_card(name)
            verify(card)
        except MissingModelFile as error:
            state: State = "wrong" if name == "open" else "note"
            yield Check("packs", name, state, "not here", str(error))
        except (ModelError, OSError) as error:
            yield Check("packs", name, "wrong", "damaged", str(error))
        else:
            yield Check("packs", name, "ok", f"complete, licence: {card.licence}")


def check_folders() -> Iterator[Check]:
    """The folders that are written to: permission and free space."""
    from ..configs.paths import data_folder
    from ..models.store import cache_folder

    for name, folder in (("data", data_folder()), ("cache", cache_folder())):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        yield _check_folder(name, folder, there)


def _check_folder(name: str, folder: Path, there: Path) -> Check:
    variable = f"FACESTREAM_{name.upper()}"
    if not (there.is_dir() and os.access(there, os.W_OK)):
        mend = f"allow writing to it, or set {variable} to another folder"
        return Check("folders", name, "wrong", f"{folder} cannot be written", mend)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < LEAST_FREE:
        return Check("folders", name, "wrong", found, f"free some space, or set {variable}")
    return Check("folders", name, "ok", found)


def show(checks: list[Check]) -> None:
    """Print the findings as one table, and what to mend below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "area", "what", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = Text({"ok": "ok", "note": "--", "wrong": "!!"}[check.state], STYLES[check.state])
        table.add_row(mark, check.area, check.name, Text(check.found))
    console.print(table)
    for check in checks:
        if check.mend:
            console.print(Text(f"{check.name}: {check.mend}", STYLES[check.state]), soft_wrap=True)
