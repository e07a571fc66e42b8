"""SSR without torch: its arithmetic, its file, and search with it in place of anchors."""

import io
import zipfile

import numpy as np
import pytest

from facestream import CorruptModelFile, MissingModelFile, RecordError
from facestream.models.ida import aligned_score
from facestream.models.ida_learned import (
    LearnedDensity,
    load_learned_density,
    save_learned_density,
)
from facestream.models.search import SearchIndex

C, H = 6, 5


def draw_weights(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {"fc1.weight": (H, C), "fc1.bias": (H,), "fc2.weight": (1, H), "fc2.bias": (1,)}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def faces(count: int = 30, seed: int = 1) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, C)))


def by_hand(bias: float, **more) -> LearnedDensity:
    """The output is max(x0, 0) + 2 max(-x0, 0) + bias for an embedding (x0, x1)."""
    weights = {
        "fc1.weight": np.array([[1, 0], [-1, 0]], np.float32),
        "fc1.bias": np.zeros(2, np.float32),
        "fc2.weight": np.array([[1, 2]], np.float32),
        "fc2.bias": np.array([bias], np.float32),
    }
    return LearnedDensity(weights, **more)


def test_a_miniature_by_hand():
    vectors = np.array([[0.6, 0.8], [-0.6, 0.8], [0.0, 1.0]], np.float32)
    standardised = by_hand(-0.5, mean=0.3, deviation=0.1, tau=2.0)
    assert standardised.density(vectors) == pytest.approx([0.31, 0.37, 0.25], abs=1e-7)
    literal = by_hand(0.05, target="discrepancy", k=2)
    # F = .65, 1.25, .05; the last is below exp(-1)/2, so r is at its largest.
    expected = [-np.log(2 * 0.65), -np.log(2 * 1.25), 1.0]
    assert literal.density(vectors) == pytest.approx(expected, abs=1e-7)


def test_a_density_never_leaves_what_is_possible():
    for model in (by_hand(9.0), by_hand(-9.0), by_hand(-9.0, target="discrepancy")):
        density = model.density(np.array([[1, 0]], np.float32))
        assert abs(density[0]) == pytest.approx(1.0, abs=1e-12)


def test_many_faces_are_measured_in_blocks(monkeypatch):
    model = LearnedDensity(draw_weights())
    at_once = model.density(faces(30))
    monkeypatch.setattr("facestream.models.ida_learned._BLOCK", 7 * H)
    np.testing.assert_allclose(model.density(faces(30)), at_once, rtol=0, atol=1e-6)


def test_a_file_holds_all_of_it(tmp_path):
    model = LearnedDensity(draw_weights(), "density", 0.31, 0.04, k=7, tau=2.0)
    save_learned_density(tmp_path / "ssr.npz", model)
    again = load_learned_density(tmp_path / "ssr.npz")
    assert (again.k, again.tau, again.mean, again.deviation) == (7, 2.0, 0.31, 0.04)
    assert again.version == model.version and again.dimension == C
    np.testing.assert_array_equal(again.density(faces()), model.density(faces()))


def test_the_version_is_of_everything_a_density_depends_on():
    models = [
        LearnedDensity(draw_weights()),
        LearnedDensity(draw_weights(1)),
        LearnedDensity(draw_weights(), "discrepancy"),
        LearnedDensity(draw_weights(), mean=0.1),
        LearnedDensity(draw_weights(), deviation=0.1),
        LearnedDensity(draw_weights(), k=9),
        LearnedDensity(draw_weights(), tau=2.0),
    ]
    assert len({model.version for model in models}) == len(models)
    assert LearnedDensity(draw_weights()).version == models[0].version


def test_search_takes_it_in_place_of_anchors():
    model = LearnedDensity(draw_weights(), mean=0.3, deviation=0.2)
    gallery, probes = faces(40), faces(3, seed=2)
    index = SearchIndex(gallery, np.arange(40), anchors=model)
    cosines = probes.astype(np.float64) @ gallery.T.astype(np.float64)
    scores = aligned_score(cosines, model.density(probes)[:, None], model.density(gallery), tau=1.0)
    for row, hits in zip(scores, index.search(probes, 5), strict=True):
        assert [hit.identity for hit in hits] == np.argsort(-row)[:5].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc1.weight": np.zeros((H, C), np.float64)}, "float32"),
        ({"fc1.weight": np.zeros(C, np.float32)}, "fc1.weight must be"),
        ({"fc1.bias": np.zeros(H + 1, np.float32)}, r"fc1.bias must be \(5,\)"),
        ({"fc2.weight": np.zeros((2, H), np.float32)}, r"fc2.weight must be \(1, 5\)"),
        ({"fc2.bias": np.full(1, np.nan, np.float32)}, "not finite"),
        ({"fc3.bias": np.zeros(1, np.float32)}, "fc3.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
    with pytest.raises(CorruptModelFile, match=message):
        LearnedDensity(draw_weights() | change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "F"}, "target must be"),
        ({"deviation": 0.0}, "deviation positive"),
        ({"mean": float("nan")}, "finite"),
        ({"k": 0}, "k and tau"),
        ({"tau": -1.0}, "k and tau"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(CorruptModelFile, match=message):
        LearnedDensity(draw_weights(), **settings)


def test_vectors_that_do_not_fit_are_refused():
    model = LearnedDensity(draw_weights())
    with pytest.raises(RecordError, match=r"\(N, 6\)"):
        model.density(np.eye(C + 1, dtype=np.float32))
    with pytest.raises(RecordError, match="unit vectors"):
        model.density(2 * np.eye(C, dtype=np.float32))
    assert model.density(np.zeros((0, C), np.float32)).shape == (0,)


def test_files_that_are_no_ssr_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "ssr.npz"
    with pytest.raises(MissingModelFile, match="no SSR at"):
        load_learned_density(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(CorruptModelFile, match="is not an SSR"):
        load_learned_density(path)
    settings = {"target": "density", "mean": 0.0, "deviation": 1.0, "k": 10, "tau": 1.0}
    for change in ({"k": 1.5}, {"mean": "0"}, {"target": 3}, {"tau": [1.0]}):
        with path.open("wb") as file:
            np.savez(file, **draw_weights(), **settings | change)
        with pytest.raises(
            CorruptModelFile, match=f"{next(iter(change))} is missing or of a wrong"
        ):
            load_learned_density(path)
    whole = io.BytesIO()
    np.savez(whole, **draw_weights(), **settings)
    path.write_bytes(whole.getvalue()[:-200])
    with pytest.raises(CorruptModelFile, match="is not an SSR"):
        load_learned_density(path)
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fc1.weight.npy", header.getvalue())
    with pytest.raises(CorruptModelFile, match="is not an SSR"):
        load_learned_density(path)
    path.write_bytes(whole.getvalue())
    assert load_learned_density(path).k == 10
    monkeypatch.setattr("facestream.models.ida_learned.LARGEST", 100)
    with pytest.raises(CorruptModelFile, match="it unpacks to"):
        load_learned_density(path)
