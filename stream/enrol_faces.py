"""The quality gate: which face of a photo is enrolled, and why none is, in words."""

from __future__ import annotations

from ..configs.schema import EnrolConfig
from ..models.align import eye_distance
from ..models.inference import FaceBoxes
from ..models.photo import PhotoFace, tallest_face
from .enrol_records import Refusal

BACKGROUND = 1 / 3
"""Faces lower than this share of the tallest one count as people in the background."""


def choose_face(faces: FaceBoxes, rules: EnrolConfig, least_eyes: float) -> PhotoFace:
    """The face to enrol of a photo, in its px. least_eyes: the pack's gate, px between the eyes.

    Raises Refusal unless there is one face, or one before people in the background, that is large
    enough.
    """
    face = tallest_face(faces)
    if face is None:
        raise Refusal("no face", "no face found")
    heights = faces.boxes[:, 3] - faces.boxes[:, 1]
    near = int((heights >= BACKGROUND * face.height).sum())
    if near > 1 and not rules.largest:
        raise Refusal(
            "several people", f"{near} faces: one is needed (crop the photo or pass --largest)"
        )
    check_size(face.height, float(eye_distance(face.landmarks)), rules, least_eyes)
    return face


def check_size(height: float, eyes: float, rules: EnrolConfig, least_eyes: float) -> None:
    """Raise Refusal for a face too low, or with eyes too close together, in px."""
    if height < rules.smallest_face:
        raise Refusal(
            "too small", f"face {height:.0f} px tall, at least {rules.smallest_face:.0f} needed"
        )
    if eyes < least_eyes:
        raise Refusal(
            "too small",
            f"eyes {eyes:.0f} px apart, at least {least_eyes:.0f} needed (too small or turned "
            "away)",
        )


def check_quality(quality: float, rules: EnrolConfig, unit: str) -> None:
    """Raise Refusal for a quality below the one asked for."""
    if rules.least_quality is not None and quality < rules.least_quality:
        raise Refusal(
            "low quality",
            f"quality {quality:.4g}, at least {rules.least_quality:.4g} needed ({unit})",
        )
