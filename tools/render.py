"""Render a surveillance-like clip, and enrolment photos, from one photograph of several people.

The people are cut out of the photograph, given drawn bodies, and walk through a drawn room; the
truth about every frame is returned beside the clip. Scene, camera and encoding are separate steps:

    film(cast, size, ...) -> clean pictures and truth        (scene, figures)
    degrade(picture, camera) -> what a cheap camera gives    (exposure, vignette, noise)
    encode(pictures, out) -> H.264                           (bit rate of a CCTV recorder)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from ..models.inference import FaceBoxes
from ..stream.records import Image
from . import figures, scene
from .figures import Head
from .scene import View

PLACEHOLDER_NAMES = ("Ari", "Bo", "Cam", "Dev", "Eli", "Fin")
"""Invented names for the people of a photograph, left to right; nobody's real name."""
LEFT_OUT = (0, 1)
"""Who is not enrolled for the demo.

In the demo's photograph persons 3 and 4 look alike to a weak embedder (0.6 apart where others are
0.7 or more): leaving out one of the two would test the threshold rather than show the job.
"""


class TruthFace(NamedTuple):
    """One face really in view. person: index left to right in the photograph; box: x0 y0 x1 y1 px.

    visible: share 0..1 of the box inside the picture and not behind somebody.
    """

    person: int
    box: tuple[float, float, float, float]
    visible: float


class Truth(NamedTuple):
    """What is in a rendered clip: faces by frame, farthest first, and the clip's format."""

    frames: tuple[tuple[TruthFace, ...], ...]
    fps: int
    size: tuple[int, int]


class Walk(NamedTuple):
    """A way through the room: entry time in s, speed in m/s, corner points (x, z) in m."""

    enters: float
    speed: float
    points: tuple[tuple[float, float], ...]


WALKS = (
    Walk(-2.2, 1.20, ((-3.1, 9.5), (-1.6, 8.6), (-0.5, 6.4), (0.2, 4.2), (0.55, 2.75), (1.9, 2.1))),
    Walk(2.0, 1.20, ((3.1, 9.4), (1.9, 8.8), (1.0, 7.0), (-0.3, 4.8), (-0.6, 3.1), (-1.9, 2.1))),
    Walk(-0.4, 1.25, ((3.1, 9.6), (1.5, 8.8), (0.8, 6.6), (0.1, 4.4), (-0.45, 2.7), (-1.9, 2.1))),
    Walk(0.9, 1.25, ((-3.1, 9.3), (-1.9, 8.7), (-1.3, 6.6), (-0.2, 4.6), (0.5, 2.8), (1.9, 2.1))),
    Walk(3.6, 1.30, ((-3.1, 9.6), (-1.3, 8.8), (-1.0, 6.6), (-0.7, 4.6), (-0.4, 2.9), (-1.9, 2.2))),
    Walk(4.9, 1.35, ((3.1, 9.5), (1.6, 8.6), (0.9, 6.4), (0.8, 4.4), (0.35, 2.7), (1.9, 2.1))),
)
_WALKS_LAST = 12.0


class Camera(NamedTuple):
    """What the simulated camera does to a picture. Sigmas in px, noise in grey levels."""

    exposure_seconds: float = 1 / 120
    focus_metres: float = 2.7
    blur: float = 0.4
    noise: float = 2.6
    vignette: float = 0.22
    saturation: float = 0.82


def cast(photo: Image, faces: FaceBoxes) -> list[Head]:
    """The heads of a photograph, left to right; photo (H, W, 3) uint8 BGR."""
    order = np.argsort(faces.boxes[:, 0], kind="stable")
    return [figures.cut_head(photo, faces.boxes[i], faces.landmarks[i]) for i in order]


def render_clip(
    photo: Image,
    faces: FaceBoxes,
    out: Path,
    *,
    seconds: float = 12.0,
    fps: int = 25,
    size: tuple[int, int] = (960, 540),
    seed: int = 0,
) -> Truth:
    """Write the clip (H.264 in MP4, yuv420p, key frame every 2 s) and return the truth.

    The people of the photograph, at most six, come round a corner and walk past the camera, faces
    24 to 90 px tall at 960x540. size: even width and height in px. The pictures depend on the
    arguments alone.
    """
    generator = np.random.default_rng(seed)
    truth: list[tuple[TruthFace, ...]] = []

    def pictures() -> Iterator[Image]:
        for picture, present in film(cast(photo, faces), seconds, fps, size, Camera(), generator):
            truth.append(present)
            yield picture

    encode(pictures(), out, fps=fps, size=size)
    return Truth(tuple(truth), fps, size)


