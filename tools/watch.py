"""`facestream watch`: subscribes and prints events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..configs.schema import PublishConfig
from ..stream.client import subscribe
from ..stream.events import (
    KINDS,
    AnyEvent,
    CameraState,
    DecisionEvent,
    MatchRevised,
    SightingEnded,
    System,
    TrackEvent,
    encode,
)

STYLES = {
    "sighting.started": "cyan",
    "match": "bold green",
    "match.revised": "bold magenta",
    "unknown": "yellow",
    "sighting.ended": "blue",
    "camera.state": "dim",
    "system": "dim",
}
KIND_WIDTH = max(map(len, KINDS))


def watch(
    endpoint: Annotated[
        str, typer.Argument(help="Where the publisher is bound.")
    ] = PublishConfig.endpoint,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", help=f"Only this kind; repeatable. {', '.join(KINDS)}."),
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", "-c", help="Only this camera; repeatable.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Every event as one JSON object a line.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many events.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.0, help="Stop after so many idle seconds.")
    ] = None,
) -> None:
    """Print the events of a running facestream, one a line.

    It waits for a publisher that is not there yet and stays through restarts; Ctrl-C ends it.

    Example: facestream watch --kind match --kind match.revised --camera entrance

    For scripts: facestream watch --json --count 1 --timeout 60
    """
    # Wide and unwrapped: one event is one line, in a pipe as well.
    console = Console(soft_wrap=True, highlight=False)
    left = count
    with subscribe(endpoint, kinds=kind or None, cameras=camera or None, timeout=timeout) as events:
        Console(stderr=True, highlight=False).print(
            Text(f"listening on {endpoint}; Ctrl-C ends", "dim")
        )
        for event in events:
            if json:
                typer.echo(encode(event, "json"))
            else:
                console.print(format_event(event))
            if left is not None:
                left -= 1
                if left == 0:
                    return


def format_event(event: AnyEvent) -> Text:
    """One line for people: local time, camera, kind, and what happened."""
    style = STYLES[event.kind]
    line = Text()
    line.append(_clock(event), "dim")
    line.append(f"  {event.camera:<12}  ")
    line.append(f"{event.kind:<{KIND_WIDTH}}  ", style)
    if isinstance(event, TrackEvent):
        line.append(f"#{event.track:<4} ", "dim")
    line.append(_words(event), style)
    return line


def _clock(event: AnyEvent) -> str:
    time: datetime = event.captured_at if isinstance(event, TrackEvent) else event.decided_at
    return time.astimezone().strftime("%H:%M:%S.%f")[:-3]


def _words(event: AnyEvent) -> str:
    """What happened, without time, camera and kind."""
    if isinstance(event, CameraState):
        dropped = sum(event.dropped.values())
        tail = f", {event.frames} frames" + (f", {dropped} dropped" if dropped else "")
        return f"{event.state}{tail}{f': {event.detail}' if event.detail else ''}"
    if isinstance(event, System):
        return f"{event.state}{f': {event.detail}' if event.detail else ''}"
    if not isinstance(event, DecisionEvent):
        return "somebody is in view"
    words = event.identity if event.identity is not None else "nobody in the gallery"
    if isinstance(event, MatchRevised):
        words = f"{event.previous_identity or 'unknown'} -> {event.identity or 'unknown'}"
    if isinstance(event, SightingEnded):
        if event.identity is None:
            words = event.reason
        words += f", {event.duration:.1f} s, {event.faces} faces"
    if event.score is not None:
        words += f"  score {event.score:.3f} (threshold {event.threshold:.3f})"
    return f"{words}  {event.frames} frames fused"
