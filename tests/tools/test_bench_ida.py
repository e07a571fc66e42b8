"""`facestream bench ida`: searches by every score, paired differences, and the page."""

import numpy as np
import pytest

from facestream import ConfigError
from facestream.models.ida import Anchors
from facestream.tools.bench_ida import (
    COLUMNS,
    COSINE,
    Measured,
    PackNumbers,
    Task,
    agree,
    align_by,
    cosine,
    curve_scores,
    draw_probes,
    measure,
    method_scores,
    people_templates,
    search,
)
from facestream.tools.bench_ida_page import write_page
from facestream.tools.eval_verification import Bootstrap
from facestream.tools.report_record import Number

C = 16


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def crowded(people: int = 20, others: int = 5) -> tuple[Task, Anchors]:
    """Half of the people live in a crowd, where the anchors show it."""
    draw = np.random.default_rng(0)
    middle = unit(draw.standard_normal((1, C)))

    def place(count: int) -> np.ndarray:
        own = unit(draw.standard_normal((count, C)))
        return unit(own + (np.arange(count)[:, None] % 4 < 2) * 1.5 * middle)

    faces = place(people)
    probes = np.repeat(faces, 3, axis=0) + 0.9 * unit(draw.standard_normal((3 * people, C)))
    owners = np.repeat(np.arange(people), 3)
    return Task("crowd", unit(probes), owners, faces, place(others), 0.1), Anchors(place(400), "a")


class FakeBank:
    """Two people, two pictures each, one run of two frames."""

    clean = np.array([[2, 0], [0, 1], [3, 0], [0, 1]], np.float32)
    centres = clean.astype(np.float64) / np.linalg.norm(clean, axis=1, keepdims=True)
    embeddings = np.ones((4, 1, 2, 2), np.float32)
    found = np.array([[[True, True]], [[True, True]], [[True, False]], [[False, False]]])


class FakeHeld:
    bank = FakeBank()
    owners = np.array([0, 1, 0, 1])
    enrolled = np.array([True, True, False, False])


def test_probes_are_the_views_with_a_face_of_what_is_not_enrolled():
    probes, owners, missed = draw_probes(FakeHeld())
    assert probes.shape == (3, 2) and owners.tolist() == [0, 1, 0]
    assert np.allclose(np.linalg.norm(probes, axis=1), 1)
    assert missed == 3 / 6
    assert people_templates(FakeHeld()) == pytest.approx(np.eye(2))


def test_somebody_without_a_template_is_named():
    held = FakeHeld()
    held.enrolled = np.array([True, False, False, False])
    with pytest.raises(ConfigError, match="person 1 has no enrolled picture"):
        people_templates(held)


def test_half_of_the_people_are_enrolled_and_all_of_the_others():
    task, _ = crowded()
    halves = [search(task, cosine, half) for half in (0, 1)]
    for half, ranks in enumerate(halves):
        assert np.array_equal(ranks.mated, task.owners % 2 == half)
    scores = cosine(task.probes, np.concatenate([task.people[0::2], task.others]))
    stranger = ~halves[0].mated
    assert np.allclose(halves[0].others[stranger], scores[stranger].max(axis=1))


def test_alignment_helps_where_people_are_crowded_and_differences_are_paired():
    task, anchors = crowded(60)
    found = measure(task, method_scores(anchors, None, None), Bootstrap(50, 1))
    assert list(found) == [COSINE, "IDA-R, synthetic anchors", "CSLS", "AS-norm"]
    ida = found["IDA-R, synthetic anchors"]
    difference = ida.against(found[COSINE])["TPIR@FPIR=1e-1"]
    assert difference.value is not None and difference.value > 0
    draws = ida.draws["rank 1"] - found[COSINE].draws["rank 1"]
    own = ida.against(found[COSINE])["rank 1"]
    assert own.low == pytest.approx(np.quantile(draws, 0.025))
    assert all(number.value == 0 for number in ida.against(ida).values())


def test_csls_ranks_as_ida_does_for_small_tau():
    task, anchors = crowded()
    small = Anchors(anchors.vectors, "small", k=anchors.k, tau=1e-4)
    csls = method_scores(anchors, None, None)["CSLS"](task.probes, task.people)
    assert np.allclose(csls / 2, align_by(small)(task.probes, task.people), atol=1e-4)


def test_curves_change_one_thing_and_leave_out_what_the_anchors_cannot_give():
    task, anchors = crowded()
    few = Anchors(anchors.vectors[:50], "few", k=10)
    parts = curve_scores(few, anchors, seed=1)
    assert list(parts["k"]) == [COSINE, "1", "3", "10", "30"]
    assert list(parts["anchors, number"]) == [COSINE, "30", "50"]
    assert list(parts["anchors, kind"]) == [COSINE, "50 synthetic", "50 real", "400 real"]
    whole = align_by(few)(task.probes, task.people)
    for part, name in (("k", "10"), ("tau", "1"), ("anchors, number", "50")):
        assert np.allclose(parts[part][name](task.probes, task.people), whole)


def test_a_network_that_says_what_the_anchors_say_agrees_with_them():
    task, anchors = crowded()
    assert agree(task, anchors, anchors) == 1.0
    assert agree(task, anchors, Anchors(anchors.vectors[:40], "b")) < 1.0


def test_the_page_names_every_score_and_marks_what_differs():
    task, _ = crowded()

    def one(value: float) -> Measured:
        numbers = {column: Number(value, low=value - 0.01, high=value + 0.01) for column in COLUMNS}
        return Measured(numbers, {c: np.array([value - 0.01, value]) for c in COLUMNS})

    variants = {COSINE: one(0.5), "IDA-L": one(0.7)}
    curves = {task.name: {"k": variants}}
    numbers = PackNumbers([task], {task.name: variants}, curves, {task.name: 0.96})
    text = write_page({"open": numbers}, "facestream bench ida --seed 1", Bootstrap(2, 1))
    assert "facestream bench ida --seed 1" in text and "## Pack `open`" in text
    assert "| IDA-L | 70.0 (69.0–71.0) | **+20.0** (+20.0 to +20.0) |" in text
    assert "crowd 96 %" in text and "| Neighbours of a support set, k |" in text
    assert "60 searches; 10 % of the views are left out" in text
