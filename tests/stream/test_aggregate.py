"""AggregateStage: templates, evidence and restarts of tracks."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facestream import RecordError
from facestream.models.aggregators import make_aggregator
from facestream.models.align import warp_faces
from facestream.models.caface_head import HeadSize, random_head, save_head
from facestream.models.fusion import Aggregator
from facestream.models.pack import Pack
from facestream.stream.aggregate import SAMPLE, AggregateStage, Spread
from facestream.stream.records import FrameRef, Observation, Observed, Tracked, TrackKey

C, K = 16, 3
NAMES = ["mean", "quality", "caface"]
ANNA, BERT = TrackKey("door", "e1", 1), TrackKey("door", "e1", 2)


@pytest.fixture(scope="module")
def aggregators(tmp_path_factory) -> dict[str, Aggregator]:
    head = tmp_path_factory.mktemp("head") / "caface.npz"
    save_head(head, random_head(1, HeadSize(C, K, 3), style_mix=0.5))
    return {name: make_aggregator(name, dimension=C, head_path=head) for name in NAMES}


def frame(sequence: int) -> FrameRef:
    return FrameRef("door", sequence, sequence / 25, 1e9 + sequence / 25, 640, 360)


def observe(key: TrackKey, ordinal: int, quality: float = 0.5, crop: bool = False) -> Observation:
    draw = np.random.default_rng([key.track, ordinal])
    embedding = (np.ones(C) * key.track + draw.standard_normal(C)).astype(np.float32)
    return Observation(
        key=key,
        frame=frame(ordinal),
        ordinal=ordinal,
        embedding=embedding,
        norm=float(np.linalg.norm(embedding)),
        quality=quality,
        style=draw.uniform(0, 1, (K, 2)).astype(np.float32),
        box=np.array([ordinal, 2, 30, 40], np.float32),
        crop=np.full((4, 4, 3), ordinal % 256, np.uint8) if crop else None,
    )


def seen(*observations: Observation) -> Observed:
    last = max((o.ordinal for o in observations), default=0)
    return Observed(Tracked(frame(last), ()), observations)


def run(aggregator: Aggregator, observations: list[Observation], evidence: int = 3):
    stage = AggregateStage(aggregator, evidence)
    for observation in observations:
        stage.update(seen(observation))
    return stage


@pytest.mark.parametrize("name", NAMES)
def test_each_track_has_its_own_template(aggregators, name):
    stage = AggregateStage(aggregators[name], 2)
    templates = stage.process(seen(observe(BERT, 0), observe(ANNA, 0)))
    assert {t.key for t in templates} == {ANNA, BERT} == set(stage.tracks)
    for found in templates:
        raw = observe(found.key, 0).embedding
        np.testing.assert_allclose(found.template.embedding, raw / np.linalg.norm(raw), atol=1e-6)
        assert found.template.frames == 1
        assert [e.weight for e in found.template.evidence] == pytest.approx([1.0])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(cut=st.integers(0, 40), count=st.integers(1, 40))
def test_a_restart_between_any_two_frames_changes_nothing(aggregators, name, cut, count):
    observations = [observe(ANNA, i, quality=(i * 7 % 11) / 11, crop=True) for i in range(count)]
    whole = run(aggregators[name], observations)
    stage = run(aggregators[name], observations[:cut])
    if cut:
        data = stage.snapshot(ANNA)
        stage = AggregateStage(aggregators[name], 3)
        stage.restore(ANNA, data)
    for observation in observations[cut:]:
        stage.update(seen(observation))
    before, after = (one.template(ANNA, frame(count)).template for one in (whole, stage))
    assert np.array_equal(before.embedding, after.embedding)
    assert (before.frames, before.quality_median) == (count, after.quality_median)
    for a, b in zip(before.evidence, after.evidence, strict=True):
        assert (a.frame, a.weight, a.quality) == (b.frame, b.weight, b.quality)
        assert np.array_equal(a.crop, b.crop) and np.array_equal(a.box, b.box)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_frames_are_counted_once(aggregators, name):
    observations = [observe(ANNA, i) for i in range(5)]
    once = run(aggregators[name], observations)
    twice = run(aggregators[name], [o for o in observations for _ in range(2)])
    assert twice.update(seen(observations[2])) == ()
    assert once.snapshot(ANNA) == twice.snapshot(ANNA)


def test_evidence_is_the_best_by_weight(aggregators):
    qualities = [0.1, 0.9, 0.2, 0.8, 0.7, 0.3]
    stage = run(aggregators["quality"], [observe(ANNA, i, q) for i, q in enumerate(qualities)])
    template = stage.template(ANNA, frame(9)).template
    assert [e.frame.sequence for e in template.evidence] == [1, 3, 4]
    assert [e.weight for e in template.evidence] == pytest.approx([0.3, 0.8 / 3, 0.7 / 3])
    assert (template.quality_min, template.quality_max) == (0.1, 0.9)
    assert template.quality_median == pytest.approx(0.5)


def test_equal_weights_prefer_the_better_then_the_earlier_face(aggregators):
    qualities = [0.5, 0.2, 0.9, 0.9, 0.5]
    stage = run(aggregators["mean"], [observe(ANNA, i, q) for i, q in enumerate(qualities)])
    evidence = stage.template(ANNA, frame(9)).template.evidence
    assert [e.frame.sequence for e in evidence] == [2, 3, 0]
    assert [e.weight for e in evidence] == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("count", [5, 16, 40])
def test_caface_evidence_holds_the_weights_of_the_template_read(aggregators, count):
    """All frames kept: their shares are those of a fresh computation and sum to one."""
    stage = run(aggregators["caface"], [observe(ANNA, i) for i in range(count)], evidence=99)
    evidence = stage.template(ANNA, frame(count)).template.evidence
    assert len(evidence) == count
    assert sum(e.weight for e in evidence) == pytest.approx(1.0, abs=1e-9)
    weights = [e.weight for e in evidence]
    assert weights == sorted(weights, reverse=True)


def test_a_long_track_stays_small(aggregators):
    stage = run(aggregators["quality"], [observe(ANNA, i, crop=True) for i in range(SAMPLE)])
    size = len(stage.snapshot(ANNA))
    for i in range(SAMPLE, 3 * SAMPLE):
        stage.update(seen(observe(ANNA, i, crop=True)))
    assert len(stage.snapshot(ANNA)) <= size + 64
    assert stage.template(ANNA, frame(0)).template.frames == 3 * SAMPLE


def test_unusable_observations_are_not_counted(aggregators):
    stage = AggregateStage(aggregators["mean"], 3)
    broken = observe(ANNA, 0)
    broken.embedding[:] = np.nan
    assert stage.update(seen(broken)) == ()
    assert stage.template(ANNA, frame(0)) is None and stage.tracks == ()
    assert stage.update(seen(observe(ANNA, 1))) == (ANNA,)
    assert stage.template(ANNA, frame(1)).template.frames == 1


def test_an_ended_track_is_forgotten(aggregators):
    stage = run(aggregators["mean"], [observe(ANNA, 0), observe(BERT, 0)])
    stage.end(ANNA)
    stage.end(ANNA)
    assert stage.tracks == (BERT,)
    assert stage.template(ANNA, frame(1)) is None


def test_snapshots_of_something_else_are_refused(aggregators):
    data = run(aggregators["mean"], [observe(ANNA, 0)]).snapshot(ANNA)
    with pytest.raises(RecordError, match="of quality with sums"):
        AggregateStage(aggregators["quality"], 3).restore(ANNA, data)
    with pytest.raises(RecordError, match="expected the snapshot of a track"):
        AggregateStage(aggregators["mean"], 3).restore(ANNA, data[:-20])
    other = make_aggregator("mean", dimension=C + 1)
    with pytest.raises(RecordError, match=r"sums \(1, 17\)"):
        AggregateStage(other, 3).restore(ANNA, data)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=SAMPLE))
def test_the_median_is_exact_for_ordinary_tracks(qualities):
    spread = Spread()
    for quality in qualities:
        spread.add(quality)
    assert spread.median == np.median(qualities)
    assert (spread.smallest, spread.largest) == (min(qualities), max(qualities))


def test_the_median_of_a_long_track_is_that_of_evenly_spaced_frames():
    spread = Spread()
    qualities = np.random.default_rng(0).uniform(0, 1, 10 * SAMPLE + 7)
    for quality in qualities:
        spread.add(float(quality))
    assert spread.stride == 16 and len(spread.sample) <= SAMPLE
    assert spread.sample == qualities[::16].tolist()
    assert spread.median == pytest.approx(0.5, abs=0.1)


# Real faces: embeddings, styles and qualities of a real pack on a real clip.


@pytest.fixture(scope="module")
def real_observations(assets: Path, omz_models: Pack) -> list[Observation]:
    """One woman turning her head."""
    found = []
    with av.open(str(assets / "video/head-pose-face-detection-female.gif")) as clip:
        for number, picture in enumerate(clip.decode(video=0)):
            image = picture.to_ndarray(format="bgr24")
            (faces,) = omz_models.detector.detect([image])
            if not len(faces.scores):
                continue
            crops = {
                consumer: warp_faces(image, faces.landmarks[:1], template)
                for consumer, template in omz_models.consumers.items()
            }
            embedded = omz_models.embedder.embed(crops["embedder"])
            (quality,) = omz_models.quality.score(
                crops=crops["quality"],
                embedded=embedded,
                boxes=faces.boxes[:1],
                scores=faces.scores[:1],
            )
            found.append(
                Observation(
                    key=ANNA,
                    frame=frame(number),
                    ordinal=number,
                    embedding=embedded.embeddings[0],
                    norm=float(embedded.norms[0]),
                    quality=float(quality),
                    style=embedded.styles[0],
                    box=faces.boxes[0],
                )
            )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_real_faces_fuse_alike_however_they_arrive(real_observations, name, tmp_path):
    assert len(real_observations) >= 20  # a full chunk and an open one
    styles, dimension = len(real_observations[0].style), len(real_observations[0].embedding)
    head = tmp_path / "head.npz"
    save_head(head, random_head(0, HeadSize(dimension, styles, 4), style_mix=0.5))
    one = make_aggregator(name, dimension=dimension, head_path=head)
    alone = run(one, real_observations)
    together = AggregateStage(one, 3)
    together.update(seen(*real_observations[:17]))
    restarted = AggregateStage(one, 3)
    restarted.restore(ANNA, together.snapshot(ANNA))
    restarted.update(seen(*reversed(real_observations[17:])))  # within a frame: by ordinal
    first, second = (stage.template(ANNA, frame(99)).template for stage in (alone, restarted))
    assert np.abs(first.embedding - second.embedding).max() <= 1e-6
    assert [e.frame for e in first.evidence] == [e.frame for e in second.evidence]
    # Fusing helps: the template is nearer to the faces than they are to each other.
    units = np.stack([o.embedding / np.linalg.norm(o.embedding) for o in real_observations])
    assert (units @ first.embedding).mean() > (units @ units.T).mean()