def film(
    heads: list[Head],
    seconds: float,
    fps: int,
    size: tuple[int, int],
    camera: Camera,
    generator: np.random.Generator,
) -> Iterator[tuple[Image, tuple[TruthFace, ...]]]:
    """Pictures (H, W, 3) uint8 as the camera gives them, each with the faces in it."""
    view = scene.view_of(*size)
    room = scene.draw_room(view, generator)
    heads = [figures.mute(head, camera.saturation) for head in heads[: len(WALKS)]]
    lens = Lens(view, camera, generator)
    starts = [min(w.enters, w.enters * seconds / _WALKS_LAST) for w in WALKS]
    phases = generator.uniform(0, 2 * np.pi, len(WALKS))
    for number in range(round(seconds * fps)):
        now = number / fps
        picture = room.copy()
        walkers = []
        for person, head in enumerate(heads):
            state = locate(WALKS[person], now - starts[person])
            if state is not None:
                walkers.append((state, person, head))
        walkers.sort(key=lambda w: -w[0].z)
        present: list[TruthFace] = []
        for state, _, _ in walkers:
            scene.draw_shadow(picture, view, state.x, state.z)
        for state, person, head in walkers:
            drawn = _draw_walker(view, camera, head, person, state, phases[person])
            if drawn is not None:
                layer, corner, box = drawn
                present = _cover(present, layer, corner)
                _paste(picture, layer, corner)
                present.append(TruthFace(person, box, _inside(box, view, state.z)))
        yield lens.degrade(picture, now), tuple(f for f in present if f.visible > 0.05)


class Place(NamedTuple):
    """Where a walker is: position in m, velocity in m/s, way gone in m, time on the way in s."""

    x: float
    z: float
    vx: float
    vz: float
    gone: float
    time: float


def locate(walk: Walk, time: float) -> Place | None:
    """Where somebody is `time` seconds after entering; None before and after the walk.

    The corner points are rounded off by a cubic through them (Catmull-Rom).
    """
    if time < 0:
        return None
    points = np.array(walk.points)
    points = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, 1, 40, endpoint=False)[:, None]
    curve = np.vstack(
        [
            0.5
            * (
                2 * b
                + (c - a) * t
                + (2 * a - 5 * b + 4 * c - d) * t**2
                + (3 * b - 3 * c + d - a) * t**3
            )
            for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False)
        ]
    )
    steps = np.hypot(*np.diff(curve, axis=0).T)
    gone = np.concatenate([[0.0], np.cumsum(steps)])
    way = walk.speed * time
    if way >= gone[-1]:
        return None
    i = int(np.searchsorted(gone, way, side="right")) - 1
    direction = (curve[i + 1] - curve[i]) / steps[i]
    x, z = curve[i] + (way - gone[i]) * direction
    vx, vz = walk.speed * direction
    return Place(float(x), float(z), float(vx), float(vz), way, time)


