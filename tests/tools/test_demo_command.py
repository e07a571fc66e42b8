"""`facestream demo`: rendered here, four people named rightly, two unknown, files to look at."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import pytest
import typer
from typer.testing import CliRunner

from facestream import ConfigError
from facestream.models.pack import Pack
from facestream.stream.events import MatchEvent, MatchRevised, SightingEnded, decode
from facestream.tools import render
from facestream.tools.demo import RENDERER, configure, demo, prepare
from facestream.tools.render import Truth

app = typer.Typer()
app.command()(demo)


class Played(NamedTuple):
    """A demo that was run: its folder, the totals it printed, and who is where in its clip."""

    folder: Path
    totals: dict[str, object]
    truth: Truth


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("demo") / "out"
    truths: list[Truth] = []
    original = render.render_clip
    with pytest.MonkeyPatch.context() as patch:
        # The renderer itself, listened to: it alone knows whom it drew where.
        patch.setattr(
            render, "render_clip", lambda *given: truths.append(original(*given)) or truths[-1]
        )
        done = CliRunner().invoke(app, ["--folder", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    return Played(folder, json.loads(done.stdout), truths[0])


def endings(folder: Path) -> list[SightingEnded]:
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    return [e for e in map(decode, lines) if isinstance(e, SightingEnded)]


def person_of(event: SightingEnded, truth: Truth) -> int:
    """Who really walks where the best frames of a sighting were."""
    found: Counter[int] = Counter()
    for frame in event.evidence:
        x, y = (frame.box[0] + frame.box[2]) / 2, (frame.box[1] + frame.box[3]) / 2
        nearest = min(
            truth.frames[frame.sequence],
            key=lambda f: abs(f.box[0] + f.box[2] - 2 * x) + abs(f.box[1] + f.box[3] - 2 * y),
        )
        found[nearest.person] += 1
    ((person, count),) = found.items()
    assert count == len(event.evidence) > 0
    return person


def test_the_enrolled_are_named_and_the_others_are_not(played: Played) -> None:
    given = {person_of(e, played.truth): e.identity for e in endings(played.folder)}
    names = enumerate(render.PLACEHOLDER_NAMES)
    assert given == {p: None if p in render.LEFT_OUT else name for p, name in names}
    enrolled = {path.stem for path in (played.folder / "enrol").iterdir()}
    assert enrolled == {name for name in given.values() if name is not None}


def test_everybody_has_one_track(played: Played) -> None:
    ends = endings(played.folder)
    assert len(ends) == len({e.track for e in ends}) == 6
    assert sorted(e.reason for e in ends) == ["matched"] * 4 + ["unknown"] * 2


def test_nobody_was_called_by_a_wrong_name_on_the_way(played: Played) -> None:
    folder = played.folder
    final = {e.track: e.identity for e in endings(folder)}
    for line in (folder / "events.jsonl").read_bytes().splitlines():
        event = decode(line)
        if isinstance(event, MatchEvent | MatchRevised):
            assert event.identity in (final[event.track], None)


def test_there_are_files_for_people(played: Played) -> None:
    folder, totals, _ = played
    with av.open(str(folder / "annotated-demo.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == totals["frames"]
    page = (folder / "report.html").read_text()
    assert "was rendered on this machine from one group photograph" in page
    assert "</html>" in page and (folder / "journal.db").exists()


def test_a_second_run_uses_the_clip_that_is_there(played: Played, open_models: Pack) -> None:
    folder = played.folder
    clip = folder / f"clip-{RENDERER}.mp4"
    before = clip.stat().st_mtime_ns
    stage = prepare(open_models, folder, quiet=True)
    assert (stage.clip, stage.photos) == (clip, folder / "enrol")
    assert clip.stat().st_mtime_ns == before
    assert all(cv2.imread(str(photo)) is not None for photo in stage.photos.iterdir())


def test_everything_it_writes_goes_to_its_folder(played: Played, open_models: Pack) -> None:
    folder = played.folder
    stage = prepare(open_models, folder, quiet=True)
    config = configure(stage, folder, "open", "")
    assert config.publish.journal == str(folder / "journal.db")
    assert config.output.folder == str(folder)
    assert config.cameras[0].url == str(stage.clip)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(app, ["--folder", str(tmp_path / "file" / "out")])
    assert isinstance(done.exception, ConfigError) and "cannot be written" in str(done.exception)
