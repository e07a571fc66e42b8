"""The report page: parsed as HTML, it holds what the run saw and asks nobody for anything."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from facestream.stream.events import (
    CameraState,
    CandidateScore,
    MatchEvent,
    SightingEnded,
    SightingStarted,
    Unknown,
)
from facestream.stream.records import (
    Evidence,
    Face,
    Frame,
    FrameRef,
    Template,
    Tracked,
    TrackedFace,
)
from facestream.stream.watcher import Label, SourceInfo
from facestream.tools.page import ReportPage
from facestream.tools.palette import Palette
from facestream.tools.summary import Sighting, Summary, clock, group
from facestream.tools.timeline import Axis, axis_of, build_timeline, pack

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
VOID = {"meta", "link", "img", "br", "hr", "input", "!doctype"}


class Parser(HTMLParser):
    """Collects tags and text, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def parse(path: Path) -> Parser:
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser


def template(pts: float) -> Template:
    """A template with two evidence pictures: left half dark, right half bright."""
    crop = np.zeros((112, 112, 3), np.uint8)
    crop[:, 56:] = 230
    box = np.array([10, 10, 60, 70], np.float32)
    ref = FrameRef("cam1", 1, pts, 1.7e9, 320, 240)
    evidence = tuple(Evidence(ref, w, 0.6, box, crop) for w in (0.7, 0.3))
    unit = np.zeros(8, np.float32)
    unit[0] = 1
    return Template(unit, 12, 0.1, 0.4, 0.8, evidence)


def run_story(
    page: ReportPage, name: str = "Ada", live: bool = False, ambiguous: tuple[str, ...] = ()
) -> None:
    """Track 1 is undecided for a second, then `name`; track 2 stays unknown."""
    page.source(SourceInfo("cam1", "/home/ada/lobby.mp4", live, 320, 240, 25.0, 100, 4.0))
    image = np.zeros((240, 320, 3), np.uint8)
    face = Face(np.array([10, 10, 60, 70], np.float32), np.zeros((5, 2), np.float32), 0.9)

    def common(track: int, pts: float) -> dict[str, object]:
        at = START + timedelta(seconds=pts)
        identity = {"id": f"{track}-{pts}", "camera": "cam1", "decided_at": at}
        return {**identity, "track": track, "frame": round(25 * pts), "pts": pts, "captured_at": at}

    def decision(score: float, identity: str | None) -> dict[str, object]:
        candidates = (CandidateScore(name, score, score + 0.01), CandidateScore("Bo", 0.11, 0.12))
        return {
            "identity": identity, "score": score, "cosine": score + 0.01, "threshold": 0.4,
            "target_fpir": 0.01, "false_positive_probability": 0.002, "candidates": candidates,
            "frames": 12, "quality_min": 0.1, "quality_median": 0.4, "quality_max": 0.8,
            "evidence": (), "pack": "open", "gallery_version": 7,
            "ambiguous": ambiguous if identity else (),
        }  # fmt: skip

    page.event(SightingStarted(**common(1, 0.2)), None)
    page.event(SightingStarted(**common(2, 0.4)), None)
    for n in range(100):
        pts = n / 25
        frame = Frame("cam1", n, pts, 1.7e9 + pts, image)
        labels = {
            1: Label(name, True, 0.5 + n / 1000) if pts >= 1.2 else Label(None, False, None),
            2: Label(None, pts >= 1, 0.2 if pts >= 0.6 else None),  # a score before a decision
        }
        faces = (TrackedFace(1, n, face), TrackedFace(2, n, face))
        page.frame(frame, Tracked(frame.ref, faces), labels)
        if n == 30:
            page.event(MatchEvent(**common(1, 1.2), **decision(0.53, name)), template(1.2))
            page.event(Unknown(**common(2, 1.2), **decision(0.2, None)), template(1.2))
    for track, who, score in ((1, name, 0.61), (2, None, 0.2)):
        ended = {"started_at": START, "duration": 3.6, "faces": 90}
        reason = "matched" if who else "unknown"
        event = SightingEnded(**common(track, 4.0), **decision(score, who), **ended, reason=reason)
        page.event(event, template(3.0))
    page.event(
        CameraState(
            id="c", camera="cam1", decided_at=START, state="ended", detail="", frames=100,
            dropped={"newer": 3},
        ),
        None,
    )  # fmt: skip
    page.close()


