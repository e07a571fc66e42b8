"""`facestream bench`: where the time goes, and how far the pipeline is from its parts' bare cost.

One repetition runs the whole pipeline on a clip, then, in the same process, what cannot be avoided:
PyAV decoding to BGR, and every network on tensors of the shapes the pipeline fed it, as often as it
did. The ratio bare / pipeline says how much of the time is spent where it has to be; 1 means that
nothing is lost, above 1 that decoding and networks overlapped.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from .bench_accuracy import bench_accuracy
from .bench_labels import bench_labels
from .bench_models import bench_models
from .bench_papers import bench_embedder, bench_fusion, bench_ida, bench_quality
from .bench_search import bench_search
from .bench_strangers_page import bench_strangers
from .bench_thresholds_command import bench_thresholds
from .bench_trackers import bench_trackers
from .bench_transport import bench_transport
from .enroll_bench_command import bench_enroll
from .run import configure

if TYPE_CHECKING:
    import numpy as np

    from ..configs.schema import Config
    from ..models.inference import Session
    from ..stream.meter import StageTime
    from ..stream.totals import Totals

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


class Once(NamedTuple):
    """One repetition: the pipeline's totals and stages, and the bare seconds of its parts.

    decoding: our reading of the clip over PyAV's own, frames per CPU second.
    """

    totals: Totals
    stages: dict[str, StageTime]
    bare: dict[str, float]
    decoding: float

    @property
    def ratio(self) -> float:
        """Bare seconds of decoding and networks over the pipeline's seconds."""
        return sum(self.bare.values()) / self.totals.seconds


