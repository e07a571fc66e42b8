"""The loop that trains every recipe: devices and processes, checkpoints, validation, the curve.

A recipe's batch is a pure function of the step, and the random numbers of a step (dropout, dropped
paths) are seeded by it, so a run that was killed and goes on from its checkpoint makes the curve of
one that never was, and no state of a data loader has to be stored.

Devices and processes are accelerate's, begun by `torchrun -m facestream.tools.cli train …`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import reduce as reduce_over  # type: ignore[import-untyped]
from torch import Tensor, nn

from .. import TrainingError
from ..configs.training import RunSettings
from .checkpoint import (
    Checkpoint,
    Origin,
    check_origin,
    explained,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from .curve import CurveWriter
from .schedule import make_optimiser, rate_at, set_rate
from .summary import write_summary

LAST, BEST, EXPORT = "last.pt", "best.pt", "export"


class Batch(Protocol):
    """Tensors that can be moved to a device; a NamedTuple with this method, as a rule."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        ...


class Recipe(Protocol):
    """What is trained, on what, and how it is judged."""

    @property
    def network(self) -> nn.Module:
        """Called with a batch, gives scalars by name: "loss" is minimised, others are logged."""
        ...

    @property
    def watch(self) -> str:
        """The value of `validate` by which the best weights are chosen."""
        ...

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the data, 16 hexadecimal digits."""
        ...

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups, as `schedule.make_optimiser` takes them."""
        ...

    def batch(self, step: int, rank: int, ranks: int) -> Any:
        """The part of one process in the batch of a step: of these numbers and the seed alone."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Measures on the validation split, the network in evaluation mode; never a test set."""
        ...

    def export(self, folder: Path) -> list[Path]:
        """Write what is to be used, from the network as it is, and return the files."""
        ...


class Outcome(NamedTuple):
    """How a run ended: its last step, the best validation and its step, and the exported files."""

    step: int
    best: float
    best_step: int
    files: list[Path]


