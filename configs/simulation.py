"""Presets of simulated surveillance video: what `facestream simulate` renders, and how hard it is.

The YAML files are in configs/simulations/. What a file leaves out keeps the default written here.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .. import ConfigError
from .load import read_dataclass
from .schema import Count, Range, Seconds, Share

Pixels = Annotated[int, Range(least=160, most=3840)]
Height = Annotated[float, Range(least=8, most=200)]
Positive = Annotated[float, Range(least=0)]
PRESETS = ("easy", "medium", "hard", "night", "crowd")


@dataclass(frozen=True)
class Simulation:
    """A set of videos: scenes, each filmed by several cameras that the same people pass."""

    size: tuple[Pixels, Pixels] = (960, 540)
    """Width and height of a picture, px; even."""
    fps: Count = 25
    """Pictures per second."""
    seconds: Seconds = 20.0
    """Length of one camera's video."""
    scenes: Count = 3
    """Scenes; each has its own people as long as there are enough."""
    cameras: Count = 2
    """Cameras of a scene; every one of its people walks past each."""
    subjects: Annotated[int, Range(least=0)] = 6
    """People of a scene who can be enrolled."""
    passers_by: Annotated[int, Range(least=0)] = 3
    """People of a scene who are enrolled nowhere."""
    face_height: tuple[Height, Height] = (24.0, 100.0)
    """Height of a face that faces the camera, px: where somebody comes into view, and nearest."""
    turn: Annotated[float, Range(least=0, most=25)] = 12.0
    """Largest turn of a head to the side, degrees."""
    nod: Annotated[float, Range(least=0, most=17)] = 5.0
    """Largest turn of a head up or down, degrees, beside the camera's own view from above."""
    together: Share = 0.2
    """How often somebody walks beside the one before."""
    objects: Annotated[int, Range(least=0, most=8)] = 1
    """Pillars, plants and signs that people pass behind."""
    exposure_ms: Positive = 8.0
    """Exposure time: what moves meanwhile is smeared."""
    defocus: Positive = 1.0
    """How fast people out of the plane of focus become soft; 0 is a lens without blur."""
    blur: Positive = 0.5
    """Blur of the whole picture, sigma in px."""
    noise: Positive = 2.5
    """Noise of the sensor, standard deviation in grey levels."""
    light: Annotated[float, Range(above=0, most=1)] = 1.0
    """Brightness of the scene: 1 is day; below, lamps make pools of light."""
    flicker: Share = 0.1
    """How much the light changes in the course of a video."""
    infrared: Share = 0.0
    """Share of the cameras that see in grey."""
    haze: Share = 0.08
    """How much a cheap lens lifts the blacks."""
    bit_rate: Annotated[int, Range(least=50)] = 900
    """Bit rate of the H.264, kbit/s."""


def read_simulation(name: str) -> Simulation:
    """A preset by name, or one of your own by the path of its YAML file.

    Raises ConfigError for an unknown name, an unknown key, and a value out of its range.
    """
    if name in PRESETS:
        file = importlib.resources.files(__package__) / "simulations" / f"{name}.yaml"
        text = file.read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--preset {name} cannot be read as a text file") from error
    else:
        raise ConfigError(
            f"no preset is called {name!r}; there are {', '.join(PRESETS)}, or give a .yaml file"
        )
    try:
        simulation = read_dataclass(Simulation, text)
        check(simulation)
    except ConfigError as error:
        raise ConfigError(f"preset {name}: {error}") from error
    return simulation


def check(simulation: Simulation) -> None:
    """Raise ConfigError where values do not fit each other."""
    if simulation.subjects + simulation.passers_by < 1:
        raise ConfigError("subjects and passers_by are both 0: nobody would be seen")
    low, high = simulation.face_height
    if not 1.5 * low <= high:
        raise ConfigError(
            f"face_height must be two heights, the second at least 1.5 times the first, "
            f"got {low:g} and {high:g}"
        )
    if any(side % 2 for side in simulation.size):
        raise ConfigError(f"size must be even, got {simulation.size[0]} x {simulation.size[1]}")