def test_page_tells_the_story(tmp_path: Path) -> None:
    page = ReportPage(tmp_path, note="A test run.", gallery_size=4)
    page.rejected = {"below_gate": 1234}
    run_story(page)
    html = parse(page.path)
    assert "/home" not in page.path.read_text(encoding="utf-8")  # of a file only its name
    for words in (
        "A test run.", "open", "4 people enrolled, version 7",
        "0.400: 1 % of unknown people's tracks may be named (FPIR)",
        "1,234 too small to be recognised", "1person named", "2sightings", "1unknown",
        "lobby.mp4 (320×240, 25 frames/s", "12 frames fused of 90 seen",
        "Frames dropped3 overtaken by a newer one", "scores this high: 1 in 500",
    ):  # fmt: skip
        assert words in re.sub(r"\s+", " ", html.text.replace("\n", "")), words
    assert len(html.all("article")) == 2
    assert list(tmp_path.iterdir()) == [page.path]


def test_look_alikes_are_shown_with_both_names(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page, ambiguous=("Ada", "Bo"))
    text = parse(page.path).text
    assert "Ada or Bo" in text
    assert text.count("As much like Ada as like Bo: look before acting on a name.") == 1


def test_timeline_shows_when_somebody_was_named(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page)
    titles = re.findall(r"<title>(.*?)</title></rect>", page.path.read_text(encoding="utf-8"))
    assert titles == [
        "undecided, track 1: 00:00.2 to 00:01.2",
        "Ada, track 1: 00:01.2 to 00:04.0",
        "undecided, track 2: 00:00.4 to 00:01.0",
        "unknown, track 2: 00:01.0 to 00:04.0",
    ]


def test_who_was_compared_with_no_gallery_does_not_tell_its_version(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page)
    page.event(
        SightingEnded(
            id="3", camera="cam1", decided_at=START, track=3, frame=100, pts=4.0, captured_at=START,
            identity=None, score=None, cosine=None, threshold=0.4, target_fpir=None,
            false_positive_probability=None, candidates=(), frames=1, quality_min=None,
            quality_median=None, quality_max=None, evidence=(), pack="open", gallery_version=0,
            started_at=START, duration=0.1, faces=2, reason="too few frames",
        ),
        None,
    )  # fmt: skip
    page.close()
    text = parse(page.path).text
    assert "version 7" in text
    assert "version 0" not in text


def test_bars_lead_to_the_cards_of_their_sightings(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page)
    html = parse(page.path)
    links = [link["href"] for link in html.all("a")]
    assert links == ["#s1", "#s1", "#s2", "#s2"]
    assert [article["id"] for article in html.all("article")] == ["s1", "s2"]


def test_times_of_a_live_camera_are_those_of_the_wall_clock(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page, live=True)
    text = page.path.read_text(encoding="utf-8")
    assert "Ada, track 1: 08:00:01 to 08:00:04" in text
    assert "08:00:00 to 08:00:04 UTC on 2026-03-01, 3.6 s in view" in parse(page.path).text


@pytest.mark.parametrize(
    ("seconds", "began", "first", "last"),
    [
        (12.0, None, "00:00", "00:12"),
        (7100.0, None, "00:00", "1:30:00"),
        (40.0, START + timedelta(seconds=3.27), "08:00:10", "08:00:40"),
        (3 * 86400.0, START, "02 Mar", "04 Mar"),
    ],
)
def test_marks_stand_at_round_times(
    seconds: float, began: datetime | None, first: str, last: str
) -> None:
    ticks = Axis(0.0, seconds, began).ticks()
    assert 3 <= len(ticks) <= 9
    assert all(0 <= tick.x <= 100.01 for tick in ticks)
    assert (ticks[0].text, ticks[-1].text) == (first, last)