def _draw_walker(
    view: View, camera: Camera, head: Head, person: int, place: Place, phase: float
) -> tuple[Image, tuple[int, int], tuple[float, float, float, float]] | None:
    """A layer around one walker, the layer's top left corner (x, y) px, and the face box px."""
    outfit = figures.OUTFITS[person]
    stride = 2 * np.pi * place.gone / 1.45 + phase
    where = (place.x + 0.018 * np.sin(stride), 0.022 * np.cos(2 * stride), place.z)
    # Bodies are drawn flat: turned further than this they would look like boards.
    heading = float(np.clip(0.8 * np.arctan2(place.vx, -place.vz), -0.35, 0.35))
    body = figures.pose_body(outfit, head.skin, stride)
    up = figures.HEAD_UP * outfit.stature
    face = view.project(np.array([where[0], up + where[1], place.z]))
    trunk = view.project(_turn(body.trunk, heading) + where)
    scale = view.focal / place.z
    x0, x1 = int(max(0, face[0] - 0.75 * scale)), int(min(view.width, face[0] + 0.75 * scale))
    y0, y1 = int(max(0, face[1] - 0.4 * scale)), int(min(view.height, face[1] + 1.85 * scale))
    if x1 - x0 < 8 or y1 - y0 < 8:
        return None
    layer = np.zeros((y1 - y0, x1 - x0, 4), np.uint8)
    corner = np.array([x0, y0], np.float32)
    light = scene.light_at(place.x, place.z)

    def draw(limbs: list[figures.Capsule]) -> None:
        joints = _turn(np.array([(limb.start, limb.end) for limb in limbs]), heading) + where
        radii = np.array([limb.radii for limb in limbs]) * (view.focal / joints[..., 2])
        ends = view.project(joints) - corner
        figures.draw_limbs(layer, limbs, ends, radii.astype(np.float32), light)

    draw(body.legs)
    figures.draw_trunk(layer, trunk - corner, outfit.top, light)
    draw(body.arms)
    cv2.GaussianBlur(layer, (0, 0), 0.3 + 0.006 * scale, layer, borderType=cv2.BORDER_REPLICATE)
    across = int(max(0, face[0] - x0 - 0.36 * scale))  # heads need only a part of the layer
    room = layer[: int(0.8 * scale), across : int(max(0, face[0] - x0 + 0.36 * scale))]
    corner += (across, 0)
    box = figures.place_head(
        head,
        room,
        face - corner,
        figures.FACE_METRES * outfit.stature * scale,
        roll=0.05 * np.sin(stride) + 0.05 * np.sin(0.9 * place.time + phase),
        yaw=0.8 * np.sin(1.3 * place.time + phase),
        light=light,
    )
    layer = _smear(layer, view, camera, place)
    if place.z > scene.CORNER:
        _hide_behind_walls(layer, view, x0)
    left, top, right, bottom = (float(v) for v in box + np.tile(corner, 2))
    return layer, (x0, y0), (left, top, right, bottom)


def _turn(points: npt.NDArray[np.float64], heading: float) -> npt.NDArray[np.float64]:
    """Points (..., 3) turned about the vertical axis by `heading` radians."""
    c, s = np.cos(heading), np.sin(heading)
    turned: npt.NDArray[np.float64] = points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
    return turned


def _smear(layer: Image, view: View, camera: Camera, place: Place) -> Image:
    """Motion blur along the walker's way across the picture, and defocus by depth."""
    scale = view.focal / place.z
    across = (place.vx - place.vz * place.x / place.z) * scale * camera.exposure_seconds
    length = 2 * int(abs(across) / 2) + 1
    if length > 1:
        layer = np.asarray(cv2.blur(layer, (length, 1), borderType=cv2.BORDER_CONSTANT), np.uint8)
    defocus = 0.0025 * view.focal * abs(1 / place.z - 1 / camera.focus_metres)
    sigma = camera.blur + defocus
    return np.asarray(
        cv2.GaussianBlur(layer, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT), np.uint8
    )


def _hide_behind_walls(layer: Image, view: View, x0: int) -> None:
    """Cut off what the side walls cover of somebody in the cross passage, in place."""
    reach = view.focal * scene.HALF_WIDTH / scene.CORNER
    left = int(view.width / 2 - reach) - x0
    right = int(view.width / 2 + reach) - x0
    layer[:, : max(0, left)] = 0
    layer[:, max(0, right) :] = 0


def _paste(picture: Image, layer: Image, corner: tuple[int, int]) -> None:
    x, y = corner
    figures.blend(picture[y : y + layer.shape[0], x : x + layer.shape[1]], layer)


def _cover(present: list[TruthFace], layer: Image, corner: tuple[int, int]) -> list[TruthFace]:
    """The faces so far, less what a nearer layer hides of them."""
    covered = []
    for face in present:
        x0, y0, x1, y1 = (round(v) for v in face.box)
        x0, x1 = max(0, x0 - corner[0]), max(0, x1 - corner[0])
        y0, y1 = max(0, y0 - corner[1]), max(0, y1 - corner[1])
        hidden = float(layer[y0:y1, x0:x1, 3].sum()) / 255
        area = (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])
        covered.append(face._replace(visible=max(0.0, face.visible - hidden / area)))
    return covered


def _inside(box: tuple[float, float, float, float], view: View, z: float) -> float:
    """Share of a box inside the picture and, in the cross passage, between the side walls."""
    left, right = 0.0, float(view.width)
    if z > scene.CORNER:
        reach = view.focal * scene.HALF_WIDTH / scene.CORNER
        left, right = view.width / 2 - reach, view.width / 2 + reach
    across = min(box[2], right) - max(box[0], left)
    down = min(box[3], view.height) - max(box[1], 0.0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0.0, across) * max(0.0, down) / area


