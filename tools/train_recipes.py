"""`facestream train RECIPE`: every recipe, and those that learn from features of a pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import ConfigError
from ..configs.split import Role
from ..configs.training import CAFaceTraining, FIQATraining, IDATraining, read_training
from .train_banks import role_bank
from .train_faces import cqa, embedder, magface
from .train_run import AsJson, Assets, Config, Out, need_assets, recipe_module, run_recipe

if TYPE_CHECKING:
    from ..models.card import Card
    from ..train.install import Kind

Install = Annotated[bool, typer.Option(help="Put the network into the pack's card.")]


def ida(
    config: Config,
    out: Out,
    assets: Assets = None,
    install: Install = False,
    json: AsJson = False,
) -> None:
    """Train a network that predicts density in place of a pack's anchors (IDA-L).

    Example: facestream train ida ida-omz --assets ASSETS --out run
    """
    from ..models.anchor_check import card_anchors
    from ..models.pack import open_pack

    module = recipe_module("ida")
    settings, text = read_training(IDATraining, "ida", config)
    pack, home = open_pack(settings.pack), need_assets(assets)
    if pack.card.ida is None or pack.anchors is None:
        raise ConfigError(
            f"pack {settings.pack!r} has no anchors to learn from: `facestream train anchors FACES "
            f"--pack {settings.pack}` comes first"
        )
    anchors = card_anchors(pack.card, pack.anchors)
    banks = [
        role_bank(home, role, settings.bank, settings.pack) for role in ("training", "validation")
    ]
    recipe = module.ida_recipe(settings, anchors, module.faces_of_banks(*banks))
    leads = run_recipe("ida", recipe, settings.run, text, out, as_json=json)
    if install and leads:
        _install(
            pack.card,
            "density",
            out / "export" / f"{settings.pack}.ssr.npz",
            f"ida {config}",
            recipe,
        )


def caface(
    config: Config,
    out: Out,
    assets: Assets = None,
    install: Install = False,
    json: AsJson = False,
) -> None:
    """Train what fuses a track's faces: CAFace, or the learned mean (preset caface-learned-…).

    Example: facestream train caface caface-omz --assets ASSETS --out run
    """
    from ..models.store import load_card

    module = recipe_module("caface")
    settings, text = read_training(CAFaceTraining, "caface", config)
    home = need_assets(assets)
    fuser = settings.fuser
    kind: Kind | None = fuser if fuser == "caface" or fuser == "learned" else None
    if install and kind is None:
        raise ConfigError(
            f"--install puts a head of caface or learned into a card, {fuser} does not "
            "run live: leave --install out"
        )
    shares: list[tuple[Role, int]] = [
        ("training", settings.training_pictures),
        ("validation", settings.validation_pictures),
    ]
    banks = [role_bank(home, role, settings.bank, settings.pack, most) for role, most in shares]
    recipe = module.caface_recipe(settings, *banks)
    leads = run_recipe("caface", recipe, settings.run, text, out, as_json=json)
    if leads and install and kind is not None:
        exported = out / "export" / f"{settings.pack}.{fuser}.npz"
        _install(load_card(settings.pack), kind, exported, f"caface {config}", recipe)


def fiqa(
    config: Config,
    out: Out,
    assets: Assets = None,
    install: Install = False,
    json: AsJson = False,
) -> None:
    """Train a quality head on a pack's own features, by label optimisation and transfer.

    --install makes it the pack's source of quality: train its fusion heads anew afterwards.

    Example: facestream train fiqa fiqa-omz --assets ASSETS --out run
    """
    from ..models.store import load_card

    module = recipe_module("fiqa")
    settings, text = read_training(FIQATraining, "fiqa", config)
    home = need_assets(assets)
    training, validation = (
        module.faces_of_bank(role_bank(home, role, settings.bank, settings.pack))
        for role in ("training", "validation")
    )
    recipe = module.fiqa_recipe(settings, training, validation)
    leads = run_recipe("fiqa", recipe, settings.run, text, out, as_json=json)
    if install and leads:
        exported = out / "export" / f"{settings.pack}.quality.npz"
        _install(load_card(settings.pack), "quality", exported, f"fiqa {config}", recipe)
        typer.echo(
            "fusion heads of this pack read the quality: train them anew (facestream train caface)",
            err=True,
        )


RECIPES = (magface, cqa, caface, ida, fiqa, embedder)
LICENCE = "Apache-2.0"
ATTRIBUTION = "trained on synthetic faces of SFHQ and SFHQ-T2I by David Beniaguev (MIT)"


def _install(card: Card, kind: Kind, exported: Path, command: str, recipe: Any) -> None:
    """Name the exported network in the card, with what it validated at."""
    from ..train.install import Provenance, install_head

    words = f"facestream train {command}, seed {recipe.config.run.seed}"
    origin = Provenance(LICENCE, ATTRIBUTION, words, recipe.validate())
    path = install_head(card, kind, exported, origin)
    typer.echo(f"installed: {path}, named in {card.path}", err=True)
