"""`facestream export`: trained networks as ONNX files, and what a card says of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import ConfigError

if TYPE_CHECKING:
    from ..models.inference import AlignTemplate
    from ..models.pixels import PixelFormat

app = typer.Typer(
    help="Write trained networks as ONNX files, once they give the numbers of torch.",
    no_args_is_help=True,
)

OWN = "own"
SELF_TEST_VALUES = 8
LIGHTQNET = "lightqnet"
UNITS = {
    "labels": "optimised label, 0..1",
    "cr-fiqa": "certainty ratio (CR-FIQA)",
    "pcnet": "logit of the confidence (PCNet)",
    "sdd-fiqa": "similarity distribution distance (SDD-FIQA)",
    LIGHTQNET: "logit of the confidence (LightQNet)",
}
"""What the numbers of a quality network are, by how it was trained."""
Weights = Annotated[Path, typer.Argument(help="Checkpoint: a file that torch has saved.")]
Network = Annotated[
    str,
    typer.Option(help="iresnet18, iresnet34, iresnet50, iresnet100, iresnet200, mobile or tiny."),
]


@app.command()
def backbone(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    network: Network,
    layout: Annotated[
        str,
        typer.Option(
            help="Whose checkpoint: arcface_torch, magface, adaface, caface, caface-arcface; or "
            "own: a state dict of the network as facestream makes it."
        ),
    ] = OWN,
    dimension: Annotated[int, typer.Option(min=1, help="Numbers of an embedding.")] = 512,
    branches: Annotated[
        int, typer.Option(min=0, help="Of CQA-Face on this network; 0: the network itself.")
    ] = 0,
) -> None:
    """Write an embedder, and print what a pack's card says of it.

    Example: facestream export backbone adaface_ir101.ckpt net.onnx --network iresnet100
    --layout adaface
    """
    from ..models.align import ARCFACE_112
    from ..models.backends import open_session
    from ..models.embedder import OnnxEmbedder
    from ..models.pack import self_test_crop

    export = networks("export")
    made, pixels = _load_backbone(weights, network, layout, dimension, branches)
    export.export_backbone(made, out)
    embedder = OnnxEmbedder(
        open_session(out, device="cpu"), template=ARCFACE_112, dimension=dimension, pixels=pixels
    )
    values = embedder.embed(self_test_crop(ARCFACE_112.size)[None]).embeddings[0]
    _show(
        {
            "files": {"embedder": _file_entry(out)},
            "embedder": {
                "file": "embedder",
                "dimension": dimension,
                **_crops(pixels, ARCFACE_112),
                "style_tensors": list(export.STYLE_TENSORS),
                "style_channels": made.style_channels,
            },
            "self_test": {"values": [float(f"{v:.6g}") for v in values[:SELF_TEST_VALUES]]},
        }
    )


@app.command()
def quality(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    kind: Annotated[str, typer.Option(help=f"What it was trained as: {', '.join(UNITS)}.")],
    network: Annotated[
        str, typer.Option(help="Backbone under the quality; lightqnet has none.")
    ] = "iresnet50",
    dimension: Annotated[int, typer.Option(min=1, help="Of the backbone's embedding.")] = 512,
) -> None:
    """Write a quality network, and print what a pack's card says of it.

    WEIGHTS is the state dict of the network as facestream makes it.

    Example: facestream export quality labels.pt quality.onnx --kind labels --network mobile
    """
    from ..models.align import ARCFACE_112, resize_template

    if kind not in UNITS:
        raise ConfigError(f"--kind must be one of {', '.join(UNITS)}, got {kind!r}")
    export = networks("export")
    made, pixels, template = _make_quality(kind, network, dimension), _own_pixels(), ARCFACE_112
    if kind == LIGHTQNET:
        template = resize_template(ARCFACE_112, networks("lightqnet").SIDE)
        pixels = pixels._replace(channel_order="BGR", mean=(128.0,) * 3, std=(128.0,) * 3)
    export.load_state(made, weights)
    export.export_quality(made, out, side=template.size)
    _show(
        {
            "files": {"quality": _file_entry(out)},
            "quality": {
                "kind": "model",
                "unit": UNITS[kind],
                "file": "quality",
                **_crops(pixels, template),
            },
        }
    )


@app.command()
def caface(
    weights: Annotated[
        Path, typer.Argument(help="The authors' checkpoint, or a head of a pack (.npz).")
    ],
    folder: Annotated[Path, typer.Argument(help="Gets chunk.onnx, read.onnx and head.npz.")],
) -> None:
    """Write a CAFace: its two ONNX parts, and the head with which packs fuse live.

    Example: facestream export caface caface.ckpt fusion/
    """
    from ..models.caface_head import load_head, save_head
    from ..models.store import written_whole

    export, files = networks("export"), networks("caface_files")
    if weights.suffix == ".npz":
        made = files.network_from_head(load_head(weights))
    else:
        made = files.load_caface(weights)
    head = files.head_from_network(made)
    export.export_caface(made, folder / "chunk.onnx", folder / "read.onnx")
    with written_whole(folder / "head.npz") as partial:
        save_head(partial, head)
    digest = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    spec = {"file": "head.npz", "sha256": digest, "licence": "that of the weights"}
    _show({"fusion": {"aggregator": "caface", "caface": spec}})


def networks(name: str) -> ModuleType:
    """A module of models/networks. Raises ConfigError where torch is not installed."""
    import importlib

    try:
        return importlib.import_module(f"..models.networks.{name}", __package__)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ConfigError(
            "networks in training form need torch: pip install 'facestream[train]'"
        ) from None


def _load_backbone(
    weights: Path, network: str, layout: str, dimension: int, branches: int
) -> tuple[Any, PixelFormat]:
    """The backbone in eval mode, and its pixels."""
    if layout != OWN:
        if branches:
            raise ConfigError(f"layout {layout} has no CQA-Face: --branches goes with --layout own")
        published = networks("checkpoints")
        if layout not in published.LAYOUTS:
            known = ", ".join([OWN, *published.LAYOUTS])
            raise ConfigError(f"--layout must be one of {known}, got {layout!r}")
        loaded = published.load_backbone(weights, network, layout, dimension=dimension)
        return loaded.backbone, loaded.pixels
    made = networks("backbone").make_backbone(network, dimension=dimension)
    if branches:
        made = networks("cqa").CQAFace(made, branches=branches, dimension=dimension)
    networks("export").load_state(made, weights)
    return made, _own_pixels()


def _make_quality(kind: str, network: str, dimension: int) -> Any:
    """A quality network that was not trained yet."""
    if kind == LIGHTQNET:
        return networks("lightqnet").LightQNet()
    stem = networks("backbone").make_backbone(network, dimension=dimension)
    heads = networks("quality_heads")
    if kind == "labels":
        return networks("label_transfer").QualityRegressor(stem)
    if kind == "sdd-fiqa":
        return heads.MapQuality(stem, heads.SddHead(stem.map_channels))
    return heads.EmbeddingQuality(stem)


def _own_pixels() -> PixelFormat:
    """What networks trained here take: RGB in -1..1, as insightface's."""
    from ..models.pixels import PixelFormat

    middle = (127.5, 127.5, 127.5)
    return PixelFormat("RGB", mean=middle, std=middle)


def _crops(pixels: PixelFormat, template: AlignTemplate) -> dict[str, Any]:
    """The template and the pixels, as a card's embedder and quality sections say them."""
    points = [[round(float(x), 4) for x in point] for point in template.points]
    return {
        "template": {"size": template.size, "points": points},
        "channel_order": pixels.channel_order,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
    }


def _file_entry(path: Path) -> dict[str, Any]:
    """The entry of a written file in a card's `files`."""
    from ..models.store import checksum

    return {
        "file": path.name,
        "sha256": checksum(path),
        "bytes": path.stat().st_size,
        "licence": "as of the weights and of what they were trained on",
        "source": {"words": "facestream export"},
    }


def _show(sections: dict[str, Any]) -> None:
    """Print sections of a card."""
    import yaml

    typer.echo(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=96), nl=False)
