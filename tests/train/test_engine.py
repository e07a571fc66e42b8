"""The engine on a small regression: resuming, refusing, stopping, choosing the best weights."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from facestream import ConfigError, CorruptModelFile, MissingModelFile, TrainingError
from facestream.configs.training import RunSettings
from facestream.train.checkpoint import Origin, load_checkpoint
from facestream.train.curve import Point, read_curve
from facestream.train.engine import BEST, LAST, seeded, train

SETTINGS = RunSettings(steps=12, batch=8, rate=0.05, warmup=2, validate_every=4, seed=7)
ORIGIN = Origin("line", "rate: 0.05", "0123456789abcdef", "abc")


class Points(NamedTuple):
    """x (B, 3), y (B,)."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Points:
        return Points(self.x.to(device), self.y.to(device))


class Line(nn.Module):
    """A linear layer behind dropout, so that the random numbers of a step matter."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.layer = nn.Dropout(0.3), nn.Linear(3, 1)

    def forward(self, points: Points) -> dict[str, Tensor]:
        error = self.layer(self.drop(points.x)).squeeze(1) - points.y
        return {"loss": (error**2).mean(), "worst": error.detach().abs().max()}


class LineRecipe:
    """Finds y = x . (1, 2, 3); validation is the squared error, or what a test wants it to be."""

    watch, higher, fingerprint = "error", False, ORIGIN.data

    def __init__(
        self, settings: RunSettings = SETTINGS, *, told: list[float] | None = None
    ) -> None:
        self._settings, self._told = settings, told
        with seeded(settings.seed):
            self.network = Line()

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]

    def batch(self, step: int, rank: int, ranks: int) -> Points:
        draw = torch.Generator().manual_seed(1000 * self._settings.seed + step)
        x = torch.randn(self._settings.batch, 3, generator=draw)[rank::ranks]
        return Points(x, x @ torch.tensor([1.0, 2.0, 3.0]))

    def validate(self) -> Mapping[str, float]:
        assert not self.network.training
        if self._told is not None:
            return {"error": self._told.pop(0)}
        return {"error": float(((self.network.layer.weight[0] - torch.arange(1, 4)) ** 2).sum())}

    def export(self, folder: Path) -> list[Path]:
        path = folder / "weights.txt"
        path.write_text(" ".join(f"{w:.9g}" for w in self.network.layer.weight[0].tolist()))
        return [path]


def curve(folder: Path) -> list[Point]:
    return read_curve(folder / "curve.jsonl")


class Stopped(Exception):
    """Raised in the middle of a run."""


def stop_at(step: int) -> Any:
    def check(done: int) -> None:
        if done == step:
            raise Stopped

    return check


def test_a_run_learns_keeps_the_best_weights_and_says_how_it_went(tmp_path: Path) -> None:
    outcome = train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    points = curve(tmp_path)
    errors = [point.values["error"] for point in points if point.validated]
    assert errors == sorted(errors, reverse=True)
    assert [point.step for point in points if point.validated] == [4, 8, 12]
    assert [point.step for point in points if not point.validated] == list(range(1, 13))
    assert outcome.step == 12 and outcome.best_step == 12
    held = load_checkpoint(tmp_path / BEST)
    assert held.origin == ORIGIN and held.step == 12 and held.optimiser == {}
    exported = [float(word) for word in outcome.files[0].read_text().split()]
    assert exported == pytest.approx(held.network["layer.weight"][0].tolist(), abs=1e-7)
    page = (tmp_path / "summary.html").read_text()
    assert "after step 12" in page and "rate: 0.05" in page and "abc" in page
    assert any((tmp_path / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tmp_path: Path) -> None:
    other = RunSettings(steps=12, batch=8, rate=0.05, warmup=2, validate_every=4, seed=8)
    for name, settings in (("one", SETTINGS), ("two", SETTINGS), ("other", other)):
        train(LineRecipe(settings), settings, tmp_path / name, ORIGIN)
    assert curve(tmp_path / "one") == curve(tmp_path / "two") != curve(tmp_path / "other")


@pytest.mark.parametrize("step", [2, 4, 7, 11])
def test_a_run_that_was_cut_off_goes_on_to_the_same_curve(tmp_path: Path, step: int) -> None:
    whole = train(LineRecipe(), SETTINGS, tmp_path / "whole", ORIGIN)
    with pytest.raises(Stopped):
        train(LineRecipe(), SETTINGS, tmp_path / "cut", ORIGIN, on_step=stop_at(step))
    seen: list[int] = []
    again = train(LineRecipe(), SETTINGS, tmp_path / "cut", ORIGIN, on_step=seen.append)
    assert seen[0] == step - 1 - (step - 1) % 4  # it is told of a step before it validates
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert again.files[0].read_text() == whole.files[0].read_text()


def test_a_run_that_is_done_only_exports_again(tmp_path: Path) -> None:
    first = train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    text = first.files[0].read_text()
    first.files[0].unlink()
    seen: list[int] = []
    assert train(LineRecipe(), SETTINGS, tmp_path, ORIGIN, on_step=seen.append) == first
    assert first.files[0].read_text() == text and seen == [12]


KILLED = """
import sys, time
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from test_engine import ORIGIN, SETTINGS, LineRecipe
from facestream.train.engine import train

