"""Options that the commands of `facestream evaluate` share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import ConfigError

if TYPE_CHECKING:
    from .eval_faces import EmbedOptions


def check_output(folder: Path | None) -> Path | None:
    """The folder of --output. Raises ConfigError, before anything is measured, if it is no place
    for a report.
    """
    if folder is None:
        return None
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    if not there.is_dir():
        raise ConfigError(f"--output {folder}: {there} is a file: name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {folder}: {there} cannot be written to: name another folder")
    return folder


PackOption = Annotated[str, typer.Option("--pack", help="Model pack.")]
BackendOption = Annotated[str, typer.Option("--backend", help="onnxruntime or openvino.")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder to keep features in; default: in the data folder."),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option("--features", help="Take features from this store; read no pictures."),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that embed; 0: one per core.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="HOST:PORT of a Ray cluster that embeds in place of processes."),
]
HalfOption = Annotated[bool, typer.Option("--float16", help="Keep features in half the room.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave faulty items out and list them in the report.")
]
ResamplesOption = Annotated[
    int, typer.Option("--resamples", min=0, help="Bootstrap resamples; 0: no intervals.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        callback=check_output,
        help="Folder for report.json, report.html and draws.npz.",
    ),
]
NoImagesOption = Annotated[bool, typer.Option("--no-images", help="Put no faces on the page.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
FuseOption = Annotated[
    str | None,
    typer.Option(
        "--fuse", help="mean, quality, learned or caface, as live; takes pooling's place."
    ),
]
ScoreOption = Annotated[str, typer.Option("--score", help="cosine, or ida by the pack's anchors.")]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule", help="TAR@FAR: at_most (the definition) or nearest (the papers' habit)."
    ),
]


class Source(NamedTuple):
    """Where features come from: embedded now with a pack, or an earlier store as it is.

    cluster: address of a Ray cluster that embeds; None: processes of this machine do.
    """

    pack: str
    backend: str
    store: Path | None
    features: Path | None
    workers: int
    half: bool
    skip_bad: bool
    cluster: str | None = None

    def embed_options(self) -> EmbedOptions:
        """The part that says how to embed."""
        from .eval_faces import EmbedOptions

        return EmbedOptions(
            self.pack,
            self.backend,
            self.store,
            self.workers,
            self.half,
            self.skip_bad,
            self.cluster,
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value. Raises ConfigError unless it is one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value}")
    return value