class Lens:
    """Vignette, exposure and sensor noise of one camera; noise fields are drawn once."""

    def __init__(self, view: View, camera: Camera, generator: np.random.Generator) -> None:
        """Prepare for pictures of the view's size."""
        rows = np.linspace(-1, 1, view.height, dtype=np.float32)[:, None]
        columns = np.linspace(-1, 1, view.width, dtype=np.float32)[None]
        shade = 255 * (1 - camera.vignette * (rows**2 + columns**2) / 2)
        self._vignette = cv2.merge([shade.astype(np.uint8)] * 3)
        self._generator = generator
        height, width = view.height + 64, view.width + 64
        grey = generator.normal(0, camera.noise, (height, width, 1))
        colour = generator.normal(0, 0.6 * camera.noise, (height // 2, width // 2, 3))
        spread = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
        self._noise = np.clip(8 * (grey + spread) + 128, 0, 255).astype(np.uint8)

    def degrade(self, picture: Image, now: float) -> Image:
        """What the sensor makes of a clean (H, W, 3) picture at a time in seconds."""
        exposure = 1.0 + 0.03 * np.sin(0.7 * now) + 0.01 * np.sin(3.1 * now)
        out = cv2.multiply(picture, self._vignette, None, exposure / 255)
        y, x = self._generator.integers(0, 64, 2)
        noise = self._noise[y : y + picture.shape[0], x : x + picture.shape[1]]
        return np.asarray(cv2.addWeighted(out, 1.0, noise, 1 / 8, -16), np.uint8)


def encode(pictures: Iterable[Image], out: Path, *, fps: int, size: tuple[int, int]) -> None:
    """Write (H, W, 3) uint8 BGR pictures as H.264 with the quality of a CCTV recorder."""
    options = {"crf": "22", "preset": "veryfast", "maxrate": "900k", "bufsize": "1800k"}
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 2 * fps
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))


def enrolment_photos(
    photo: Image,
    faces: FaceBoxes,
    out_dir: Path,
    *,
    leave_out: tuple[int, ...] = LEFT_OUT,
    names: tuple[str, ...] = PLACEHOLDER_NAMES,
) -> dict[int, str]:
    """Write NAME.jpg for the people to enrol and return their names by person index.

    Another rendition of the same faces: a passport-like picture, 400x480, standing still before a
    plain wall, in other light, tilted and scaled otherwise than in the clip.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    named: dict[int, str] = {}
    for person, head in enumerate(cast(photo, faces)[: len(names)]):
        if person in leave_out:
            continue
        named[person] = names[person]
        portrait = _portrait(head, person)
        path = out_dir / f"{names[person]}.jpg"
        _, data = cv2.imencode(".jpg", portrait, [cv2.IMWRITE_JPEG_QUALITY, 90])
        path.write_bytes(data.tobytes())
    return named


def _portrait(head: Head, person: int) -> Image:
    """One head on still shoulders before a plain wall, (480, 400, 3)."""
    view = View(400, 480, 1000.0, 205.0, up=figures.HEAD_UP)
    outfit = figures.OUTFITS[(person + 3) % len(figures.OUTFITS)]._replace(stature=1.0)
    rows = np.linspace(1.05, 0.9, view.height)[:, None, None]
    wall = np.broadcast_to(rows * (206, 204, 198), (view.height, view.width, 3)).astype(np.uint8)
    body = figures.pose_body(outfit, head.skin, 0.0, swing=0.0)
    away = (0.0, 0.0, 1.25)
    joints = np.array([(limb.start, limb.end) for limb in body.arms]) + away
    radii = np.array([limb.radii for limb in body.arms]) * (view.focal / joints[..., 2])
    layer = np.zeros((view.height, view.width, 4), np.uint8)
    figures.draw_trunk(layer, view.project(body.trunk + away), outfit.top, 1.0)
    figures.draw_limbs(layer, body.arms, view.project(joints), radii.astype(np.float32), 1.0)
    cv2.GaussianBlur(layer, (0, 0), 5.0, layer, borderType=cv2.BORDER_REPLICATE)
    tilt = 0.06 if person % 2 else -0.06
    middle = np.array([200, 205], np.float32)
    figures.place_head(head, layer, middle, 160.0, roll=tilt, yaw=0.0, light=1.0)
    picture = np.ascontiguousarray(wall)
    figures.blend(picture, layer)
    gamma = 0.9 if person % 2 else 1.1
    table = (255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table), np.uint8)