app = typer.Typer()


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    source: str | None = typer.Option(None, help="Video file; default: the demo's clip."),
    gallery: str | None = typer.Option(None, help="Folder of photos; default: the demo's."),
    pack: str = typer.Option("open", help="Model pack."),
    repeats: int = typer.Option(3, min=1, help="Repetitions; medians and ranges are shown."),
    backend: str = typer.Option("onnxruntime", help="onnxruntime or openvino."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Measure the main job: stages, frames per second, latency, ratio to the bare parts.

    Example: facestream bench --pack open --repeats 5
    """
    if context.invoked_subcommand is not None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = _configuration(source, gallery, pack, backend, Path(scratch))
        runs = [measure(config) for _ in range(repeats)]
        latencies = measure_latency(config)
    report = summarise(config, runs, latencies)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report)


def _configuration(
    source: str | None, gallery: str | None, pack: str, backend: str, scratch: Path
) -> Config:
    """The clip, recorded, with a journal of its own and events on any free port."""
    if source is None:
        from ..models.pack import open_pack
        from ..models.store import cache_folder
        from .demo import prepare

        kept = cache_folder() / "bench"
        kept.mkdir(parents=True, exist_ok=True)
        stage = prepare(open_pack(pack), kept, quiet=True)
        source, gallery = str(stage.clip), gallery or str(stage.photos)
    return configure(
        None,
        [source],
        gallery=gallery,
        pack=pack,
        endpoint="tcp://127.0.0.1:*",
        journal=str(scratch / "journal.db"),
        settings=[f"models.backend={backend}", "cameras[0].mode=recorded"],
    )


app.command("transport")(bench_transport)
app.command("accuracy")(bench_accuracy)
app.command("fusion")(bench_fusion)
app.command("labels")(bench_labels)
app.command("models")(bench_models)
app.command("enroll")(bench_enroll)
app.command("trackers")(bench_trackers)
app.command("ida")(bench_ida)
app.command("quality")(bench_quality)
app.command("strangers")(bench_strangers)
app.command("thresholds")(bench_thresholds)
app.command("search")(bench_search)
app.command("embedder")(bench_embedder)


class ShapeTap:
    """A session that remembers the shapes it was fed: the workload to repeat bare."""

    def __init__(self, session: Session) -> None:
        """Wrap `session`."""
        self.session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.provider = session.provider
        self.fed: Counter[Shapes] = Counter()

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run, and remember."""
        self.fed[tuple((name, feed.shape, feed.dtype.str) for name, feed in feeds.items())] += 1
        return self.session.run(feeds)

    def bare_seconds(self) -> float:
        """Seconds of the same runs on random tensors, with nothing around them."""
        import numpy as np

        generator = np.random.default_rng(0)
        seconds = 0.0
        for shapes, count in self.fed.items():
            feeds = {
                name: generator.uniform(0.0, 255.0, shape).astype(kind)
                for name, shape, kind in shapes
            }
            started = time.perf_counter()
            for _ in range(count):
                self.session.run(feeds)
            seconds += time.perf_counter() - started
        return seconds


def measure(config: Config) -> Once:
    """One repetition: the pipeline, then its parts bare."""
    from ..models.pack import open_pack
    from ..stream.decode import measure_decoding
    from .build import Parts

    taps: dict[str, ShapeTap] = {}

    def tap(key: str, session: Session) -> Session:
        taps[key] = ShapeTap(session)
        return taps[key]

    models = config.models
    pack = open_pack(
        models.pack, backend=models.backend, device=models.device, threads=models.threads, tap=tap
    )
    with Parts(config, pack) as parts:
        pipeline = parts.pipeline()
        for tapped in taps.values():
            tapped.fed.clear()
        totals = pipeline.run()
    bare = {f"network {key}": tapped.bare_seconds() for key, tapped in taps.items()}
    decoding = measure_decoding(Path(config.cameras[0].url), repeats=1)
    bare["decoding"] = totals.frames / decoding.bare
    return Once(totals, pipeline.meter.stages, bare, decoding.ratio)


def measure_latency(config: Config) -> list[float]:
    """Seconds from capture to published event, with the clip played live at its own pace."""
    from .build import Parts

    live = tuple(dataclasses.replace(camera, mode="live") for camera in config.cameras)
    with Parts(dataclasses.replace(config, cameras=live)) as parts:
        return sorted(parts.pipeline().run().latencies)


def summarise(config: Config, runs: list[Once], latencies: list[float]) -> dict[str, Any]:
    """Medians and ranges as plain data; times in ms unless the name says otherwise."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": median(values), "min": min(values), "max": max(values)}

    stages = {}
    for name in runs[0].stages:
        times = [run.stages[name] for run in runs]
        stages[name] = {
            "calls": times[0].calls,
            "items": times[0].items,
            "ms_per_item": spread([1e3 * t.seconds / max(1, t.items) for t in times]),
            "share": median(
                t.seconds / run.totals.seconds for t, run in zip(times, runs, strict=True)
            ),
        }
    return {
        "machine": f"{platform.processor() or platform.machine()}, {platform.platform()}",
        "source": Path(config.cameras[0].url).name,
        "pack": config.models.pack,
        "backend": config.models.backend,
        "repeats": len(runs),
        "frames": runs[0].totals.frames,
        "faces": runs[0].totals.faces,
        "embedded": runs[0].totals.embedded,
        "stages": stages,
        "frames_per_second": spread([r.totals.frames / r.totals.seconds for r in runs]),
        "faces_per_second": spread([r.totals.faces / r.totals.seconds for r in runs]),
        "bare_seconds": {k: spread([run.bare[k] for run in runs]) for k in runs[0].bare},
        "ratio_to_bare": spread([run.ratio for run in runs]),
        "decoding_ratio": spread([run.decoding for run in runs]),
        "capture_to_event_ms": {
            f"p{share}": 1e3 * latencies[min(len(latencies) - 1, len(latencies) * share // 100)]
            for share in (50, 95, 99)
            if latencies
        },
        "live_events": len(latencies),
    }


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{report['source']}, pack {report['pack']} on {report['backend']}: {report['frames']} "
        f"frames, {report['faces']} faces, {report['embedded']} embedded; {report['repeats']} "
        f"repetitions, median (least to most)"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("stage", "calls", "items", "ms per item", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in report["stages"].items():
        table.add_row(
            name,
            str(stage["calls"]),
            str(stage["items"]),
            range_of(stage["ms_per_item"]),
            f"{100 * stage['share']:.1f} %",
        )
    console.print(table)
    lines = [
        ("frames/s", range_of(report["frames_per_second"])),
        ("faces/s", range_of(report["faces_per_second"])),
        *((f"bare {name}, s", range_of(value)) for name, value in report["bare_seconds"].items()),
        ("ratio of bare parts to pipeline", range_of(report["ratio_to_bare"])),
        ("decoding to BGR, ratio to PyAV alone", range_of(report["decoding_ratio"])),
        (
            f"capture to event, live, {report['live_events']} events",
            ", ".join(f"{k} {v:.0f} ms" for k, v in report["capture_to_event_ms"].items()),
        ),
    ]
    for name, value in lines:
        console.print(f"{name}: {value}")


def range_of(values: Mapping[str, float]) -> str:
    """Median with least and most, to three significant digits."""
    return f"{values['median']:.3g} ({values['min']:.3g} to {values['max']:.3g})"
