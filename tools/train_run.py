"""What the commands of `facestream train RECIPE` share: progress, origin, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from .. import ConfigError
from ..configs.training import RunSettings
from .eval_progress import progress_bar
from .revision import revision

if TYPE_CHECKING:
    from ..train.engine import Outcome, Recipe

Config = Annotated[
    str, typer.Argument(help="Preset (configs/trainings), or a YAML file of your own.")
]
Out = Annotated[
    Path,
    typer.Option(
        file_okay=False,
        help="Folder of the run: checkpoints, curve, export/. The same goes on with it.",
    ),
]
Assets = Annotated[
    Path | None,
    typer.Option(envvar="FACESTREAM_ASSETS", help="Where anchors/ lies: faces by the split."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for each run.")]


def run_recipe(
    name: str,
    recipe: Recipe,
    settings: RunSettings,
    text: str,
    out: Path,
    *,
    as_json: bool = False,
) -> bool:
    """Train in the folder `out`, going on with what is there, and say what was written.

    name: of the recipe; text: its settings as they were read. Returns whether this process wrote
    it: of several, one does. Raises as `train.engine.train`.
    """
    from ..train.checkpoint import Origin
    from ..train.engine import train

    origin = Origin(name, text, recipe.fingerprint, revision())
    with ExitStack() as bars:
        told: list[int] = []
        advances: list[Callable[[int], None]] = []

        def on_step(step: int) -> None:
            if not advances:  # what an earlier run did says nothing of the time that is left
                bar = progress_bar(f"train {name}", settings.steps, done=step)
                advances.append(bars.enter_context(bar))
            advances[0](step - (told[-1] if told else step))
            told[:] = [step]

        outcome = train(recipe, settings, out, origin, on_step=on_step)
    if outcome.files:
        (_print_json if as_json else _print_words)(name, recipe.watch, outcome, out)
    return bool(outcome.files)


def _print_words(name: str, watch: str, outcome: Outcome, out: Path) -> None:
    console = Console()
    console.print(
        f"{name}: {outcome.step:,} steps; best {watch} {outcome.best:.4g} after step "
        f"{outcome.best_step:,}; how it went is in {out / 'summary.html'}",
        soft_wrap=True,
    )
    for file in outcome.files:
        console.print(f"written: {file}", soft_wrap=True)


def _print_json(name: str, watch: str, outcome: Outcome, out: Path) -> None:
    """One line."""
    told = {
        "recipe": name,
        "out": str(out),
        "steps": outcome.step,
        "watch": watch,
        "best": outcome.best,
        "best_step": outcome.best_step,
        "summary": str(out / "summary.html"),
        "files": [str(file) for file in outcome.files],
    }
    typer.echo(msgspec.json.encode(told))


def recipe_module(name: str) -> ModuleType:
    """A module of train. Raises ConfigError where what trains networks is not installed."""
    import importlib

    try:
        return importlib.import_module(f"..train.{name}", __package__)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "accelerate"):
            raise
        raise ConfigError(
            f"training networks needs {error.name}: pip install 'facestream[train]'"
        ) from None


def need_assets(assets: Path | None) -> Path:
    """The folder of the split's faces. Raises ConfigError where none was named."""
    if assets is None:
        raise ConfigError(
            "--assets is missing: name the folder in which anchors/ lies (synthetic faces by the "
            "split), or set FACESTREAM_ASSETS"
        )
    return assets
