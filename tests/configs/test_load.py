"""The configuration loader: what a file may say, and how each mistake is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import facestream
from facestream import ConfigError
from facestream.configs.load import check, from_mapping, load, override, preset
from facestream.configs.schema import CameraConfig, Config, MatchConfig, PublishConfig, Range

PRESETS = sorted((Path(facestream.__file__).parent / "configs" / "presets").rglob("*.yaml"))
DOOR = {"name": "door", "url": "door.mp4"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def with_camera(**changes: object) -> dict[str, object]:
    return {"cameras": [{**DOOR, **changes}]}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_yaml_in_configs_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    assert load(path) == preset(path.stem)


def test_the_presets_are_those_the_documentation_names() -> None:
    assert {path.stem for path in PRESETS} >= {"demo", "one-camera", "many-cameras"}
    with pytest.raises(ConfigError, match="no preset is called 'party'; there are demo, many"):
        preset("party")


def test_yaml_anchors_share_settings_between_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    cameras = preset("many-cameras").cameras
    assert [camera.stride for camera in cameras] == [3, 3, 3, 3]
    assert [camera.transport for camera in cameras] == ["tcp", "tcp", "udp", "tcp"]


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            "cameras: [{name: door, url: door.mp4, region: [0, 0, 1, 0.5]}]\n"
            "match: {threshold: 1, least_frames: 5}\n",
        )
    )
    camera = CameraConfig("door", "door.mp4", region=(0.0, 0.0, 1.0, 0.5))
    assert config == Config((camera,), match=MatchConfig(threshold=1.0, least_frames=5))
    assert isinstance(config.match.threshold, float)
    assert all(isinstance(share, float) for share in config.cameras[0].region)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-3 as text; people do not.
    text = "cameras: [{name: door, url: door.mp4}]\nmatch: {threshold: 1e-3}\n"
    assert load(written(tmp_path, text)).match.threshold == 0.001


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "the configuration must be a mapping of cameras, models, .* got nothing"),
        ({}, "cameras is missing"),
        ({"cameras": []}, "cameras must name at least one source"),
        ({"cameras": "door.mp4"}, "cameras must be a list, got 'door.mp4'"),
        ({"cameras": ["door.mp4"]}, r"cameras\[0\] must be a mapping of name, url"),
        ({"cameras": [{"name": "door"}]}, r"cameras\[0\].url is missing"),
        (with_camera(ur="x"), r"unknown key cameras\[0\].ur, did you mean url\?"),
        (with_camera(zzzzzz="x"), r"unknown key cameras\[0\].zzzzzz; cameras\[0\] has name, url"),
        ({**with_camera(), "galery": {}}, "unknown key galery, did you mean gallery"),
        (
            {**with_camera(), "match": {"apart": [["door"]]}},
            r"match.apart\[0\] must name two cameras or more, each once, got \['door'\]",
        ),
        (
            {**with_camera(), "match": {"apart": [["door", "dor"]]}},
            r"match.apart\[0\] names 'dor', which is no camera; did you mean door\?",
        ),
        ({**with_camera(), "match": {"treshold": 1}}, "match.treshold, did you mean threshold"),
        (with_camera(name=7), r"cameras\[0\].name must be text, got 7: put it in quotes"),
        (with_camera(name="front door"), "must be letters, digits, .* got 'front door'"),
        (with_camera(name="-"), "starting with a letter or digit, got '-'"),
        (with_camera(url=" "), r"cameras\[0\].url is empty"),
        (with_camera(stride=0), r"cameras\[0\].stride must be 1 or more, got 0"),
        (with_camera(stride=1.5), r"cameras\[0\].stride must be a whole number, got 1.5"),
        (with_camera(stride=True), r"cameras\[0\].stride must be a whole number, got true"),
        (with_camera(stride=None), r"cameras\[0\].stride must be a whole number, got nothing"),
        (with_camera(fps="fast"), r"cameras\[0\].fps must be a number, got 'fast'"),
        (with_camera(fps=float("inf")), r"cameras\[0\].fps must be a finite number, got inf"),
        (with_camera(mode="slow"), "mode must be one of auto, live, recorded, got 'slow'"),
        (with_camera(region=[0, 0, 1]), r"cameras\[0\].region must be a list of 4, got 3"),
        (with_camera(region=[0, 0, 1, 2]), r"cameras\[0\].region\[3\] must be 0 to 1, got 2.0"),
        (with_camera(region=[0.5, 0, 0.5, 1]), r"cameras\[0\].region must be .* with x0 < x1"),
        (with_camera(retry_first_seconds=60), "must not exceed retry_most_seconds"),
        (with_camera(stall_seconds=0), "stall_seconds must be above 0, got 0.0"),
        ({"cameras": [DOOR, DOOR]}, r"cameras\[1\].name is 'door' like cameras\[0\].name"),
        ({**with_camera(), "output": {"video": 1}}, "output.video must be true or false, got 1"),
        ({**with_camera(), "match": {"threshold": "x"}}, "must be a number or null, got 'x'"),
        ({**with_camera(), "match": {"threshold": float("nan")}}, "must be a finite number"),
        ({**with_camera(), "detect": {"score": 2}}, "detect.score must be 0 to 1, got 2.0"),
        ({**with_camera(), "publish": [1]}, "publish must be a mapping of endpoint, .* got a list"),
    ],
)
def test_a_mistake_is_named_by_its_key(data: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        from_mapping(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cameras: [\n  - {name: door", r"config.yaml: line \d, column \d+: not YAML"),
        ("cameras:\n\t- a", "line 2, column 1: not YAML"),
        ("match: {top_k: 1}\nmatch: {top_k: 2}", "line 2, .* the key match is given twice"),
        ("cameras: [{name: a, name: b}]", "the key name is given twice"),
        ("cameras: !!python/object/apply:os.getcwd []", "not YAML: could not determine"),
        ("match: {threshold: 2026-99-99}", "not YAML"),
        ("", "the configuration must be a mapping"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file at .*missing.yaml"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"cameras: \xff")
    with pytest.raises(ConfigError, match="byte 9 is no UTF-8"):
        load(tmp_path / "binary.yaml")


def test_secrets_come_from_the_environment_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    monkeypatch.delenv("OTHER_PASSWORD", raising=False)
    config = from_mapping(with_camera(url="rtsp://viewer:${CAMERA_PASSWORD}@door/${x"))
    assert config.cameras[0].url == "rtsp://viewer:s3cret@door/${x"
    assert "s3cret" not in repr(config)

    with pytest.raises(ConfigError, match="url needs the environment variable OTHER_PASSWORD"):
        from_mapping(with_camera(url="rtsp://viewer:${OTHER_PASSWORD}@door"))
    for data in (
        with_camera(fps="${CAMERA_PASSWORD}"),
        with_camera(mode="${CAMERA_PASSWORD}"),
        with_camera(url=["rtsp://viewer:s3cret@door"]),
        {"cameras": "rtsp://viewer:s3cret@door"},
        {"cameras": ["rtsp://viewer:s3cret@door"]},
        {"cameras": [{"name": "rtsp://viewer:s3cret@door", "url": "door"}]},
        {"cameras": [{"rtsp://viewer:s3cret@door": "door"}]},
    ):
        with pytest.raises(ConfigError) as caught:
            from_mapping(data)
        assert "s3cret" not in str(caught.value)
    for text in (
        "cameras: [{name: a, url: 'rtsp://viewer:s3cret@door}]",
        "url: a: s3cret",
        "rtsp://viewer:s3cret@door: a\nrtsp://viewer:s3cret@door: b",
    ):
        with pytest.raises(ConfigError) as caught:
            load(written(tmp_path, text))
        assert "s3cret" not in str(caught.value)
    for assignment in ("cameras[0].url rtsp://viewer:s3cret@door", "rtsp://viewer:s3cret@door?a=1"):
        with pytest.raises(ConfigError, match="expected KEY=VALUE") as caught:
            override(config, assignment)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("match.threshold=0.4", ("match", "threshold"), 0.4),
        ("match.threshold=null", ("match", "threshold"), None),
        ("publish.endpoint=", ("publish", "endpoint"), ""),
        ("publish.endpoint=tcp://127.0.0.1:*", ("publish", "endpoint"), "tcp://127.0.0.1:*"),
        ("output.page=true", ("output", "page"), True),
        ("gallery.folder=12", ("gallery", "folder"), "12"),
        ("publish={format: json}", ("publish",), PublishConfig(format="json")),
    ],
)
def test_one_value_can_be_overridden(assignment: str, key: tuple[str, ...], value: object) -> None:
    before = from_mapping(with_camera())
    after: object = override(before, assignment)
    for name in key:
        after = getattr(after, name)
    assert after == value
    assert before == from_mapping(with_camera())


def test_an_override_reaches_into_the_cameras() -> None:
    config = from_mapping({"cameras": [DOOR, {**DOOR, "name": "hall"}]})
    changed = override(config, "cameras[1].region=[0, 0, 0.5, 1]")
    assert changed.cameras[0] == config.cameras[0]
    assert changed.cameras[1].region == (0.0, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("match.threshold", "expected KEY=VALUE like match.threshold=0.4, got 'match.threshold'"),
        ("=1", "expected KEY=VALUE"),
        ("match..threshold=1", "expected KEY=VALUE"),
        ("match.treshold=1", "unknown key match.treshold, did you mean threshold"),
        ("match.threshold.x=1", "match.threshold has no keys below it"),
        ("match[0]=1", r"match\[0\] does not exist: match has 0 items"),
        ("cameras[3].url=x", r"cameras\[3\] does not exist: cameras has 1 items"),
        ("cameras[0].stride=0", r"cameras\[0\].stride must be 1 or more"),
        ("match.threshold=[", "not YAML"),
    ],
)
def test_a_wrong_override_is_named(assignment: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        override(from_mapping(with_camera()), assignment)


def test_a_configuration_built_in_code_is_checked_the_same() -> None:
    with pytest.raises(ConfigError, match=r"match.top_k must be 1 or more, got 0"):
        check(Config((CameraConfig("door", "door.mp4"),), match=MatchConfig(top_k=0)))


numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=1e-3, max_value=1.0)


@settings(max_examples=40, deadline=None)
@given(threshold=st.none() | numbers, score=st.none() | numbers, stride=st.integers(1, 99))
def test_a_configuration_as_plain_data_loads_back_the_same(
    threshold: float | None, score: float | None, stride: int
) -> None:
    data = {
        **with_camera(stride=stride),
        "match": {"threshold": threshold},
        "detect": {"score": score},
    }
    config = from_mapping(data)
    assert (config.match.threshold, config.detect.score) == (threshold, score)
    assert from_mapping(dataclasses.asdict(config)) == config


def test_a_range_says_itself_in_words() -> None:
    assert str(Range(least=1)) == "1 or more" and 1 in Range(least=1)
    assert str(Range(above=0)) == "above 0" and 0 not in Range(above=0)
    assert str(Range(0, 1)) == "0 to 1" and 1 in Range(0, 1) and 1.01 not in Range(0, 1)


def test_one_thing_sets_the_threshold():
    def read(**match: float) -> Config:
        return from_mapping({**with_camera(), "match": match})

    assert read(target_fpir=0.001).match.target_fpir == 0.001
    assert read(alerts_per_week=1, unknown_tracks_per_week=900).match.alerts_per_week == 1
    with pytest.raises(ConfigError, match=r"one of match\.threshold and match\.target_fpir"):
        read(threshold=0.4, target_fpir=0.01)
    with pytest.raises(ConfigError, match=r"one of match\.target_fpir and match\.alerts_per_week"):
        read(target_fpir=0.01, alerts_per_week=1)
    with pytest.raises(ConfigError, match=r"goes with match\.alerts_per_week, which is not set"):
        read(unknown_tracks_per_week=900)
    with pytest.raises(
        ConfigError, match=r"target_fpir must be above 0 and at most 0\.5, got 0\.0"
    ):
        read(target_fpir=0.0)