def slowly(step):
    print(step, flush=True)
    time.sleep(0.05)

train(LineRecipe(), SETTINGS, Path(sys.argv[1]), ORIGIN, on_step=slowly)
"""


def test_kill_9_loses_no_more_than_the_steps_since_the_last_validation(tmp_path: Path) -> None:
    train(LineRecipe(), SETTINGS, tmp_path / "whole", ORIGIN)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            if int(line) == 9:
                worker.send_signal(signal.SIGKILL)
                break
        assert worker.wait(30) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / "cut" / LAST).step == 8
    (tmp_path / "cut" / ".killed.part").write_bytes(b"half of a checkpoint")
    train(LineRecipe(), SETTINGS, tmp_path / "cut", ORIGIN)
    assert not list((tmp_path / "cut").glob(".*"))
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_the_best_validation_is_kept_not_the_last(tmp_path: Path) -> None:
    outcome = train(LineRecipe(told=[3.0, 1.0, 2.0]), SETTINGS, tmp_path, ORIGIN)
    assert (outcome.best, outcome.best_step) == (1.0, 8)
    assert load_checkpoint(tmp_path / BEST).step == 8


def test_more_is_better_where_the_recipe_says_so(tmp_path: Path) -> None:
    recipe = LineRecipe(told=[3.0, 1.0, 2.0])
    recipe.higher = True
    assert train(recipe, SETTINGS, tmp_path, ORIGIN).best_step == 4


@pytest.mark.parametrize(
    ("field", "value"), [("recipe", "curve"), ("data", "f" * 16), ("config", "rate: 0.1")]
)
def test_a_run_of_another_kind_is_not_gone_on_with(tmp_path: Path, field: str, value: str) -> None:
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    with pytest.raises(ConfigError, match=f"another {field}"):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN._replace(**{field: value}))
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN._replace(revision="mended"))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"PK\x03\x04 cut short", b"\x80\x02]q\x00h\x05.", b"cx\xff\n"],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(CorruptModelFile, match=r"last\.pt is no checkpoint"):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"format": 1, "origin": Trap()}, tmp_path / LAST)
    with pytest.raises(CorruptModelFile):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    assert not (tmp_path / "sprung").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    class Poisoned(LineRecipe):
        def batch(self, step: int, rank: int, ranks: int) -> Points:
            points = super().batch(step, rank, ranks)
            return points._replace(y=points.y * math.nan) if step == 6 else points

    with pytest.raises(TrainingError, match=r"step 7: the loss is nan.*run\.rate.*last\.pt"):
        train(Poisoned(), SETTINGS, tmp_path, ORIGIN)
    held = load_checkpoint(tmp_path / LAST)
    assert held.step == 4 and torch.isfinite(held.network["layer.weight"]).all()


def test_a_validation_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="error = nan"):
        train(LineRecipe(told=[math.nan]), SETTINGS, tmp_path, ORIGIN)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = torch.save, []

    def fill_up(held: Any, file: Any) -> None:
        if held["step"] == 8:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(held, file)
        saved.append(held["step"])

    monkeypatch.setattr(torch, "save", fill_up)
    with pytest.raises(TrainingError, match="free space"):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    assert load_checkpoint(tmp_path / LAST).step == 4
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (
            "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
            TrainingError,
            r"best\.pt cannot be written \(No space left on device\): free space",
        ),
        ("expected scalar type Float", RuntimeError, "expected scalar type Float"),
    ],
)
def test_only_what_torch_says_of_a_full_disk_is_taken_for_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    kind: type[Exception],
    told: str,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(kind, match=told):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    assert not list(tmp_path.glob("*.pt"))


def test_what_is_not_finite_is_left_out_of_the_curve(tmp_path: Path) -> None:
    class Odd(LineRecipe):
        def validate(self) -> Mapping[str, float]:
            return {**super().validate(), "correlation": math.nan}

    train(Odd(), SETTINGS, tmp_path, ORIGIN)
    assert all("correlation" not in point.values for point in curve(tmp_path))


def test_a_measure_that_came_later_has_dashes_before_it(tmp_path: Path) -> None:
    class More(LineRecipe):
        def validate(self) -> Mapping[str, float]:
            return {**super().validate(), "accuracy_lfw": 0.5}

    with pytest.raises(Stopped):
        train(More(), SETTINGS, tmp_path, ORIGIN, on_step=stop_at(7))
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    page = (tmp_path / "summary.html").read_text()
    assert "accuracy_lfw" in page and "–" in page


def test_a_damaged_curve_is_named_with_its_line(tmp_path: Path) -> None:
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    lines = (tmp_path / "curve.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "curve.jsonl").write_bytes(b"".join([lines[0], b"{\n", *lines[1:]]))
    with pytest.raises(CorruptModelFile, match=r"curve\.jsonl, line 2: "):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)


def test_the_best_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    (tmp_path / BEST).unlink()
    with pytest.raises(MissingModelFile, match=r"best\.pt is gone"):
        train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    train(LineRecipe(), SETTINGS, tmp_path, ORIGIN)
    wider = LineRecipe()
    wider.network.layer = nn.Linear(4, 1)
    with pytest.raises(ConfigError, match=r"last\.pt are of another network"):
        train(wider, SETTINGS, tmp_path, ORIGIN)


TWO = """
import os, sys
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from test_engine import ORIGIN, SETTINGS, LineRecipe
from facestream.train.engine import train

