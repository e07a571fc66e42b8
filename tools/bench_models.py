"""`facestream bench models`: what the networks cost, and CAFace's speed beside a backbone's.

The second part is tables 5 and 6 of CAFace's supplement D: FPS(F) / FPS(E), how many faces a second
the fusion network F takes in, over how many the backbone E embeds.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from .. import ConfigError, __version__
from .bench_models_page import page, show
from .export import networks
from .revision import revision

MODELS = ("mobile", "iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200")
CQA, LIGHTQNET = "cqa-", "lightqnet"
DIMENSION, CENTRES = 512, 4


def bench_models(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="mobile, iresnet18 to iresnet200, cqa-NAME (CQA-Face on one of them) or "
            "lightqnet. Default: all backbones, cqa-iresnet100 and lightqnet."
        ),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Default: 1, 8, 32.")] = None,
    against: Annotated[
        str, typer.Option(help="Embedder that CAFace is compared with; the paper's is iresnet100.")
    ] = "iresnet100",
    faces: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Faces of a set. Default: the paper's 16 to 512."),
    ] = None,
    largest: Annotated[
        int, typer.Option(min=1, help="Faces of the largest set fused in one go.")
    ] = 12_000,
    repeats: Annotated[
        int, typer.Option(min=1, help="Repetitions; medians and ranges are shown.")
    ] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    write: Annotated[Path | None, typer.Option(help="Markdown page to write as well.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure networks in torch: parameters, multiply-adds, time per face, CAFace's relative speed.

    On the CPU with one thread, in CPU seconds. Weights are random: time does not depend on them.

    Example: facestream bench models --model mobile --model iresnet50 --repeats 3
    """
    cost = networks("cost")
    place = cost.find_device(device)
    batches = sorted(set(batch or (1, 8, 32)))
    names = model or [*MODELS, f"{CQA}iresnet100", LIGHTQNET]
    check_names(names)
    if against == LIGHTQNET:
        raise ConfigError("--against takes a network of embeddings, lightqnet gives a quality")
    check_names([against])
    with cost.single_thread():
        report = {
            "command": command_words(model, batch, against, faces, largest, repeats, device),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "version": __version__,
            "revision": revision(),
            "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
            "device": cost.device_words(place),
            "repeats": repeats,
            "models": [measure_model(name, batches, repeats, place) for name in names],
            "fusion": measure_fusion(
                against, batches, sorted(set(faces or (16, 32, 64, 256, 512))), repeats, place
            ),
            "largest": measure_largest(largest, place),
        }
    if write is not None:
        from ..models.store import written_whole

        with written_whole(write) as partial:
            partial.write_text(page(report), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report)


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown network, before minutes of timing."""
    known = [*MODELS, *(CQA + name for name in MODELS), LIGHTQNET]
    for name in names:
        if name not in known:
            raise ConfigError(f"networks are {', '.join(known)}, got {name!r}")


def make_model(name: str) -> Any:
    """A network of images with random weights, in eval mode."""
    if name == LIGHTQNET:
        return networks("lightqnet").LightQNet().eval()
    stem = networks("backbone").make_backbone(name.removeprefix(CQA), dimension=DIMENSION)
    if name.startswith(CQA):
        return networks("cqa").CQAFace(stem, dimension=DIMENSION).eval()
    return stem.eval()


def measure_model(name: str, batches: Sequence[int], repeats: int, place: Any) -> dict[str, Any]:
    """Parameters, multiply-adds of one face, and ms per face by batch."""
    cost, network = networks("cost"), make_model(name).to(place)
    side = networks("lightqnet").SIDE if name == LIGHTQNET else network.side
    images = cost.noise(max(batches), 3, side, side, device=place)
    works = {size: partial(network, images[:size]) for size in batches}
    seconds = cost.measure_alternately(works, repeats, place)
    return {
        "name": name,
        "side": side,
        "parameters": cost.count_parameters(network),
        "multiply_adds": cost.count_multiply_adds(partial(network, images[:1])),
        "ms_per_face": {
            str(size): spread([1e3 * spent / size for spent in seconds[size]]) for size in batches
        },
    }


def measure_fusion(
    against: str, batches: Sequence[int], sizes: Sequence[int], repeats: int, place: Any
) -> dict[str, Any]:
    """CAFace by set size, each time paired with the backbone in the same repetition.

    FPS(E) is that of the batch in which the backbone is fastest, FPS(F) is N over the seconds from
    the features and styles of a set to its fused embedding.
    """
    cost, chunk = networks("cost"), networks("caface").CHUNK
    backbone = make_model(against).to(place)
    fuser = make_fuser(backbone.style_channels).to(place)
    images = cost.noise(max(batches), 3, backbone.side, backbone.side, device=place)
    works: dict[tuple[str, int], Any] = {
        ("backbone", size): partial(backbone, images[:size]) for size in batches
    }
    for size in sizes:
        sets = make_set(fuser, size, place)
        works["one go", size] = partial(fuser, sets)
        works[f"chunks of {chunk}", size] = partial(fuser.fuse_in_chunks, sets)
    seconds = cost.measure_alternately(works, repeats, place)
    rates = [max(size / seconds["backbone", size][i] for size in batches) for i in range(repeats)]
    rows = []
    for (way, size), spent in seconds.items():
        if way != "backbone":
            ratios = [size / one / rate for one, rate in zip(spent, rates, strict=True)]
            rows.append(
                {
                    "faces": size,
                    "way": way,
                    "multiply_adds": cost.count_multiply_adds(works[way, size]),
                    "ms": spread([1e3 * one for one in spent]),
                    "ratio": spread(ratios),
                }
            )
    return {
        "backbone": against,
        "parameters": cost.count_parameters(fuser),
        "faces_per_second": spread(rates),
        "sets": rows,
    }


def measure_largest(largest: int, place: Any) -> list[dict[str, Any]]:
    """Seconds and memory of one large set: in one go, and in chunks that are seen one by one."""
    cost, chunk = networks("cost"), networks("caface").CHUNK
    fuser = make_fuser(networks("backbone").make_backbone("iresnet18").style_channels).to(place)
    part = make_set(fuser, chunk, place)

    def stream(chunks: int) -> None:
        sums = fuser.empty(1)
        for _ in range(chunks):
            sums = sums.merge(fuser.cluster(fuser.encode(part)))
        fuser.read(sums)

    def row(way: str, size: int, work: Any) -> dict[str, Any]:
        taken = cost.peak_bytes(work, place)  # the first call also allocates
        seconds = cost.seconds_per_call(work, place)
        return {"way": way, "faces": size, "seconds": seconds, "bytes": taken}

    chunks = -(-largest // chunk)
    return [
        row("one go", largest, partial(fuser, make_set(fuser, largest, place))),
        row(f"chunks of {chunk}", chunks * chunk, partial(stream, chunks)),
        row(f"chunks of {chunk}", 10 * chunks * chunk, partial(stream, 10 * chunks)),
    ]


def make_fuser(styles: int) -> Any:
    """A CAFace of the paper's size with random weights, in eval mode."""
    from ..models.caface_head import HeadSize

    return networks("caface").CAFace(HeadSize(DIMENSION, styles, CENTRES)).eval()


def make_set(fuser: Any, size: int, place: Any) -> Any:
    """One set of random features and styles; the paper times random arrays, too."""
    noise = networks("cost").noise
    features = noise(1, size, DIMENSION, device=place)
    styles = noise(1, size, fuser.size.styles, 2, device=place)
    return networks("sets").full_sets(features, styles)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def command_words(
    model: Sequence[str] | None,
    batch: Sequence[int] | None,
    against: str,
    faces: Sequence[int] | None,
    largest: int,
    repeats: int,
    device: str,
) -> str:
    """The command that gives these numbers."""
    words = ["facestream bench models"]
    for option, values in (("model", model), ("batch", batch), ("faces", faces)):
        words += [f"--{option} {value}" for value in values or ()]
    words += [f"--against {against} --largest {largest} --repeats {repeats} --device {device}"]
    return " ".join(words)
