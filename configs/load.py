"""Reading a configuration: YAML to the dataclasses of `schema`, every mistake named by its key.

A message says the key, what was expected and what was got. Strings that came from the environment
are never shown: they are passwords more often than not.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import os
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .. import ConfigError
from .schema import CameraConfig, Config, MatchConfig, Range
from .topology import check_topology

CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 takes 1e-3 for a string
_STEP = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)((?:\[\d+\])*)")

Built = TypeVar("Built")


def load(path: str | Path) -> Config:
    """Read a YAML configuration file.

    `${NAME}` in a string is replaced by the environment variable NAME. Raises ConfigError, with the
    file and the key or line, for a file that cannot be read, is not YAML, or says something else
    than `schema` has room for.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file at {path}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a YAML file: byte {error.start} is no UTF-8") from error
    try:
        return from_mapping(_parse(text))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def preset(name: str) -> Config:
    """Read a configuration that ships with the package, by its name without .yaml."""
    folder = importlib.resources.files(__package__) / "presets"
    with importlib.resources.as_file(folder) as presets:
        names = sorted(path.stem for path in presets.glob("*.yaml"))
        if name not in names:
            raise ConfigError(f"no preset is called {name!r}; there are {', '.join(names)}")
        return load(presets / f"{name}.yaml")


def from_mapping(data: object) -> Config:
    """Build and check a configuration from plain data of the same shape; raises ConfigError."""
    config = _build(Config, data, "")
    check(config)
    return config


def read_dataclass(kind: type[Built], text: str) -> Built:
    """Build another documented dataclass from YAML text, every number in its `Range`.

    Raises ConfigError as `load` does; the text has no file name here, so the caller adds it.
    """
    built = _build(kind, _parse(text), "")
    for key, annotation, value in _leaves(kind, built, ""):
        _check_number(key, annotation, value)
    return built


def override(config: Config, assignment: str) -> Config:
    """A copy with one value changed, as in "match.threshold=0.4" or "cameras[0].stride=2".

    The value is read as YAML, and as it stands for a key that takes text. Raises ConfigError.
    """
    key, equals, text = assignment.partition("=")
    key = key.strip()
    steps = [_STEP.fullmatch(step) for step in key.split(".")]
    if not equals or None in steps:
        raise ConfigError(f"expected KEY=VALUE like match.threshold=0.4, got {_shown(key)}")
    path: list[str | int] = []
    for step in filter(None, steps):
        path += [step[1], *(int(index) for index in re.findall(r"\d+", step[2]))]
    changed: Config = _replaced(Config, config, path, text, "")
    check(changed)
    return changed


def check(config: Config) -> None:
    """Raise ConfigError unless every value is in its range and fits the others."""
    for key, annotation, value in _leaves(Config, config, ""):
        _check_number(key, annotation, value)
    if not config.cameras:
        raise ConfigError("cameras must name at least one source, got none")
    seen: dict[str, int] = {}
    for index, camera in enumerate(config.cameras):
        _check_camera(f"cameras[{index}]", camera)
        if camera.name in seen:
            raise ConfigError(
                f"cameras[{index}].name is {camera.name!r} like cameras[{seen[camera.name]}].name: "
                "give each camera its own"
            )
        seen[camera.name] = index
    _check_apart(config)
    _check_promise(config.match)
    check_topology(config)


def _check_camera(key: str, camera: CameraConfig) -> None:
    if not CAMERA_NAME.fullmatch(camera.name):
        raise ConfigError(
            f"{key}.name must be letters, digits, dot, dash and underscore, starting with a letter "
            f"or digit, got {_shown(camera.name)}"
        )
    if not camera.url.strip():
        raise ConfigError(f"{key}.url is empty: give an address, a file or a folder")
    x0, y0, x1, y1 = camera.region
    if not (x0 < x1 and y0 < y1):
        raise ConfigError(
            f"{key}.region must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, "
            f"got {list(camera.region)}"
        )
    if camera.retry_first_seconds > camera.retry_most_seconds:
        raise ConfigError(
            f"{key}.retry_first_seconds must not exceed retry_most_seconds "
            f"({camera.retry_most_seconds:g}), got {camera.retry_first_seconds:g}"
        )


def _check_apart(config: Config) -> None:
    names = [camera.name for camera in config.cameras]
    for index, group in enumerate(config.match.apart):
        key = f"match.apart[{index}]"
        if len(set(group)) < 2 or len(set(group)) < len(group):
            raise ConfigError(f"{key} must name two cameras or more, each once, got {list(group)}")
        for name in group:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
                raise ConfigError(f"{key} names {_shown(name)}, which is no camera; {hint}")


def _check_promise(match: MatchConfig) -> None:
    given = [
        key
        for key in ("threshold", "target_fpir", "alerts_per_week")
        if getattr(match, key) is not None
    ]
    if len(given) > 1:
        raise ConfigError(
            f"expected one of match.{' and match.'.join(given)}: each of them sets the threshold"
        )
    if match.unknown_tracks_per_week is not None and match.alerts_per_week is None:
        raise ConfigError(
            "match.unknown_tracks_per_week goes with match.alerts_per_week, which is not set"
        )


