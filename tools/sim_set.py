"""Writes a whole simulated set: videos, truth in three layouts, and the stills to enrol.

    OUT/simulation.json    what was asked for: preset, seed, people, videos
    OUT/subjects.csv       number, identity and role of everybody
    OUT/videos/            H.264, one file per scene and camera
    OUT/truth/             our own layout, one CSV per video
    OUT/mot/               MOT Challenge, one sequence per video
    OUT/img/               stills to enrol
    OUT/cs6_*, galleries/  IJB-S

A video is there when it is complete, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import ConfigError, __version__
from ..configs.simulation import Simulation
from ..models.inference import Detector
from ..stream.records import Image
from . import sim_bodies, sim_cast, sim_film, sim_rooms, truth
from .sim_cast import Cast, Identity
from .sim_heads import Bust
from .sim_sensor import encode

FORMAT = 1


class Video(NamedTuple):
    """One camera of one scene: its name, and who walks through it by track, from 1."""

    name: str
    scene: int
    camera: int
    kind: sim_rooms.Kind
    people: tuple[Identity, ...]


class Request(NamedTuple):
    """What to render: preset by name and value, seed, who, and with which pack faces are found."""

    preset: str
    settings: Simulation
    seed: int
    cast: Cast
    pack: str


class Rendered(NamedTuple):
    """What one run wrote: videos and frames that were not there yet, s, and all the videos."""

    videos: int
    frames: int
    seconds: float
    all_videos: int

    @property
    def frames_per_second(self) -> float:
        """Frames rendered and encoded per second of this run; 0 where all was there."""
        return self.frames / self.seconds if self.frames else 0.0


def render_set(
    request: Request,
    detector: Detector,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rendered:
    """Render what of a set is not there yet; progress(done, total) counts frames.

    The same request gives the same bytes of every annotation. Memory holds the heads of one scene
    and one frame. Raises ConfigError where `out` holds another set, and as `sim_cast.load_bust`.
    """
    videos = plan_videos(request)
    _claim(out, request, videos)
    frames = round(request.settings.seconds * request.settings.fps)
    started, written, done = time.perf_counter(), 0, 0

    def tick(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, frames * len(videos))

    heads: dict[Path, Bust] = {}
    scene = -1
    for video in videos:
        if video.scene != scene:
            heads.clear()
            scene = video.scene
        if (out / "videos" / f"{video.name}.mp4").exists():
            tick(frames)
        else:
            _render_video(request, video, detector, out, heads, tick)
            written += 1
    _write_ijbs(request, videos, out)
    return Rendered(written, written * frames, time.perf_counter() - started, len(videos))


def plan_videos(request: Request) -> list[Video]:
    """Which videos a set has, and who is in each: subjects and passers-by are dealt in turn."""
    settings, cast = request.settings, request.cast
    for wanted, there, who in (
        (settings.subjects, cast.subjects, "subjects"),
        (settings.passers_by, cast.passers_by, "passers-by"),
    ):
        if wanted > len(there):
            raise ConfigError(
                f"a scene of preset {request.preset} has {wanted} {who}, the faces give "
                f"{len(there)}: bring more, or a preset with fewer"
            )
    generator = np.random.default_rng([request.seed, 0])
    subjects = [cast.subjects[i] for i in generator.permutation(len(cast.subjects))]
    strangers = [cast.passers_by[i] for i in generator.permutation(len(cast.passers_by))]
    videos = []
    for scene in range(settings.scenes):
        people = _deal(subjects, scene, settings.subjects)
        people += _deal(strangers, scene, settings.passers_by)
        for camera in range(settings.cameras):
            kind = sim_rooms.KINDS[(scene + camera) % len(sim_rooms.KINDS)]
            name = f"scene{scene:03d}-camera{camera}"
            videos.append(Video(name, scene, camera, kind, tuple(people)))
    return videos


def _deal(people: list[Identity], scene: int, count: int) -> list[Identity]:
    return [people[(scene * count + i) % len(people)] for i in range(count)]


def _render_video(
    request: Request,
    video: Video,
    detector: Detector,
    out: Path,
    heads: dict[Path, Bust],
    tick: Callable[[], None],
) -> None:
    settings = request.settings
    generator = np.random.default_rng([request.seed, 1, video.scene, video.camera])
    people = []
    for number, identity in enumerate(video.people):
        still = identity.render[int(generator.integers(len(identity.render)))]
        if still not in heads:
            heads[still] = sim_cast.load_bust(detector, still)
        # Clothes belong to the scene: somebody wears the same before each of its cameras.
        wardrobe = np.random.default_rng([request.seed, 2, video.scene, number])
        people.append(sim_film.Person(identity.name, heads[still], sim_bodies.dress(wardrobe)))
    frames = round(settings.seconds * settings.fps)
    shape = truth.VideoFormat(settings.fps, settings.size, frames)
    path = out / "videos" / f"{video.name}.mp4"
    partial = path.with_name(f".{video.name}.part.mp4")
    partial.parent.mkdir(exist_ok=True)
    own, mot = out / "truth" / f"{video.name}.csv", out / "mot" / video.name
    with truth.TruthWriter(own, mot, shape) as writer:

        def pictures() -> Iterator[Image]:
            shots = sim_film.film(people, settings, video.kind, generator)
            for picture, faces in shots:
                writer.add(faces)
                tick()
                yield picture

        encode(pictures(), partial, settings)
    partial.replace(path)


def _claim(out: Path, request: Request, videos: list[Video]) -> None:
    """Write what is asked for, or find that this folder was asked for the same."""
    asked = json.dumps(describe(request, videos), indent=2) + "\n"
    path = out / "simulation.json"
    part = out / "simulation.json.part"  # may be left of a run that was killed
    try:
        if path.exists():
            if path.read_text(encoding="utf-8") != asked:
                raise ConfigError(f"{out} holds another simulation: choose another --out")
            return
        out.mkdir(parents=True, exist_ok=True)
        if set(out.iterdir()) - {part}:
            raise ConfigError(f"{out} is not empty and holds no simulation: choose another --out")
        part.write_text(asked, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}") from error


def describe(request: Request, videos: list[Video]) -> dict[str, Any]:
    """simulation.json."""
    return {
        "format": FORMAT,
        "facestream": __version__,
        "simulated": True,
        "preset": request.preset,
        "settings": dataclasses.asdict(request.settings),
        "seed": request.seed,
        "pack": request.pack,
        "videos": [
            {
                "name": video.name,
                "video": f"videos/{video.name}.mp4",
                "truth": f"truth/{video.name}.csv",
                "mot": f"mot/{video.name}",
                "scene": video.scene,
                "camera": video.camera,
                "place": video.kind,
                "people": [identity.name for identity in video.people],
            }
            for video in videos
        ],
    }


def _write_ijbs(request: Request, videos: list[Video], out: Path) -> None:
    """Stills, subjects.csv, and the set in the layout of IJB-S.

    Only subjects are in it: as there, whoever just passes by is not annotated. The first camera of
    a scene is the gallery of surveillance to surveillance, the others are its probes.
    """
    present = {identity.name for video in videos for identity in video.people}
    subjects = [one for one in request.cast.subjects if one.name in present]
    strangers = [one for one in request.cast.passers_by if one.name in present]
    numbers = {one.name: number for number, one in enumerate(subjects, 1)}
    lines = ["number,identity,role,stills"]
    lines += [f"{numbers[one.name]},{one.name},subject,{len(one.enrol)}" for one in subjects]
    lines += [f",{one.name},passer-by,0" for one in strangers]
    (out / "subjects.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    stills = _copy_stills(subjects, out)
    writer = truth.IjbsWriter(out)
    for one in subjects:
        for still in stills[one.name]:
            writer.add_image(numbers[one.name], still)
    for video in videos:
        for face in truth.read_truth(out / "truth" / f"{video.name}.csv").faces:
            if face.subject in numbers:
                writer.add_face(numbers[face.subject], f"videos/{video.name}.mp4", face)
    writer.close()
    paths = [f"videos/{video.name}.mp4" for video in videos]
    truth.write_ijbs_probes(out, "surveillance_to_single-booking", paths)
    probes = [p for p, v in zip(paths, videos, strict=True) if v.camera > 0]
    truth.write_ijbs_probes(out, "surveillance_to_surveillance", probes)
    for half in (1, 2):
        members = [one for i, one in enumerate(subjects) if i % 2 == half - 1]
        single = [(numbers[one.name], stills[one.name][0]) for one in members]
        booking = [(numbers[one.name], s) for one in members for s in stills[one.name]]
        truth.write_ijbs_gallery(out, "surveillance_to_single", half, single)
        truth.write_ijbs_gallery(out, "surveillance_to_booking", half, booking)
        seen = [
            (numbers[one.name], path)
            for one in members
            for path, video in zip(paths, videos, strict=True)
            if video.camera == 0 and one in video.people
        ]
        truth.write_ijbs_gallery(out, "surveillance_to_surveillance", half, seen)


def _copy_stills(subjects: list[Identity], out: Path) -> dict[str, list[str]]:
    """Copy the stills to enrol to img/ and return their paths below `out`."""
    (out / "img").mkdir(exist_ok=True)
    copied: dict[str, list[str]] = {}
    for number, one in enumerate(subjects, 1):
        for k, still in enumerate(one.enrol, 1):
            name = f"img/{number}_{k}{still.suffix.lower()}"
            shutil.copyfile(still, out / name)
            copied.setdefault(one.name, []).append(name)
    return copied
