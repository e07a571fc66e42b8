"""`facestream bench transport`: it runs, and its report says what was compared; never how fast."""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Connection

import pytest
from typer.testing import CliRunner

from facestream import PublishError, SourceMissing
from facestream.stream.events import decode, encode
from facestream.tools.bench_events import make_events
from facestream.tools.bench_peers import Pair, Peers, Window, hear, rounds
from facestream.tools.bench_transport import Row, measure, show, summarise
from facestream.tools.cli import app


def test_every_way_is_measured_beside_its_bare_counterpart() -> None:
    arguments = ["bench", "transport", "--repeats", "1", "--events", "30", "--frames", "3"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["repeats"] == 1
    names = [row["name"] for row in report["rows"]]
    assert [name.split(",")[0] for name in names] == (
        ["events/s"] * 3 + ["µs there and back"] * 2 + ["frames/s"] * 4
    )
    for row in report["rows"]:
        assert row["against"]
        assert row["ours"]["median"] > 0 and row["bare"]["median"] > 0
        assert row["overhead"]["min"] <= row["overhead"]["median"] <= row["overhead"]["max"]


def test_bench_alone_still_measures_the_pipeline() -> None:
    result = CliRunner().invoke(app, ["bench", "--source", "/nowhere/clip.mp4"])
    assert isinstance(result.exception, SourceMissing)


def test_the_events_measured_are_real_and_of_one_to_two_kilobytes() -> None:
    events = make_events(7, 3)
    assert [event.id for event in events] == sorted({event.id for event in events})
    for event in events:
        assert 1000 <= len(encode(event)) <= 2000
        assert decode(encode(event)) == event


def counting(control: Connection, peer: Connection, scratch: str) -> None:
    for count in rounds(control):
        window = Window(peer, most=2)
        for number in range(count):
            peer.send(number)
            window.sent(1)
        control.send(window.finish())


def listening(control: Connection, peer: Connection, scratch: str) -> None:
    for count in rounds(control):
        hear(peer, count, iter(peer.recv, None), every=1)


def failing(control: Connection, peer: Connection, scratch: str) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("threads", [False, True], ids=["processes", "threads"])
def test_a_round_lasts_until_the_last_item_was_heard(threads: bool) -> None:
    with Peers(Pair(counting, listening, threads)) as peers:
        for count in (1, 5):
            before = time.perf_counter()
            assert 0 < peers.once(count) <= time.perf_counter() - before


def test_a_side_that_fails_ends_the_measurement() -> None:
    with (
        Peers(Pair(failing, listening)) as peers,
        pytest.raises(PublishError, match="its error stands above"),
    ):
        peers.once(1)


def test_a_report_is_ratios_with_their_spread(capsys: pytest.CaptureFixture[str]) -> None:
    pair = Pair(counting, listening)
    rows = [Row("events/s", "counting", pair, pair, 100), Row("µs", "us", pair, pair, 100, True)]
    found = [[(1.1, 1.0), (2.4, 2.0), (1.0, 1.0)]] * 2
    report = summarise(rows, found)
    rate, trip = report["rows"]
    assert rate["overhead"] == pytest.approx({"median": 0.1, "min": 0.0, "max": 0.2})
    assert rate["bare"] == pytest.approx({"median": 100, "min": 50, "max": 100})
    assert trip["ours"]["median"] == pytest.approx(11_000)
    show(report)
    told = capsys.readouterr().out
    assert "10 (0 to 20)" in told and "bare: counting" in told


def test_pairs_alternate() -> None:
    found = measure(Row("", "", *[Pair(counting, listening)] * 2, items=3), repeats=2)
    assert len(found) == 2 and all(seconds > 0 for pair in found for seconds in pair)