def train(
    recipe: Recipe,
    settings: RunSettings,
    out: Path,
    origin: Origin,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Train a recipe to its last step, going on where an earlier run in `out` was cut off.

    In `out`: last.pt to go on from, best.pt, curve.jsonl, tensorboard/, summary.html, export/.
    on_step: called with the number of steps done, also those of earlier runs, by the process that
    leads. Of several processes it alone has files in its outcome.
    Raises ConfigError where `out` holds a run of other settings or data, TrainingError for a loss
    that is not finite and for a full disk; CorruptModelFile for a last.pt that is none.
    """
    run = _Run(recipe, settings, out, origin)
    tell = on_step if run.leads else lambda step: None
    tell(run.step)
    with explained(out), CurveWriter(out, run.step) if run.leads else _NoCurve() as curve:
        while run.step < settings.steps:
            curve.add(run.step + 1, run.advance())
            tell(run.step)
            if run.step % settings.validate_every == 0 or run.step == settings.steps:
                if run.leads:
                    curve.add(run.step, run.judge(), validated=True)
                    curve.flush()
                    run.save()
                run.accelerator.wait_for_everyone()
    with explained(out):
        return run.finish()


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed made of these; the generators stay as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(_mix(*numbers))
        yield


class _NoCurve:
    """Stands for the curve in processes that write none."""

    def add(self, step: int, values: Mapping[str, float], *, validated: bool = False) -> None:
        pass

    def flush(self) -> None:
        pass

    def __enter__(self) -> _NoCurve:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Run:
    """The state of a run: how many steps are done, weights, optimiser, and the best so far."""

    def __init__(self, recipe: Recipe, settings: RunSettings, out: Path, origin: Origin) -> None:
        # Precision is a setting, not of the environment, and one batch is one step. Unless told of
        # CPUs where there is nothing else, every process would train alone.
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision="no",
            gradient_accumulation_steps=1,
        )
        self._recipe, self._settings, self._out, self._origin = recipe, settings, out, origin
        self.step = 0
        self._best: tuple[float, int] | None = None
        if self.leads:
            for partial in out.glob(".*.part"):  # of a run that was killed while it wrote
                partial.unlink()
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        optimiser = make_optimiser(settings, recipe.groups())
        if (out / LAST).is_file():
            self._resume(optimiser)
        # Weights are moved to the device here, and the optimiser's state with them.
        self._network, self._optimiser = self.accelerator.prepare(recipe.network, optimiser)

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    def advance(self) -> dict[str, float]:
        """Make one step, and return what was measured, as the mean over processes."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        batch = self._recipe.batch(self.step, rank, ranks).to(self.accelerator.device)
        rate = rate_at(self._settings, self.step)
        set_rate(self._optimiser, rate)
        self._network.train()
        with seeded(self._settings.seed, self.step, rank), self._arithmetic():
            scalars: dict[str, Tensor] = self._network(batch)
        self._optimiser.zero_grad()
        self.accelerator.backward(scalars["loss"])
        values = self._mean_over_processes(scalars)
        norm = self._clip()
        if not math.isfinite(values["loss"]) or not math.isfinite(norm):
            raise TrainingError(self._not_finite(values["loss"]))
        self._optimiser.step()
        self.step += 1
        return {**values, "gradient": norm, "rate": rate}

    def judge(self) -> dict[str, float]:
        """Validate, and keep the weights where they are the best so far."""
        network = self.accelerator.unwrap_model(self._network)
        network.eval()
        with torch.no_grad(), seeded(self._settings.seed):
            values = dict(self._recipe.validate())
        value = values[self._recipe.watch]
        if not math.isfinite(value):
            raise TrainingError(
                f"validation after step {self.step} gave {self._recipe.watch} = {value}: "
                f"{self._advice()}"
            )
        sign = 1.0 if self._recipe.higher else -1.0
        if self._best is None or sign * value > sign * self._best[0]:
            self._best = (value, self.step)
            save_checkpoint(self._out / BEST, self._checkpoint(network, with_optimiser=False))
        return values

    def save(self) -> None:
        """Write what the next run goes on from."""
        network = self.accelerator.unwrap_model(self._network)
        save_checkpoint(self._out / LAST, self._checkpoint(network))

    def finish(self) -> Outcome:
        """Load the best weights, export them and write the summary."""
        best = load_checkpoint(self._out / BEST)
        check_origin(self._out / BEST, best.origin, self._origin)
        load_weights(self._recipe.network, best, self._out / BEST)
        self._recipe.network.eval()
        assert best.best is not None  # judge stores it with these weights
        files: list[Path] = []
        if self.leads:
            (self._out / EXPORT).mkdir(exist_ok=True)
            files = self._recipe.export(self._out / EXPORT)
            write_summary(self._out, self._origin, self._recipe.watch, best.best)
        self.accelerator.wait_for_everyone()
        return Outcome(self.step, *best.best, files)

    def _resume(self, optimiser: torch.optim.Optimizer) -> None:
        last = load_checkpoint(self._out / LAST)
        check_origin(self._out / LAST, last.origin, self._origin)
        load_weights(self._recipe.network, last, self._out / LAST)
        optimiser.load_state_dict(last.optimiser)
        self.step, self._best = last.step, last.best

    def _checkpoint(self, network: nn.Module, *, with_optimiser: bool = True) -> Checkpoint:
        optimiser = self._optimiser.state_dict() if with_optimiser else {}
        return Checkpoint(self._origin, self.step, network.state_dict(), optimiser, self._best)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(
            self.accelerator.device.type,
            torch.bfloat16,
            enabled=self._settings.precision == "bfloat16",
        )

    def _mean_over_processes(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        names = list(scalars)
        stacked = torch.stack([scalars[name].detach().double() for name in names])
        means = reduce_over(stacked, reduction="mean")
        return dict(zip(names, means.tolist(), strict=True))

    def _clip(self) -> float:
        """The norm of the gradient before it was clipped."""
        largest = self._settings.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self._network.parameters(), largest)
        return float(norm)

    def _not_finite(self, loss: float) -> str:
        return (
            f"step {self.step + 1}: the loss is {loss}, or its gradient is not finite: "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        kept = "nothing was stored yet"
        if (self._out / LAST).is_file():
            kept = f"{self._out / LAST} is of the last good validation"
        return f"lower run.rate, raise run.warmup or set run.clip, and begin anew ({kept})"


def _mix(*numbers: int) -> int:
    """One seed of several numbers (splitmix64's constants), 63 bits."""
    mixed = 0
    for number in numbers:
        mixed = ((mixed ^ number) * 0x9E3779B97F4A7C15 + 0xBF58476D1CE4E5B9) % (1 << 63)
    return mixed