def test_many_sightings_without_a_name_share_lanes() -> None:
    crowd = [Sighting("cam1", n, 5.0 * n, 5.0 * n + 7, START) for n in range(100)]
    rows = pack(crowd, 1.0)
    assert len(rows) == 2
    for row in rows:
        assert all(b.first - a.last >= 1.0 for a, b in pairwise(row))
    links = {("cam1", n): f"s{n}" for n in range(100)}
    axis = axis_of(crowd, (0.0, 500.0), False)
    assert len(build_timeline("cam1", crowd, axis, False, Palette(), links).lanes) == 2
    assert len(build_timeline("cam1", crowd[:8], axis, False, Palette(), links).lanes) == 8


def test_page_is_self_contained(tmp_path: Path) -> None:
    """No script, and no address that a browser would fetch."""
    page = ReportPage(tmp_path)
    run_story(page)
    html = parse(page.path)
    assert not html.all("script")
    policy = next(m for m in html.all("meta") if m.get("http-equiv"))["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attrs in html.tags:
        for key in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, key, value)
    text = page.path.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", text)
    assert page.path.stat().st_size < 200_000


def test_pictures_are_inside_and_described(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    run_story(page)
    images = parse(page.path).all("img")
    assert len(images) == 4
    assert images[0]["alt"] == "Face 1 of 2: Ada at 00:03.0"
    picture = decode_uri(images[0]["src"])
    assert picture.shape == (112, 112, 3)
    assert picture[:, :50].mean() < 20 < 200 < picture[:, 62:].mean()


def test_blurred_pictures_keep_a_few_blocks_only(tmp_path: Path) -> None:
    page = ReportPage(tmp_path, blur_faces=True)
    run_story(page)
    html = parse(page.path)
    picture = decode_uri(html.all("img")[0]["src"])
    blocks = cv2.resize(picture, (5, 5), interpolation=cv2.INTER_AREA)
    again = cv2.resize(blocks, picture.shape[:2], interpolation=cv2.INTER_NEAREST)
    assert np.abs(again.astype(int) - picture).max() < 40  # nothing finer than the blocks
    assert "five by five blocks" in html.text


def decode_uri(uri: str | None) -> np.ndarray:
    assert uri is not None
    head, data = uri.split(",", 1)
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "O'Neil & {{ 7*7 }}"]
)
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    page = ReportPage(tmp_path, note=name)
    run_story(page, name)
    html = parse(page.path)
    assert not html.all("script")
    assert all(image["src"] != "x" for image in html.all("img"))
    assert name in html.text
    assert any(name in (image["alt"] or "") for image in html.all("img"))


def test_a_run_that_saw_nothing_has_a_page_too(tmp_path: Path) -> None:
    page = ReportPage(tmp_path)
    page.close()
    assert "No video was read." in parse(page.path).text
    page.source(SourceInfo("cam1", "lobby.mp4", False, 320, 240, 25.0, 100, 4.0))
    page.close()
    assert "Nobody was seen." in parse(page.path).text


def test_old_sightings_are_forgotten_and_counted() -> None:
    summary = Summary(keep=2)
    for track in range(5):
        summary.add(
            SightingStarted(
                id=str(track), camera="cam1", decided_at=START, track=track, frame=track,
                pts=float(track), captured_at=START,
            )
        )  # fmt: skip
    assert [s.track for s in summary.sightings] == [3, 4]
    assert summary.forgotten == 3
    (nameless,) = group(summary.sightings)
    assert nameless.identity is None
    assert nameless.best is None


def test_long_sightings_keep_a_bounded_score_line() -> None:
    summary = Summary()
    summary.add(
        SightingStarted(
            id="1", camera="cam1", decided_at=START, track=1, frame=0, pts=0.0, captured_at=START
        )
    )
    for n in range(5000):
        summary.see("cam1", 1, n / 25, Label("Ada", True, n / 5000))
    (sighting,) = summary.sightings
    assert len(sighting.points) <= 400
    assert sighting.points[-1].pts == pytest.approx(4999 / 25)
    assert sighting.points[0].pts == 0.0
    assert [p.pts for p in sighting.points] == sorted(p.pts for p in sighting.points)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "00:00.0"), (9.96, "00:10.0"), (75.25, "01:15.2"), (3723.4, "1:02:03.4")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