class Shared(LineRecipe):
    def batch(self, step, rank, ranks):
        assert ranks == 2, ranks
        return super().batch(step, rank, ranks)

recipe = Shared()
recipe.network.drop.p = 0.0
told = []
outcome = train(recipe, SETTINGS, Path(sys.argv[1]), ORIGIN, on_step=told.append)
rank = os.environ["RANK"]
Path(sys.argv[1] + rank).write_text(f"{len(told)} {len(outcome.files)}")
"""


def test_two_processes_make_the_curve_of_one(tmp_path: Path) -> None:
    one = LineRecipe()
    one.network.drop.p = 0.0  # each process drops for itself
    train(one, SETTINGS, tmp_path / "one", ORIGIN)
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    launch += [str(tmp_path / "two.py"), str(tmp_path / "two"), str(Path(__file__).parent)]
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    # The process that leads tells of every step and writes the file; the other one is silent.
    assert [(tmp_path / f"two{rank}").read_text() for rank in (0, 1)] == ["13 1", "0 0"]
    for mine, theirs in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert mine.step == theirs.step
        assert mine.values["loss" if not mine.validated else "error"] == pytest.approx(
            theirs.values["loss" if not mine.validated else "error"], rel=1e-5
        )


def test_half_precision_trains_in_bfloat16(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(LineRecipe):
        def __init__(self) -> None:
            super().__init__()
            self.network.layer.register_forward_hook(lambda *a: seen.append(a[2].dtype))

    settings = RunSettings(steps=2, batch=8, validate_every=2, precision="bfloat16")
    train(Watched(), settings, tmp_path, ORIGIN)
    assert set(seen) == {torch.bfloat16}


def test_random_numbers_elsewhere_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1, 2):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(1, 2):
        assert torch.equal(torch.rand(3), first)
    with seeded(2, 1):
        assert not torch.equal(torch.rand(3), first)