def _leaves(annotation: Any, value: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Every plain value below `value` with its key and type."""
    if dataclasses.is_dataclass(value):
        for name, hint in get_type_hints(type(value), include_extras=True).items():
            yield from _leaves(hint, getattr(value, name), _join(key, name))
    elif isinstance(value, tuple):
        for index, (hint, item) in enumerate(zip(_items(annotation, value), value, strict=True)):
            yield from _leaves(hint, item, f"{key}[{index}]")
    else:
        yield key, annotation, value


def _check_number(key: str, annotation: Any, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}")
    for limits in limits_of(annotation):
        if value not in limits:
            raise ConfigError(f"{key} must be {limits}, got {value}")


def limits_of(annotation: Any) -> list[Range]:
    """The ranges written into a field's type."""
    if get_origin(annotation) is Annotated:
        return [extra for extra in get_args(annotation)[1:] if isinstance(extra, Range)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [limits for part in get_args(annotation) for limits in limits_of(part)]
    return []


def _items(annotation: Any, value: tuple[Any, ...]) -> tuple[Any, ...]:
    """The type of each item of a tuple."""
    kinds = get_args(annotation)
    return (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds


def _build(kind: type[Built], data: object, key: str) -> Built:
    """A dataclass from a mapping."""
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{key or 'the configuration'} must be a mapping of {', '.join(_names(kind))}, "
            f"got {_shown(data)}"
        )
    hints = get_type_hints(kind, include_extras=True)
    for name in data:
        _require_known(kind, name, key)
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    for field in fields:
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in data:
            raise ConfigError(f"{_join(key, field.name)} is missing")
    return kind(**{n: _convert(hints[n], v, _join(key, n)) for n, v in data.items()})


def _convert(annotation: Any, value: object, key: str, also: str = "") -> Any:
    """A value as the type that its field declares. `also` names what else the field takes."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _convert(parts[0], value, key, also)
    if origin in (Union, types.UnionType):
        (other,) = (part for part in parts if part is not type(None))
        return None if value is None else _convert(other, value, key, " or null")
    if dataclasses.is_dataclass(annotation):
        return _build(annotation, value, key)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_list(annotation, value, key)
    filled = _fill(value, key) if isinstance(value, str) else value
    if origin is Literal:
        if filled in parts and isinstance(filled, str):
            return filled
        raise _mismatch(key, f"one of {', '.join(map(str, parts))}", value)
    if annotation is str and isinstance(filled, str):
        return filled
    if annotation is bool and isinstance(filled, bool):
        return filled
    if annotation in (int, float) and isinstance(filled, int) and not isinstance(filled, bool):
        return annotation(filled)
    if annotation is float and isinstance(filled, float):
        return filled
    if annotation is float and isinstance(filled, str) and _EXPONENT.fullmatch(filled):
        return float(filled)
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    hint = ": put it in quotes" if annotation is str and isinstance(value, int | float) else ""
    raise _mismatch(key, words[annotation] + also, value, hint)


def _convert_list(annotation: Any, value: object, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(key, "a list", value)
    hints = _items(annotation, tuple(value))
    if len(hints) != len(value):
        raise ConfigError(f"{key} must be a list of {len(hints)}, got {len(value)}")
    pairs = enumerate(zip(hints, value, strict=True))
    return tuple(_convert(hint, item, f"{key}[{index}]") for index, (hint, item) in pairs)


def _replaced(annotation: Any, value: Any, path: list[str | int], text: str, key: str) -> Any:
    """`value` with the part at `path` read from `text`."""
    if not path:
        return _convert(annotation, text if annotation is str else _parse(text), key)
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            raise ConfigError(f"{key} has no keys below it, got {_join(key, step)}")
        _require_known(type(value), step, key)
        hint = get_type_hints(type(value), include_extras=True)[step]
        part = _replaced(hint, getattr(value, step), rest, text, _join(key, step))
        return dataclasses.replace(value, **{step: part})
    if not isinstance(value, tuple) or step >= len(value):
        count = len(value) if isinstance(value, tuple) else 0
        raise ConfigError(f"{key}[{step}] does not exist: {key} has {count} items")
    hint = _items(annotation, value)[step]
    part = _replaced(hint, value[step], rest, text, f"{key}[{step}]")
    return (*value[:step], part, *value[step + 1 :])


def _require_known(kind: type, name: object, key: str) -> None:
    names = _names(kind)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        where = _join(key, _key_shown(name))
        raise ConfigError(
            f"unknown key {where}, did you mean {near[0]}?"
            if near
            else f"unknown key {where}; {key or 'the configuration'} has {', '.join(names)}"
        )


def _fill(text: str, key: str) -> str:
    """`text` with ${NAME} replaced from the environment."""

    def value(found: re.Match[str]) -> str:
        try:
            return os.environ[found[1]]
        except KeyError:
            raise ConfigError(
                f"{key} needs the environment variable {found[1]}, which is not set"
            ) from None

    return _VARIABLE.sub(value, text)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if name.value in seen:
                    twice = f"the key {_key_shown(name.value)} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, twice, name.start_mark)
                seen.add(name.value)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, which may hold a password.
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not YAML: {type(error).__name__}") from error


def _mismatch(key: str, expected: str, value: object, hint: str = "") -> ConfigError:
    return ConfigError(f"{key} must be {expected}, got {_shown(value)}{hint}")


def _shown(value: object) -> str:
    """A value for an error message, without what may be a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        if _VARIABLE.search(value):
            return "text from the environment"
        # An address in the wrong place may carry a password.
        return "text" if "://" in value or "@" in value else repr(value[:40])
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _key_shown(name: object) -> str:
    """A key as it is written, unless it is a value in the wrong place."""
    return str(name) if re.fullmatch(r"[\w.-]{1,40}", str(name)) else _shown(name)


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
