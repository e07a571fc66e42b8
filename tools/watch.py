"""`facestream watch`: subscribes and prints events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..configs.schema import PublishConfig
from ..stream.client import Subscription, subscribe
from ..stream.client_errors import EventsLost
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
CAUSES = {
    "frames": "",
    "track": " (seen on another track now)",
    "camera": " (seen by another camera)",
    "gallery": " (the gallery changed)",
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
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Begin with the oldest event that the journal holds."),
    ] = False,
    cursor: Annotated[
        Path | None,
        typer.Option(help="File that remembers how far it came: the next run goes on from there."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Key file, where the publisher asks for one (`facestream keys new`)."),
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="Where missed events are asked for, if not beside ENDPOINT."),
    ] = None,
) -> None:
    """Print the events of a running facestream, one a line.

    It waits for a publisher that is not there yet and stays through restarts; Ctrl-C ends it. What
    is lost on the way is read again from the publisher's journal. What the journal no longer holds
    is told on stderr, and the exit code is then 7.

    Example: facestream watch --kind match --kind match.revised --camera entrance

    For scripts: facestream watch --json --from-start --cursor events.cursor --timeout 60
    """
    # Wide and unwrapped: one event is one line, in a pipe as well.
    console = Console(soft_wrap=True, highlight=False)
    subscription = subscribe(
        endpoint,
        kinds=kind or None,
        cameras=camera or None,
        timeout=timeout,
        after="oldest" if from_start else None,
        cursor=cursor,
        key=key,
        replay=replay,
    )
    with subscription as events:
        Console(stderr=True, highlight=False).print(
            Text(f"listening on {endpoint}; Ctrl-C ends", "dim")
        )
        left, lost = count, False
        for event in _all(events):
            if isinstance(event, EventsLost):
                typer.echo(f"facestream: {event}", err=True)
                lost = True
                continue
            if json:
                typer.echo(encode(event, "json"))
            else:
                console.print(format_event(event))
            events.handled()
            left = None if left is None else left - 1
            if left == 0:
                break
    if lost:
        raise typer.Exit(EventsLost.exit_code)


def _all(events: Subscription) -> Iterator[AnyEvent | EventsLost]:
    """Events, and what is missing between them."""
    while True:
        try:
            yield from events
            return
        except EventsLost as error:
            yield error


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
    name = " or ".join(event.ambiguous) or event.identity
    words = name if name is not None else "nobody in the gallery"
    if isinstance(event, MatchRevised):
        before, now = event.previous_identity or "unknown", name or "unknown"
        words = f"{before} -> {now}{CAUSES[event.cause]}"
    if isinstance(event, SightingEnded):
        if event.identity is None:
            words = event.reason
        words += f", {event.duration:.1f} s, {event.faces} faces"
    if event.score is not None:
        words += f"  score {event.score:.3f} (threshold {event.threshold:.3f})"
    return f"{words}  {event.frames} frames fused"
